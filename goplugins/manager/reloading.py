"""The configuration of one manager: loaded, reloaded, and followed as its file or plugin directories change."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.config import ManagerConfig, ReloadOptions
from goplugins.config.groups import spread
from goplugins.config.manager import load
from goplugins.config.schema import as_mappings
from goplugins.enums import PluginStatus, ReloadStrategy
from goplugins.errors import ConfigError, InvalidArgumentError, ManagerClosedError, PluginError, ReloadError
from goplugins.manager.config_watch import Watch
from goplugins.manager.lifecycle import Lifecycle
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import publish
from goplugins.observability.events import ReloadFinished
from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import create_lock
from goplugins.runtime.text import counted
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.watched_files import WatchedFiles

if TYPE_CHECKING:
    # Modules that only reloads need are imported by the first reload.
    from goplugins.discovery import Discovery, DiscoveryReport
    from goplugins.manager.reload_plan import ReloadPlan
    from goplugins.manager.reload_steps import ReloadRun
    from goplugins.observability.reload_report import ReloadReport

logger = logging.getLogger("goplugins.manager")

_LAST_RELOAD = "last reload"
"""The name of a failed reload in the overall health. No plugin can have it: it has a space."""

_SCAN_INTERVAL = 5.0
"""Seconds between two checks of the plugin directories."""

_SETTLE = 0.5
"""Seconds that plugin directories must stay the same before they are scanned: files may change one after the other."""

_MOST_WATCHES = 8
"""Watches that check their files, or reload, at the same time."""

ConfigSource = ManagerConfig | Mapping[str, Any] | str | os.PathLike[str]


class ExclusiveSection:
    """One thread at a time, for as long as a reload takes: unlike a lock's owner, it may wait and call plugins."""

    def __init__(self) -> None:
        self._lock = create_lock(self)
        self._owner: int | None = None  # of no meaning while the lock is free, as it is in a forked child

    @contextlib.contextmanager
    def enter(self, timeout: float) -> Iterator[None]:
        """Waits for the section at most ``timeout`` seconds.

        Raises:
            ReloadError: the time was not enough, or this thread is inside already.
        """
        lock, thread = self._lock, threading.get_ident()
        if lock.locked() and self._owner == thread:
            raise ReloadError("a plugin that is being loaded can't load or reload the configuration itself")
        if not lock.acquire(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX))):
            raise ReloadError(f"another reload is under way, and did not end within {timeout:g} s")
        try:
            self._owner = thread
            yield
        finally:
            self._owner = None
            lock.release()


@attrs.frozen
class Loaded:
    """A configuration that was read and found valid.

    Attributes:
        config: resolved, with the plugins that were discovered.
        discovery: scans its plugin directories; None if discovery is off.
        report: what the scan found.
    """

    config: ManagerConfig
    discovery: Discovery | None = None
    report: DiscoveryReport | None = None


