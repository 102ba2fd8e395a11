"""The facade of the package: configuration, calls, health, metrics and shutdown of plugins."""

from __future__ import annotations

import random
from collections.abc import Iterable
from os import PathLike
from typing import Any, Self, TypeVar, overload

import attrs

from goplugins.config import ManagerConfig, PluginConfig, ReloadOptions
from goplugins.enums import ReloadStrategy
from goplugins.errors import InvalidArgumentError
from goplugins.manager.call_methods import CallMethods
from goplugins.manager.config_watch import Watch
from goplugins.manager.interceptors import Interceptor, Interceptors
from goplugins.manager.lifecycle import Lifecycle, Registrable
from goplugins.manager.pickling import ManagerPickler
from goplugins.manager.plugin_control import PluginControl
from goplugins.manager.reloading import ConfigLoader, ConfigSource, reload_options
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import ManagerMetrics
from goplugins.models.plugin import Plugin
from goplugins.models.results import HealthStatus
from goplugins.observability.event_stream import Listener, Subscription
from goplugins.observability.events import Event
from goplugins.observability.reload_report import ReloadReport
from goplugins.observability.report import ObservabilityReport
from goplugins.pipeline.unguarded import UnguardedPlugin
from goplugins.runtime.call import Codec
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import FORK_MARK, renew_after_fork
from goplugins.runtime.text import counted
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.interface import PluginFactory
from goplugins.transports.json_codec import codec_for

__all__ = ["Manager"]

Req = TypeVar("Req")
Resp = TypeVar("Resp")
BoundReq = TypeVar("BoundReq")
BoundResp = TypeVar("BoundResp")


