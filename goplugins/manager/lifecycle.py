"""What comes and goes: loading, registering and retiring plugins, and the end of it all."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

import attrs

from goplugins.config import LoadBalancerConfig, ManagerConfig, PluginConfig, ReloadOptions
from goplugins.config.groups import GroupConfig, spread
from goplugins.config.loading import load_resolved
from goplugins.enums import PluginStatus, TransportType
from goplugins.errors import ConfigError, ManagerClosedError, PluginError
from goplugins.manager.builder import Builder
from goplugins.manager.config_watch import Watch
from goplugins.manager.maintenance import Maintenance
from goplugins.manager.pickling import kept
from goplugins.manager.reload_plan import plan_of
from goplugins.manager.reload_steps import Turn, Work
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import ManagerMetrics, PluginMetrics
from goplugins.models.plugin import Plugin
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import hand_out
from goplugins.observability.events import PluginAdded, PluginRemoved, ReloadFinished
from goplugins.observability.reload_report import ReloadReport, on_one_line
from goplugins.observability.report import ObservabilityReport
from goplugins.observability.setup import Observers
from goplugins.observability.spans import call_attributes, peer_attributes
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import FORK_MARK, register_forkable, renew_after_fork

if TYPE_CHECKING:
    from goplugins.discovery import Discovery, DiscoveryReport

__all__ = ["ConfigSource", "Lifecycle"]

logger = logging.getLogger("goplugins.manager")

_RELOAD = "last reload"
"""What a failed reload is called in the overall health. No plugin can have this name: it has a space."""

_SCAN_INTERVAL = 5.0
"""Seconds between two looks for what is new to discover."""

_MOMENT = 0.05
"""Seconds in which a call that was woken goes to the successor of its plugin."""

ConfigSource = ManagerConfig | Mapping[str, Any] | str | os.PathLike[str]


class Lifecycle:
    """The plugins of one manager, from their configuration to their last call.

    Args:
        clock: measures and waits.
        rng: where jitter comes from.
        resolve: has a function run on a thread where a name's resolution can hang without harm.

    Attributes:
        registry: who answers to which name.
        builder: makes plugins of configuration.
        maintenance: looks after them.
        loaded: how often a configuration was loaded, and the last one as it was given.
        events: carries what happens.
    """

    def __init__(self, clock: Clock, rng: random.Random, resolve: Callable[..., Future[Any]]) -> None:
        self._clock = clock
        self._rng = rng
        self._made_at = clock.monotonic()
        self.registry = Registry()
        self.builder = Builder(clock=clock, rng=rng, resolve=resolve)
        self.events = self.builder.events
        self.maintenance = Maintenance(self.registry, clock, self.events)
        self.builder.house = self.maintenance
        self.observers = Observers(self.events, self, clock, rng)
        self.maintenance.on_start = self._start_observers
        self._config: ManagerConfig | None = None  # resolved
        self._removed = PluginMetrics()
        self._replaced: dict[str, PluginMetrics] = {}  # counts of the predecessors of plugins that are there
        self._lock = threading.RLock()
        self._turn = Turn()
        self._loading = False
        self.loaded: tuple[int, ConfigSource | None] = (0, None)
        self._watches: dict[int, Watch] = {}
        self._scan: tuple[Discovery, DiscoveryReport] | None = None
        self._discovered: DiscoveryReport | None = None  # what is at work of it
        self._scan_watch: Watch | None = None
        self._examined = False
        register_forkable(self)

    def entered(self) -> Self:
        """Itself, for all that is not a call: fit for this process, and with its configuration if one is pending."""
        if not FORK_MARK[0]:  # forked by something that does not tell Python
            renew_after_fork()
        if self.registry.load is not None:
            self.registry.load()
        return self

    @property
    def _defaults(self) -> ManagerConfig:
        return self._config or ManagerConfig()

    # --- loading ---------------------------------------------------------------------------------------------------

    def load(self, config: ConfigSource) -> None:
        """See :meth:`goplugins.Manager.load_from_config`."""
        with self._lock:
            if self.registry.closed:
                raise ManagerClosedError("the manager was shut down")
            if self._config is not None or self._loading:
                fix = "make another manager, or change this one's configuration with reload_config"
                raise ConfigError("this manager has loaded its configuration already", fix=fix)
            self._loading = True
        try:
            with self._turn.take(math.inf):
                self._install(self._read(config), _source(config))
                self._follow_directories(config)
        finally:
            self._loading = False

    def _install(self, resolved: ManagerConfig, source: str) -> None:
        """The first configuration: nothing runs that could be harmed, so nobody is asked whether he is there."""
        built: list[GuardedPlugin] = []
        try:
            built = self.builder.build_all(resolved.plugins)
            self.registry.add(built, (plugin.name for plugin in resolved.plugins if not plugin.enabled))
        except BaseException:
            for plugin in built:
                plugin.drain_and_close(0.0)
            raise
        self._config = resolved
        self.observers.apply(resolved)
        for plugin in built:
            self.maintenance.watch(plugin)
            self.tell_added(plugin)
        _set_log_level(resolved.log_level)
        logger.info("loaded %d plugins from %s", len(built), source)

    def _read(self, config: ConfigSource) -> ManagerConfig:
        in_code = [name for name, plugin in self.registry.plugins.items() if not plugin.from_config]
        self._scan = None

        def discover(found: ManagerConfig) -> ManagerConfig:
            if not found.discovery.enabled:
                return found
            from goplugins.discovery import discovered

            check, told, before = self.builder.problems, self._note_scan, self._discovered
            return discovered(found, registered=in_code, check=check, told=told, before=before)

        further = self.builder.problems
        return spread(load_resolved(config, further=further, registered=in_code, extend=discover))

    def _note_scan(self, discovery: Discovery, report: DiscoveryReport) -> None:
        self._scan = (discovery, report)

    def _follow_directories(self, source: ConfigSource) -> None:
        """With ``discovery.watch_mode``, reloads ``source`` when there is something new to discover."""
        self.loaded = (self.loaded[0] + 1, kept(source))
        scan, before = self._scan, self._scan_watch
        self._discovered = None if scan is None else scan[1]
        wanted = self._config is not None and self._config.discovery.watch_mode and scan is not None
        self._scan_watch = None
        if wanted and scan is not None:
            from goplugins.discovery import DirectoryWatch

            self._scan_watch = Watch(
                _source(source),
                lambda: self.reload(source, ReloadOptions()),
                self._clock,
                self.maintenance.every,
                interval=_SCAN_INTERVAL,
                closed=self._unfollow,
                following=DirectoryWatch(scan[0], self._clock, known=scan[1].signature),
            )
            self._watches[id(self._scan_watch)] = self._scan_watch
        if before is not None:
            before.close()

    # --- reloading -------------------------------------------------------------------------------------------------

    def reload(self, config: ConfigSource, options: ReloadOptions, *, dry_run: bool = False) -> ReloadReport:
        """See :meth:`goplugins.Manager.reload_config`."""
        if self.registry.closed:
            raise ManagerClosedError("the manager was shut down")
        if dry_run:
            plan = plan_of(self._read(config), self._config, self.registry.plugins, options.strategy)
            return ReloadReport(options.strategy, plan.outcomes(), plan.diff, dry_run=True)
        started = self._clock.monotonic()
        work: Work | None = None
        try:
            with self._turn.take(options.graceful_timeout), self._noting_failure(config, started):
                resolved = self._read(config)
                plan = plan_of(resolved, self._config, self.registry.plugins, options.strategy)
                if self._config is None:
                    self._install(resolved, _source(config))
                else:
                    work = Work(self, plan, options, self._clock, started + options.graceful_timeout)
                    work.run()
                    _set_log_level(resolved.log_level, self._config.log_level)
                    self._config = resolved
                    self.observers.apply(resolved)
                self._follow_directories(config)
        finally:
            # Not while others wait for their turn: a call that is waited for may want to reload, too.
            drained = {} if work is None else self._drain_and_close(work.leaving, options, started)
        outcomes = [attrs.evolve(each, **drained.get(each.name, {})) for each in plan.outcomes()]
        elapsed = self._clock.monotonic() - started
        report = ReloadReport(options.strategy, tuple(outcomes), plan.diff, elapsed)
        logger.info("reloaded from %s: %s", _source(config), "; ".join(map(str.strip, str(report).splitlines())))
        self._tell_reload(config, elapsed, report, None)
        return report

    def _tell_reload(
        self, config: ConfigSource, elapsed: float, report: ReloadReport | None, error: PluginError | None
    ) -> None:
        if self.events.changes:
            hand_out(self.events.changes, ReloadFinished(self._clock.time(), _source(config), elapsed, report, error))

    @contextlib.contextmanager
    def _noting_failure(self, config: ConfigSource, started: float) -> Iterator[None]:
        """Shows in the overall health that what runs is not what was wished for, until the next good reload."""
        monitor = self.maintenance.monitor
        try:
            yield
        except ManagerClosedError:
            raise
        except PluginError as error:
            for problem in error.problems if isinstance(error, ConfigError) else (error,):
                logger.error("reload from %s failed, the running configuration stays: %s", _source(config), problem)  # noqa: TRY400 - expected: a traceback would hide the problems
            failed = HealthStatus(PluginStatus.DEGRADED, f"failed: {on_one_line(error)}", last_check=self._clock.time())
            monitor.update_status(_RELOAD, failed)
            self._tell_reload(config, self._clock.monotonic() - started, None, error)
            raise
        else:
            monitor.remove_checker(_RELOAD)

    def _drain_and_close(
        self, leaving: Sequence[GuardedPlugin], options: ReloadOptions, started: float
    ) -> dict[str, dict[str, Any]]:
        """Drains and closes who was replaced or removed; how many calls of each were waited for, and how long."""
        now = self._clock.monotonic
        begun = now()
        end = min(begun + options.drain_timeout, started + options.graceful_timeout)
        for plugin in leaving:
            plugin.superseded = plugin.name in self.registry.plugins
        under_way = {plugin: plugin.stop_accepting() for plugin in leaving}
        drained: dict[str, dict[str, Any]] = {}
        late: dict[GuardedPlugin, int] = {}
        try:
            # All are drained before any is closed: a call that was admitted may still need another plugin.
            for plugin, count in under_way.items():
                late[plugin] = 0 if plugin.drain(max(0.0, end - now())) else plugin.tracker.in_flight
                if count:
                    spent = max(0, count - late[plugin])
                    drained[plugin.name] = {"drained": spent, "drain_time": now() - begun, "left_behind": late[plugin]}
        finally:
            for plugin in leaving:
                plugin.reject_calls("it was replaced")
            for plugin in leaving:
                # Who waited for a place or a token finds the successor now, and is not left behind.
                if late.get(plugin):
                    plugin.tracker.drain(_MOMENT, self._clock)
                    drained.get(plugin.name, {})["left_behind"] = max(0, late[plugin] - plugin.tracker.transferred)
                self._remove(plugin)
        return drained

    def follow(
        self, path: str | os.PathLike[str], options: ReloadOptions, *, interval: float, on_signal: bool
    ) -> Watch:
        """See :meth:`goplugins.Manager.watch`."""
        name = os.fspath(path)
        if self._config is None:
            self.load(name)
        watch = Watch(
            name,
            lambda: self.reload(name, options),
            self._clock,
            self.maintenance.every,
            interval=interval,
            on_signal=on_signal,
            closed=self._unfollow,
        )
        self._watches[id(watch)] = watch
        if self.registry.closed:
            watch.close()
            raise ManagerClosedError("the manager was shut down")
        return watch

    def _unfollow(self, watch: Watch) -> None:
        self._watches.pop(id(watch), None)

    def build(self, index: int, config: PluginConfig) -> GuardedPlugin:
        """One plugin of a new configuration."""
        return self.builder.build_at(index, config)

    def adapt(self, plugin: GuardedPlugin, config: PluginConfig) -> None:
        """Has a plugin go by other policies."""
        self.builder.adapt(plugin, config)

    def watch(self, plugin: GuardedPlugin, seen: HealthStatus | None) -> None:
        """Looks after a plugin from now on."""
        self.maintenance.watch(plugin, seen)

    # --- code ------------------------------------------------------------------------------------------------------

    def register(self, plugin: Plugin[Any, Any], config: PluginConfig | None, name: str | None) -> None:
        """See :meth:`goplugins.Manager.register`."""
        found = name or (config.name if config is not None else "") or plugin.info().name
        if config is not None:
            config.validate_policies(found, defaults=self._defaults)
        base = config if config is not None else PluginConfig(name=found)
        base = attrs.evolve(base, name=found, transport=base.transport or TransportType.PYTHON)
        guarded = self.builder.guard(plugin, self._defaults.resolve(base), from_config=False)
        self.registry.add([guarded])
        self.maintenance.watch(guarded)
        self.tell_added(guarded)

    def unregister(self, name: str, drain_timeout: float) -> None:
        """See :meth:`goplugins.Manager.unregister`."""
        plugin = self.registry.remove(name)
        plugin.reject_calls("it was unregistered")
        plugin.drain(drain_timeout)
        self._remove(plugin)

    def _remove(self, plugin: GuardedPlugin) -> None:
        """Closes a plugin that was removed and drained, once; its counts stay in the total."""
        with self._lock:
            if not self.registry.discard(plugin):
                return
            counts = [attrs.evolve(self.maintenance.forget(plugin), active_requests=0)]
            name = plugin.name
            if name in self._replaced:
                counts.append(self._replaced.pop(name))
            if name in self.registry.plugins:  # its successor goes on counting where it ended
                self._replaced[name] = PluginMetrics.total(counts)
            else:
                self._removed = PluginMetrics.total([self._removed, *counts])
        plugin.close()
        if self.events.changes:
            hand_out(self.events.changes, PluginRemoved(plugin.name, self._clock.time()))

    def tell_added(self, plugin: GuardedPlugin) -> None:
        """Tells that a plugin can be called from now on."""
        if self.events.changes:
            hand_out(
                self.events.changes, PluginAdded(plugin.name, self._clock.time(), plugin.endpoint, plugin.from_config)
            )

    def statuses(self) -> dict[str, HealthStatus]:
        """The health last seen of all plugins, and of the members that groups have found."""
        names = {**self.registry.plugins, **self.maintenance.members}
        return {name: self.maintenance.status_of(name) for name in names}

    def metrics(self) -> ManagerMetrics:
        """See :meth:`goplugins.Manager.metrics`."""
        with self._lock:
            counts: dict[str, list[PluginMetrics]] = {name: [count] for name, count in self._replaced.items()}
            names = self.registry.plugins
            for plugin in self.registry.all:
                counts.setdefault(plugin.name, []).append(self.maintenance.metrics_of(plugin))
            members, parted = self.maintenance.metrics_of_members()
            all_counts = (count for each in counts.values() for count in each)
            total = PluginMetrics.total([self._removed, parted, *members.values(), *all_counts])
        plugins = {name: PluginMetrics.total(counts[name]) for name in names if name in counts}
        return ManagerMetrics(**attrs.asdict(total, recurse=False), plugins={**members, **plugins})

    def explain(self, name: str) -> Explanation:
        """See :meth:`goplugins.Manager.explain`."""
        plugin = self.maintenance.members.get(name) or self.registry.get(name)
        return plugin.explain(self.maintenance.status_of(name))

    def labels_of(self, name: str) -> Mapping[str, str]:
        """The labels that a plugin's configuration gives it."""
        plugin = self.maintenance.members.get(name) or self.registry.plugins.get(name)
        return {} if plugin is None or plugin.config.labels is None else plugin.config.labels

    def describe(self, name: str) -> Mapping[str, Any]:
        """Attributes of a plugin for its spans, by the semantic conventions of OpenTelemetry."""
        plugin = self.registry.plugins.get(name)
        found: dict[str, Any] = call_attributes(name)
        if plugin is not None:
            found["goplugins.transport"] = str(plugin.config.transport)
            if plugin.config.transport is not None:
                found |= peer_attributes(TransportType(plugin.config.transport), plugin.endpoint)
        return found

    def report(self) -> ObservabilityReport:
        """See :meth:`goplugins.Manager.report`."""
        uptime = self._clock.monotonic() - self._made_at
        return ObservabilityReport.of(self.metrics(), at=self._clock.time(), uptime=uptime)

    def _start_observers(self) -> None:
        self.observers.start(self.maintenance.every)
        if not self._examined:
            self._examined = True
            from goplugins.doctor import warn_once

            warn_once([plugin.config for plugin in self.registry.plugins.values()])

    def instances(self) -> frozenset[str]:
        """Names of plugins that are instances of another one, which stands for them."""
        groups = (plugin.config for plugin in self.registry.plugins.values() if isinstance(plugin.config, GroupConfig))
        named = (
            member.name
            for group in groups
            if isinstance(group.balancer, LoadBalancerConfig)
            for member in group.balancer.members
            if member.name.startswith(f"{group.name}@")
        )
        return frozenset(named).union(self.maintenance.members)

    def close_all(self, timeout: float) -> None:
        """Refuses new calls, waits for those in flight at most ``timeout`` seconds, then closes every plugin."""
        end = self._clock.monotonic() + timeout
        for watch in list(self._watches.values()):
            watch.close()
        plugins = self.registry.close()
        for plugin in plugins:
            plugin.reject_calls("the manager was shut down")
        self.maintenance.shutdown(min(1.0, timeout))
        # All are drained before any is closed: a call that was admitted may still need another plugin.
        for plugin in plugins:
            plugin.drain(max(0.0, end - self._clock.monotonic()))
        for plugin in plugins:
            self._remove(plugin)
        self.observers.close()

    def after_fork_in_child(self) -> None:
        """Fresh locks in a child process, and chances of its own: siblings must not retry in step."""
        self._lock = threading.RLock()
        self._rng.seed()
        self._turn.after_fork_in_child()
        self._loading = False
        self.registry.after_fork_in_child()


def _source(config: ConfigSource) -> str:
    return str(config) if isinstance(config, str | os.PathLike) else "configuration"


def _set_log_level(level: str, before: str = "") -> None:
    """What the configuration says; its default only where the host has not set a level of its own."""
    root = logging.getLogger("goplugins")
    ours = bool(before) and before != level and logging.getLevelName(root.level) == before.upper()
    if ours or (level not in {before, ManagerConfig().log_level}) or root.level == logging.NOTSET:
        root.setLevel(level.upper())