class ConfigLoader:
    """Loads and reloads the configuration of one manager, one at a time.

    Args:
        lifecycle: the manager's plugins.
        clock: measures time.

    Attributes:
        config: the running configuration, resolved; None before the first.
        loaded: how often a configuration was loaded, and the source of the last one.
    """

    def __init__(self, lifecycle: Lifecycle, clock: Clock) -> None:
        self.config: ManagerConfig | None = None
        self.loaded: tuple[int, ConfigSource | None] = (0, None)
        self._lifecycle = lifecycle
        self._clock = clock
        self._section = ExclusiveSection()
        self._pending: tuple[int, ConfigSource] | None = None
        self._discovered: DiscoveryReport | None = None  # of the running configuration
        self._directory_watch: Watch | None = None
        self._watches: dict[int, Watch] = {}
        self._watch_pool = WorkerPool("goplugins-watch", _MOST_WATCHES, _MOST_WATCHES)
        self._schedule = partial(lifecycle.maintenance.every, submit=self._watch_pool.submit)

    # --- loading ---------------------------------------------------------------------------------------------------

    def load(self, source: ConfigSource) -> None:
        """See :meth:`goplugins.Manager.load_from_config`."""
        if not self._load_first(source):
            fix = "make another manager, or change this one's configuration with reload_config"
            raise ConfigError("this manager has loaded its configuration already", fix=fix)

    def _load_first(self, source: ConfigSource) -> bool:
        """Loads the configuration; False, doing nothing, if one is loaded already."""
        with self._section.enter(math.inf):
            self._check_open()
            if self.config is not None:
                return False
            self._install(self._read(source), source)
            return True

    def load_later(self, loads: int, source: ConfigSource | None) -> None:
        """Leaves the loading of an unpickled manager's configuration to its first use.

        An error then reaches the caller, and does not break the worker process that unpickles.
        """
        self.loaded = (loads, source)
        self._pending = None if source is None else (loads, source)

    def load_pending(self) -> None:
        """Loads what :meth:`load_later` has left, once. Threads that come meanwhile wait.

        Raises:
            ConfigError: to every caller, until the configuration can be loaded.
        """
        if self._pending is None:
            return
        with self._section.enter(math.inf):
            if self._pending is not None:
                loaded = self._pending
                self._install(self._read(loaded[1]), loaded[1])
                self.loaded = loaded
                self._pending = None

    def _install(self, loaded: Loaded, source: ConfigSource) -> None:
        """Makes a first configuration the running one."""
        plugins = self._lifecycle.build_and_add(loaded.config)
        self._accept(loaded, source)  # before the plugins are announced: it attaches those who listen
        self._lifecycle.watch(plugins)
        self._lifecycle.maintenance.check_host()  # before a call in a server's master can do harm
        logger.info("loaded %s from %s", counted(len(plugins), "plugin"), _name_of(source))

    def _accept(self, loaded: Loaded, source: ConfigSource) -> None:
        """Applies all but the plugins of a configuration, which is the running one from now on."""
        self.config = loaded.config
        self._lifecycle.observers.apply(loaded.config, self._lifecycle.reports)
        self.loaded = (self.loaded[0] + 1, snapshot_of(source))
        self._discovered = loaded.report
        self._watch_directories(loaded, source)

    def _read(self, source: ConfigSource) -> Loaded:
        from_code = [name for name, plugin in self._lifecycle.registry.plugins.items() if not plugin.from_config]
        check = self._lifecycle.builder.problems
        scans: list[tuple[Discovery, DiscoveryReport]] = []

        def discover(config: ManagerConfig) -> ManagerConfig:
            if not config.discovery.enabled:
                return config
            from goplugins.discovery import Discovery

            discovery = Discovery(config, registered=from_code, check=check, before=self._discovered)
            report = discovery.scan()
            report.log()
            scans.append((discovery, report))
            return report.added_to(config)

        config = spread(load(source, check_files=True, further=check, registered=from_code, extend=discover).resolved)
        return Loaded(config, *scans[-1]) if scans else Loaded(config)

    def _check_open(self) -> None:
        if self._lifecycle.registry.closed:
            raise ManagerClosedError("the manager was shut down")

    # --- reloading -------------------------------------------------------------------------------------------------

    def reload(self, source: ConfigSource, options: ReloadOptions, *, dry_run: bool = False) -> ReloadReport:
        """See :meth:`goplugins.Manager.reload_config`."""
        from goplugins.manager.reload_steps import ReloadRun
        from goplugins.observability.reload_report import ReloadReport

        self._check_open()
        if dry_run:
            plan = self._plan(self._read(source).config, options)
            running = self._lifecycle.registry.plugins
            return ReloadReport(options.strategy, plan.outcomes(running), plan.diff, dry_run=True)
        started = self._clock.monotonic()
        end = started + options.graceful_timeout
        run: ReloadRun | None = None
        try:
            with self._section.enter(options.graceful_timeout), self._failure_in_health(source, started):
                loaded = self._read(source)
                plan = self._plan(loaded.config, options)
                if self.config is None:
                    self._install(loaded, source)
                else:
                    run = ReloadRun(self._lifecycle, plan, options, self._clock, end)
                    run.execute()
                    self._accept(loaded, source)
        finally:
            # Outside the section: a call that is drained may itself wait for a reload.
            drain_end = min(self._clock.monotonic() + options.drain_timeout, end)
            drained = {} if run is None else self._lifecycle.drain_and_close(run.leaving, drain_end)
        found = plan.outcomes(self._lifecycle.registry.plugins)
        outcomes = [attrs.evolve(each, **drained.get(each.name, {})) for each in found]
        elapsed = self._clock.monotonic() - started
        report = ReloadReport(options.strategy, tuple(outcomes), plan.diff, elapsed)
        logger.info("reloaded from %s: %s", _name_of(source), "; ".join(map(str.strip, str(report).splitlines())))
        self._announce(source, elapsed, report, None)
        return report

    def _plan(self, config: ManagerConfig, options: ReloadOptions) -> ReloadPlan:
        from goplugins.manager.reload_plan import make_plan

        return make_plan(config, self.config, self._lifecycle.registry.plugins, options.strategy)

    def _announce(
        self, source: ConfigSource, elapsed: float, report: ReloadReport | None, error: PluginError | None
    ) -> None:
        changes = self._lifecycle.events.changes
        if changes:
            publish(changes, ReloadFinished(self._clock.time(), _name_of(source), elapsed, report, error))

    @contextlib.contextmanager
    def _failure_in_health(self, source: ConfigSource, started: float) -> Iterator[None]:
        """Logs a failure, and shows it in the overall health until the next successful reload."""
        monitor = self._lifecycle.maintenance.monitor
        try:
            yield
        except ManagerClosedError:
            raise
        except PluginError as error:
            for problem in error.problems if isinstance(error, ConfigError) else (error,):
                logger.error(  # noqa: TRY400 - a traceback would hide the problems
                    "reload from %s failed, the running configuration stays: %s", _name_of(source), problem
                )
            from goplugins.observability.reload_report import on_one_line

            message = f"failed: {on_one_line(error)}"
            failed = HealthStatus(PluginStatus.DEGRADED, message, last_check=self._clock.time())
            monitor.update_status(_LAST_RELOAD, failed)
            self._announce(source, self._clock.monotonic() - started, None, error)
            raise
        else:
            monitor.remove_checker(_LAST_RELOAD)

    # --- watching --------------------------------------------------------------------------------------------------

    def watch(self, path: str | os.PathLike[str], options: ReloadOptions, *, interval: float, on_signal: bool) -> Watch:
        """See :meth:`goplugins.Manager.watch`."""
        name = os.fspath(path)
        if self.config is None:
            self._load_first(name)  # waits for another thread's load
        watch = Watch(
            name,
            lambda: self.reload(name, options),
            self._clock,
            self._schedule,
            interval=interval,
            on_signal=on_signal,
            on_close=self._watch_closed,
        )
        self._watches[id(watch)] = watch
        if self._lifecycle.registry.closed:
            watch.close()
            raise ManagerClosedError("the manager was shut down")
        return watch

    def _watch_directories(self, loaded: Loaded, source: ConfigSource) -> None:
        """With ``discovery.watch_mode``, reloads ``source`` when its plugin directories change."""
        before, self._directory_watch = self._directory_watch, None
        if loaded.config.discovery.watch_mode and loaded.discovery is not None and loaded.report is not None:
            self._directory_watch = watch = Watch(
                _name_of(source),
                lambda: self.reload(source, ReloadOptions()),
                self._clock,
                self._schedule,
                interval=_SCAN_INTERVAL,
                on_close=self._watch_closed,
                files=WatchedFiles(
                    loaded.discovery.signature, self._clock, settle=_SETTLE, known=loaded.report.signature
                ),
            )
            self._watches[id(watch)] = watch
        if before is not None:
            before.close()

    def _watch_closed(self, watch: Watch) -> None:
        self._watches.pop(id(watch), None)

    # --- end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes all watches, and drops a configuration that was not needed."""
        self._pending = None
        for watch in list(self._watches.values()):
            watch.close()
        self._watch_pool.shutdown(wait=False)


def reload_options(strategy: ReloadStrategy | str | None, options: object) -> ReloadOptions:
    """The options, or the defaults, with that strategy, validated.

    Raises:
        ConfigError: a value out of range.
        InvalidArgumentError: ``options`` is of another type.
    """
    found = ReloadOptions() if options is None else options
    if not isinstance(found, ReloadOptions):
        raise InvalidArgumentError(f"options: expected ReloadOptions, got a {type(found).__name__}")
    if strategy is not None:
        found = attrs.evolve(found, strategy=strategy)
    found.validate()
    return found


def snapshot_of(source: ConfigSource) -> ConfigSource:
    """The source as it was when loaded, independent of the working directory and of later changes to a mapping."""
    if isinstance(source, ManagerConfig):
        return source
    if isinstance(source, Mapping):
        return as_mappings(source)  # type: ignore[no-any-return]
    return os.path.abspath(os.fspath(source))


def _name_of(source: ConfigSource) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else "configuration"