class Manager(CallMethods[Req, Resp]):
    """Calls plugins by name, with typed requests and answers.

    Args:
        request_type: the type of requests: an attrs class, dataclass, TypedDict or builtin; plain JSON if left out.
        response_type: the type of answers. Unions work as well; type checkers then see Any.
        max_workers: threads behind ``submit`` and ``map``, started when first needed.
        max_queued: submitted calls that may wait for a thread before :class:`SaturatedError`.
        clock: the source of time; for tests.
        rng: the source of jitter; for tests.
        interceptors: functions around each call, outermost first. Each takes a :class:`~goplugins.CallInfo` and a
            function ``proceed`` that makes the call, and returns the answer.

    A manager starts no thread and opens no connection before it is used, can be created at import, and is safe to
    use from any number of threads.

    >>> from goplugins import serve
    >>> @serve.plugin(name="shout")
    ... def shout(request: str) -> str:
    ...     return request.upper()
    >>> manager = Manager(str, str)
    >>> manager.register(shout)
    >>> manager.execute("shout", "hello")
    'HELLO'
    >>> manager.shutdown()
    """

    @overload
    def __init__(
        self: Manager[Any, Any],
        *,
        max_workers: int = ...,
        max_queued: int = ...,
        clock: Clock = ...,
        rng: random.Random | None = ...,
        interceptors: Iterable[Interceptor] = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        request_type: type[Req],
        response_type: type[Resp],
        *,
        max_workers: int = ...,
        max_queued: int = ...,
        clock: Clock = ...,
        rng: random.Random | None = ...,
        interceptors: Iterable[Interceptor] = ...,
    ) -> None: ...

    @overload
    def __init__(
        self: Manager[Any, Any],
        request_type: Any,
        response_type: Any,
        *,
        max_workers: int = ...,
        max_queued: int = ...,
        clock: Clock = ...,
        rng: random.Random | None = ...,
        interceptors: Iterable[Interceptor] = ...,
    ) -> None: ...

    def __init__(
        self,
        request_type: Any = attrs.NOTHING,
        response_type: Any = attrs.NOTHING,
        *,
        max_workers: int = 32,
        max_queued: int = 1024,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> None:
        if (request_type is attrs.NOTHING) != (response_type is attrs.NOTHING):
            raise InvalidArgumentError("give both request_type and response_type, or neither for plain JSON values")
        if max_workers < 1 or max_queued < 0:
            raise InvalidArgumentError("max_workers must be at least 1 and max_queued at least 0")
        self._codec: Codec | None = None if request_type is attrs.NOTHING else codec_for(request_type, response_type)
        around = Interceptors(interceptors)
        self._clock = clock
        self._call_pool = WorkerPool("goplugins-call", max_workers, max_queued)
        self._lifecycle = lifecycle = Lifecycle(
            lambda: loader.load_pending(),  # noqa: PLW0108 - the loader is made below
            self._call_pool,
            clock=clock,
            rng=rng or random.Random(),  # noqa: S311 - only jitter
            interceptors=around,
        )
        self._registry = lifecycle.registry
        self._dispatcher = lifecycle.dispatcher
        self._loader = loader = ConfigLoader(lifecycle, clock)
        types = None if request_type is attrs.NOTHING else (request_type, response_type)
        self._pickler = ManagerPickler(self, Manager, lifecycle, loader, self._call_pool, types, clock, around)

    # --- plugins ---------------------------------------------------------------------------------------------------

    def load_from_config(self, config: ConfigSource) -> None:
        """Builds all plugins of a configuration: a :class:`ManagerConfig`, a mapping, or a file's path.

        Files are JSON, TOML or YAML, by their suffix; ``${VAR}`` and ``${VAR:default}`` are replaced from the
        environment. All or nothing: with any problem, no plugin is added. A manager loads once.

        Raises:
            ConfigError: all problems, each with its path and fix.
            ManagerClosedError: after ``shutdown``.
        """
        self._ready()
        self._loader.load(config)

    def reload_config(
        self,
        config: ConfigSource,
        strategy: ReloadStrategy | str | None = None,
        options: ReloadOptions | None = None,
        *,
        dry_run: bool = False,
    ) -> ReloadReport:
        """Changes the configuration while calls are running; no call fails for it, except on removed plugins.

        All or nothing: after a failure the running configuration is unchanged, and ``overall_health()`` shows the
        failure until the next successful reload. New policies (retry, breaker, limits, health checks, ...) apply in
        place; plugins with other changes are built and health-checked, then replace the old ones, which are drained
        and closed. Plugins registered in code stay. The first reload of a manager without configuration loads it.
        Reloads run one at a time.

        Args:
            config: as for ``load_from_config``; the complete configuration, not just the changes.
            strategy: overrides that of ``options``.
            options: strategy and timeouts; the defaults when left out.
            dry_run: only report what would change.

        Returns:
            The outcome for each plugin, and the difference. ``print`` it.

        Raises:
            ConfigError: all problems, each with its path and fix.
            ReloadError: a new plugin can't be built or reached; names it and says why.
            ManagerClosedError: after ``shutdown``.
        """
        self._ready()
        return self._loader.reload(config, reload_options(strategy, options), dry_run=dry_run)

    def watch(
        self,
        path: str | PathLike[str],
        *,
        interval: float = 1.0,
        signal: bool = False,
        options: ReloadOptions | None = None,
    ) -> Watch:
        """Loads a configuration file, unless one is loaded already, and reloads it when its content changes.

        A file that can't be loaded leaves the running configuration as it is; see :class:`~goplugins.Watch`.

        Args:
            path: as for ``load_from_config``.
            interval: seconds between two checks of the file.
            signal: reload on SIGHUP as well, whether the file has changed or not. Only on the main thread.
            options: strategy and timeouts of the reloads.

        Returns:
            The watch, which ends with :meth:`Watch.close`, or with ``shutdown``.

        Raises:
            ConfigError: the first configuration can't be loaded.
            InvalidArgumentError: an interval of 0 or less, or ``signal`` on another thread.
            ManagerClosedError: after ``shutdown``.
        """
        self._ready()
        return self._loader.watch(path, reload_options(None, options), interval=interval, on_signal=signal)

    def register(self, plugin: Registrable, config: PluginConfig | None = None, *, name: str | None = None) -> None:
        """Adds a plugin created in code, with the policies of ``config`` (by default the manager's defaults).

        Requests and answers are held to their types as over a wire.

        Args:
            plugin: an object with the :class:`~goplugins.models.plugin.Plugin` methods, or an annotated function.
            config: its policies; transport and endpoint are ignored.
            name: the name for calls; by default ``config.name``, else that of ``plugin.info()``.

        Raises:
            ConfigError: a policy's value is out of range.
            DuplicatePluginNameError: the name is taken.
            InvalidArgumentError: the object lacks a method of a plugin, or the function a type.
            ManagerClosedError: after ``shutdown``.
        """
        self._ready().register(plugin, config, name, self._loader.config or ManagerConfig())

    def unregister(self, name: str, drain_timeout: float = 30.0) -> None:
        """Removes a plugin, waits at most ``drain_timeout`` seconds for its calls in flight, and closes it.

        Raises:
            PluginNotFoundError: no plugin of that name.
        """
        self._ready().unregister(name, drain_timeout)

    def register_factory(self, kind: str, factory: PluginFactory) -> None:
        """Builds plugins whose configuration has ``type: kind`` with ``factory``, also in place of a built-in one."""
        self._ready().factories.register(kind, factory)

    def get_plugin(self, name: str) -> Plugin[Req, Resp]:
        """The plugin without its policies: for inspection, not for traffic.

        Raises:
            PluginNotFoundError: no plugin of that name.
        """
        plugin = self._registry.get(name)
        if plugin.wire is plugin.plugin:
            return UnguardedPlugin(plugin, self._types())
        return plugin.plugin  # type: ignore[no-any-return]

    def list_plugins(self) -> dict[str, HealthStatus]:
        """All names with their last known health; UNKNOWN before the first health check. Calls no plugin."""
        return self._ready().reports.statuses()

    # --- health and metrics ----------------------------------------------------------------------------------------

    def health(self) -> dict[str, HealthStatus]:
        """The health of all plugins. Those with unknown health are checked now, in parallel."""
        self._ready().maintenance.check_unknown()
        return self._lifecycle.reports.statuses()

    def overall_health(self) -> HealthStatus:
        """One status for all plugins; its message names those that are not healthy.

        Instances of one plugin (``endpoints``, ``options.resolve``) count as that plugin: with one of three down it is
        DEGRADED, and so is the whole.
        """
        self._ready().maintenance.check_unknown()
        return self._lifecycle.reports.overall_health()

    def metrics(self) -> ManagerMetrics:
        """Counts since the manager was created, removed plugins included, and those of each present plugin."""
        return self._ready().reports.metrics()

    def explain(self, name: str) -> Explanation:
        """Whether a plugin would accept the next call, and why; ``print`` it.

        Raises:
            PluginNotFoundError: no plugin of that name.
        """
        return self._ready().reports.explain(name)

    def control(self, name: str) -> PluginControl:
        """Actions of operators on a plugin or group: breaker, enabling, health check.

        Raises:
            PluginNotFoundError: no plugin of that name.
        """
        return PluginControl(self._ready(), self._clock, name)

    def report(self) -> ObservabilityReport:
        """Calls, latencies and failures of each plugin; ``print`` it."""
        return self._ready().reports.report()

    def subscribe(self, listener: Listener, *kinds: type[Event], buffer: int = 10_000) -> Subscription:
        """Sends events to ``listener``: calls, attempts, breakers, health, members, plugins, reloads.

        The listener runs on a thread of its own, with one event at a time and in their order; no call waits for it.

        Args:
            listener: takes a :data:`~goplugins.Event`. Its exceptions are logged.
            kinds: classes of events to send; all if none are given.
            buffer: events that may wait for the listener; beyond that they are dropped and counted.

        Returns:
            The subscription, which ends with its ``close()``, or with ``shutdown``.
        """
        return self._ready().events.subscribe(listener, kinds, buffer=buffer)

    def shutdown(self, timeout: float = 30.0) -> None:
        """Rejects new calls, waits at most ``timeout`` seconds for those in flight, then closes everything.

        No call is aborted before the timeout. Harmless when repeated.
        """
        end = self._clock.monotonic() + timeout
        self._loader.close()
        lifecycle = self._ready()
        lifecycle.close(timeout)
        self._call_pool.shutdown(timeout=max(0.0, end - self._clock.monotonic()))
        lifecycle.events.close(max(0.0, end - self._clock.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.shutdown(0.0 if isinstance(raised[1], KeyboardInterrupt) else 30.0)  # Ctrl-C waits for no call

    def __repr__(self) -> str:
        state = "closed" if self._registry.closed else counted(len(self._registry.plugins), "plugin")
        return f"<Manager: {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return self._pickler.__reduce__()

    def _ready(self) -> Lifecycle:
        """The plugins: renewed in a forked process, and loaded if this manager was unpickled. Not on a call's way."""
        if not FORK_MARK[0]:  # forked by C code that runs no hooks of Python
            renew_after_fork()
        self._loader.load_pending()
        return self._lifecycle
