"""The facade: lifecycle and lookup. Everything that a call goes through lives behind it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from os import PathLike
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, get_args, overload

from goplugins.config import PluginConfig, ReloadOptions
from goplugins.enums import ReloadStrategy
from goplugins.errors import InvalidArgumentError
from goplugins.manager.batch import Progress, values
from goplugins.manager.bound import BoundPlugin
from goplugins.manager.config_watch import Watch
from goplugins.manager.dispatch import Caller, ContextSource
from goplugins.manager.lifecycle import ConfigSource, Lifecycle
from goplugins.manager.pickling import PickledState
from goplugins.manager.reloader import reload_options
from goplugins.models.context import ExecutionContext
from goplugins.models.explanation import Explanation
from goplugins.models.metrics import ManagerMetrics
from goplugins.models.plugin import Plugin
from goplugins.models.results import CallResult, HealthStatus
from goplugins.observability.event_stream import Listener, Subscription
from goplugins.observability.events import Event
from goplugins.observability.reload_report import ReloadReport
from goplugins.observability.report import ObservabilityReport
from goplugins.pipeline.unguarded import UnguardedPlugin
from goplugins.runtime.call import Codec
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.interface import PluginFactory
from goplugins.transports.json_codec import codec_for

__all__ = ["Manager"]

Req = TypeVar("Req")
Resp = TypeVar("Resp")
BoundReq = TypeVar("BoundReq")
BoundResp = TypeVar("BoundResp")


class Manager(Generic[Req, Resp]):
    """Calls plugins by name, with typed requests and answers.

    Args:
        request_type: what ``execute`` takes: an attrs class, dataclass, TypedDict or builtin; plain JSON if left out.
        response_type: what ``execute`` returns. Unions work as well; type checkers then see Any.
        max_workers: threads behind ``submit`` and ``map``; started when first needed.
        max_queued: submitted calls that may wait for a thread before :class:`SaturatedError`.
        clock: where time comes from; for tests.
        rng: where jitter comes from; for tests.

    A manager starts no thread and opens no connection before it is used, may be made at import, and is safe to
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
    ) -> None: ...

    def __init__(
        self,
        request_type: Any = None,
        response_type: Any = None,
        *,
        max_workers: int = 32,
        max_queued: int = 1024,
        clock: Clock = SYSTEM_CLOCK,
        rng: random.Random | None = None,
    ) -> None:
        if (request_type is None) != (response_type is None):
            raise InvalidArgumentError("give both request_type and response_type, or neither for plain JSON values")
        if max_workers < 1 or max_queued < 0:
            raise InvalidArgumentError("max_workers must be at least 1 and max_queued at least 0")
        self._codec: Codec | None = None if request_type is None else codec_for(request_type, response_type)
        self._clock = clock
        self._names = WorkerPool("goplugins-resolve", 4, 256)
        self._life = Lifecycle(clock, rng or random.Random(), self._names.submit)  # noqa: S311 - only jitter
        self._registry = self._life.registry
        self._calls = WorkerPool("goplugins-call", max_workers, max_queued)
        self._caller = Caller(self._registry, self._calls, clock)
        types = None if self._codec is None else (request_type, response_type)
        self._caller.recipe = PickledState(self, self._life, self._calls, types, clock)
        self._life.builder.forward = self._caller.forward
        self._life.observers.use_tracer = self._caller.use_tracer
        self._life.builder.registry = self._registry

    # --- plugins ---------------------------------------------------------------------------------------------------

    def load_from_config(self, config: ConfigSource) -> None:
        """Builds all plugins of a configuration: a :class:`ManagerConfig`, a mapping, or a file's path.

        Files may be JSON, TOML or YAML by their suffix; ``${VAR}`` and ``${VAR:default}`` are filled in from the
        environment. All or nothing: with any problem, no plugin is added. A manager loads once.

        Raises:
            ConfigError: with every problem found, each with its path and fix.
            ManagerClosedError: after ``shutdown``.
        """
        self._lifecycle.load(config)

    def reload_config(
        self,
        config: ConfigSource,
        strategy: ReloadStrategy | str | None = None,
        options: ReloadOptions | None = None,
        *,
        dry_run: bool = False,
    ) -> ReloadReport:
        """Changes the configuration while calls go on: none of them fails for it, save on plugins that are removed.

        All or nothing: with any failure the running configuration stays as it is, and ``overall_health()`` shows it
        until the next good reload. New policies (retry, breaker, limits, health checks, ...) are taken over in place;
        what else has changed is built and looked at before it takes over, then the old ones are drained and closed.
        Plugins registered in code are not touched. Before the first ``load_from_config`` it does the same as that.
        One reload at a time; the next one waits.

        Args:
            config: as for ``load_from_config``; all of it, not just what has changed.
            strategy: instead of that of ``options``.
            options: how; the defaults when left out.
            dry_run: only tells what would be done.

        Returns:
            What became of each plugin, and the difference. ``print`` it.

        Raises:
            ConfigError: with every problem found, each with its path and fix.
            ReloadError: a new plugin can't be made or reached; names it and says why.
            ManagerClosedError: after ``shutdown``.
        """
        return self._lifecycle.reload(config, reload_options(strategy, options), dry_run=dry_run)

    def watch(
        self,
        path: str | PathLike[str],
        *,
        interval: float = 1.0,
        signal: bool = False,
        options: ReloadOptions | None = None,
    ) -> Watch:
        """Follows a configuration file: loads it if nothing is loaded yet, and reloads when its content changes.

        A file that can't be loaded leaves the running configuration as it is; see :class:`~goplugins.Watch`.

        Args:
            path: as for ``load_from_config``.
            interval: seconds between two looks at the file.
            signal: reload on SIGHUP, too, whether the file has changed or not. Only on the main thread.
            options: how to reload.

        Returns:
            The watch, which ends with :meth:`Watch.close`, or with ``shutdown``.

        Raises:
            ConfigError: nothing was loaded yet, and the file can't be.
            InvalidArgumentError: an interval of 0 or less, or ``signal`` on another thread.
            ManagerClosedError: after ``shutdown``.
        """
        return self._lifecycle.follow(path, reload_options(None, options), interval=interval, on_signal=signal)

    def register(
        self, plugin: Plugin[Any, Any], config: PluginConfig | None = None, *, name: str | None = None
    ) -> None:
        """Adds a plugin made in code, under the policies of ``config`` (by default the manager's own defaults).

        Args:
            plugin: an object with the :class:`~goplugins.models.plugin.Plugin` methods.
            config: its policies; transport and endpoint are not looked at.
            name: what to call it by; by default ``config.name``, else what ``plugin.info()`` says.

        Raises:
            ConfigError: policies that can't be used.
            DuplicatePluginNameError: the name is taken.
            InvalidArgumentError: the object is no plugin.
            ManagerClosedError: after ``shutdown``.
        """
        self._lifecycle.register(plugin, config, name)

    def unregister(self, name: str, drain_timeout: float = 30.0) -> None:
        """Takes a plugin out, waits for its calls in flight at most ``drain_timeout`` seconds, and closes it.

        Raises:
            PluginNotFoundError: no plugin of that name.
        """
        self._lifecycle.unregister(name, drain_timeout)

    def register_factory(self, kind: str, factory: PluginFactory) -> None:
        """Has plugins whose configuration says ``type: kind`` made by ``factory``. The built-in ones are there."""
        self._lifecycle.builder.register_factory(kind, factory)

    def get_plugin(self, name: str) -> Plugin[Req, Resp]:
        """The bare plugin, outside the policies: for a look, not for traffic.

        Raises:
            PluginNotFoundError: no plugin of that name.
        """
        plugin = self._registry.get(name)
        if plugin.wire is plugin.plugin:
            return UnguardedPlugin(plugin, self._types())
        return plugin.plugin  # type: ignore[no-any-return]

    def list_plugins(self) -> dict[str, HealthStatus]:
        """All names with the health last seen; UNKNOWN where nobody has looked. Asks nobody."""
        return self._lifecycle.statuses()

    # --- calls -----------------------------------------------------------------------------------------------------

    def execute(
        self,
        name: str,
        request: Req,
        context: ExecutionContext | None = None,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Resp:
        """Calls a plugin and returns its typed answer, or raises one clear error, before the deadline.

        Runs on the caller's thread.

        Args:
            name: the plugin's.
            request: what to ask.
            context: further wishes; the keywords below beat it, and it beats the plugin's configuration.
            timeout: seconds for the whole call, with all its attempts and waits.
            idempotent: True if doing it twice does no harm; opens more failures to replays.
            key: what consistent hashing routes by.
            headers: sent with the call, beside the context's.

        Raises:
            PluginError: see :mod:`goplugins.errors` for the kinds.
        """
        call = self._caller.start(
            name, self._codec or self._types(), request, context, timeout, idempotent, key, headers
        )
        return self._caller.run(name, call)  # type: ignore[no-any-return]

    def execute_result(
        self,
        name: str,
        request: Req,
        context: ExecutionContext | None = None,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> CallResult[Resp]:
        """Like ``execute``, with the answer's circumstances: source, attempts, elapsed seconds, reply metadata."""
        call = self._caller.start(
            name, self._codec or self._types(), request, context, timeout, idempotent, key, headers
        )
        return self._caller.run_result(name, call)

    def submit(
        self,
        name: str,
        request: Req,
        context: ExecutionContext | None = None,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Future[Resp]:
        """Like ``execute`` on a worker thread. The deadline counts from now, waiting for a worker included.

        Raises:
            SaturatedError: all workers are busy and the queue is full.
            PluginNotFoundError: no plugin of that name.
        """
        call = self._caller.start(
            name, self._codec or self._types(), request, context, timeout, idempotent, key, headers
        )
        return self._caller.submit(name, call)

    def map(
        self,
        name: str,
        requests: Iterable[Req],
        *,
        context: ContextSource = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
    ) -> Iterator[Resp]:
        """Calls a plugin for each request and yields the answers in input order.

        Input is pulled only while the answers are iterated, at most ``concurrency`` ahead. Calls wait for the
        rate limiter instead of being refused. The first error raises and cancels what has not started.

        Args:
            name: the plugin's.
            requests: what to ask; may be endless.
            context: for all calls, or a function of the request.
            timeout: seconds for each item; an enclosing ``deadline()`` bounds the batch.
            concurrency: calls at a time; by default as many as the manager has workers.
            progress: True for a tqdm bar, or a function that takes the count so far.
        """
        codec = self._codec or self._types()
        return values(self._caller.map(name, codec, requests, context, timeout, concurrency, progress))

    def map_results(
        self,
        name: str,
        requests: Iterable[Req],
        *,
        context: ContextSource = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
        ordered: bool = True,
        on_result: Callable[[Req, CallResult[Resp]], object] | None = None,
    ) -> Iterator[CallResult[Resp]]:
        """Like ``map``, but an item's error comes as a result whose ``error`` is set, and the rest goes on.

        Args:
            name: the plugin's.
            requests: what to ask.
            context: for all calls, or a function of the request.
            timeout: seconds for each item.
            concurrency: calls at a time.
            progress: True for a tqdm bar, or a function that takes the count so far.
            ordered: False yields results as they come.
            on_result: called with request and result on the worker that made it, so that a batch can be resumed.
        """
        codec = self._codec or self._types()
        return self._caller.map(name, codec, requests, context, timeout, concurrency, progress, ordered, on_result)

    @overload
    def bind(self, name: str) -> BoundPlugin[Req, Resp]: ...

    @overload
    def bind(
        self, name: str, request_type: type[BoundReq], response_type: type[BoundResp]
    ) -> BoundPlugin[BoundReq, BoundResp]: ...

    @overload
    def bind(self, name: str, request_type: Any, response_type: Any) -> BoundPlugin[Any, Any]: ...

    def bind(self, name: str, request_type: Any = None, response_type: Any = None) -> BoundPlugin[Any, Any]:
        """A callable for one plugin, with types of its own (by default the manager's).

        The name need not be known yet: it is looked up at each call.
        """
        if (request_type is None) != (response_type is None):
            raise InvalidArgumentError("give both request_type and response_type, or neither for the manager's own")
        codec = self._types() if request_type is None else codec_for(request_type, response_type)
        return BoundPlugin(self._caller, name, codec)

    # --- how are they? ---------------------------------------------------------------------------------------------

    def health(self) -> dict[str, HealthStatus]:
        """Every plugin's health. Plugins that nobody has looked at yet are looked at now, side by side."""
        self._lifecycle.maintenance.look()
        return self._lifecycle.statuses()

    def overall_health(self) -> HealthStatus:
        """One status for all; its message names the plugins that are not healthy.

        Instances of one plugin (``endpoints``, ``options.resolve``) count as that plugin: with one of three down it is
        DEGRADED, and so is the whole.
        """
        self._lifecycle.maintenance.look()
        return self._lifecycle.maintenance.monitor.get_overall_health(without=self._lifecycle.instances())

    def metrics(self) -> ManagerMetrics:
        """Counts since the manager was made, removed plugins included, and each present plugin's own."""
        return self._lifecycle.metrics()

    def explain(self, name: str) -> Explanation:
        """Why a plugin would or would not take the next call; print it.

        Raises:
            PluginNotFoundError: no plugin of that name.
        """
        return self._lifecycle.explain(name)

    def report(self) -> ObservabilityReport:
        """How many calls, how fast, what failed, plugin by plugin; ``print`` it."""
        return self._lifecycle.report()

    def subscribe(self, listener: Listener, *kinds: type[Event], buffer: int = 10_000) -> Subscription:
        """Tells ``listener`` what happens: calls, attempts, breakers, health, members, plugins, reloads.

        It is called on a thread of its own, with one event at a time and in their order; no call waits for it.

        Args:
            listener: takes a :data:`~goplugins.Event`. What it raises is logged.
            kinds: classes of events to be told of; all if none are given.
            buffer: events that may wait for the listener; beyond that they are dropped and counted.

        Returns:
            The subscription, which ends with its ``close()``, or with ``shutdown``.
        """
        return self._lifecycle.events.subscribe(listener, kinds, buffer=buffer)

    # --- end -------------------------------------------------------------------------------------------------------

    def shutdown(self, timeout: float = 30.0) -> None:
        """Refuses new calls, waits for those in flight at most ``timeout`` seconds, then closes everything.

        No call is cut short before the timeout. Harmless when repeated.
        """
        end = self._clock.monotonic() + timeout
        self._registry.load = None  # what nobody has needed yet
        self._lifecycle.close_all(timeout)
        self._calls.shutdown(timeout=max(0.0, end - self._clock.monotonic()))
        self._names.shutdown(wait=False)
        if self._lifecycle.builder.hedges is not None:
            self._lifecycle.builder.hedges.shutdown(wait=False)
        self._lifecycle.events.close(max(0.0, end - self._clock.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(0.0 if isinstance(error, KeyboardInterrupt) else 30.0)  # who presses Ctrl-C waits for nobody

    def __repr__(self) -> str:
        state = "closed" if self._registry.closed else f"{len(self._registry.plugins)} plugins"
        return f"<Manager: {state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return self._caller.recipe.of_manager()

    # --- inside ----------------------------------------------------------------------------------------------------

    @property
    def _lifecycle(self) -> Lifecycle:
        return self._life.entered()

    def _types(self) -> Codec:
        """The default pair's codec; refuses ``Manager[A, B]()``, which would silently mean Any."""
        if self._codec is None:
            promised = get_args(getattr(self, "__orig_class__", None))
            if promised and promised != (Any, Any):
                raise InvalidArgumentError(
                    "Manager[A, B]() can't see its types at run time: write Manager(A, B), which infers them"
                )
            self._codec = codec_for()
        return self._codec
