"""Calls by name, on the caller's thread or on workers: what the manager and its bound plugins share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sized
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from goplugins.errors import InvalidArgumentError, PluginClosedError, PluginError, SaturatedError
from goplugins.headers import check_headers
from goplugins.manager.batch import Progress, reporting, results_of
from goplugins.manager.interceptors import Interceptors
from goplugins.manager.pages import Pages
from goplugins.models.context import ExecutionContext
from goplugins.models.results import CallResult
from goplugins.observability.setup import Observers
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.pipeline.registry import Registry
from goplugins.runtime.call import NOTHING, Call, Codec
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import FORK_MARK, renew_after_fork
from goplugins.runtime.request_ids import RequestIds
from goplugins.runtime.workers import WorkerPool

ContextSource = ExecutionContext | Callable[[Any], ExecutionContext | None] | None
"""One context for all items of a batch, or a function that makes one for each item."""

_DEFAULT_CONTEXT = ExecutionContext()
_FOREVER = float("inf")
_LONGEST = 1e9  # seconds; waits of the operating system overflow above this

T = TypeVar("T")


class CallDispatcher:
    """Makes :class:`Call` records and runs them on the plugins of a registry.

    Args:
        registry: the plugins by name.
        observers: hold the tracer, if calls are traced.
        pool: the threads behind ``submit`` and ``map``.
        clock: measures time, and waits.
        interceptors: functions of the application around each call.
    """

    def __init__(
        self,
        registry: Registry,
        observers: Observers,
        pool: WorkerPool,
        clock: Clock,
        interceptors: Interceptors | None = None,
    ) -> None:
        self.pool = pool
        self._interceptors = interceptors if interceptors is not None and interceptors.functions else None
        self._registry = registry
        self._observers = observers
        self._clock = clock
        self._next_id = RequestIds().__call__  # the method: to call the object costs half as much again

    def start(
        self,
        name: str,
        codec: Codec,
        request: Any,
        context: ExecutionContext | None,
        timeout: float | None,
        idempotent: bool | None,
        key: str | None,
        headers: Mapping[str, str] | None,
        operation: str | None = None,
        max_wait: float | None = None,
        page: str | None = None,
    ) -> Call:
        """A call's record: keywords override the context, the context overrides the plugin's configuration.

        The deadline starts now. ``max_wait`` limits the seconds that the call waits for the rate limiter; ``page`` is
        where a call for one page of a list begins.

        Raises:
            PluginNotFoundError: no plugin of that name.
            OperationNotFoundError: the plugin has operations, but none of that name.
            InvalidArgumentError: a timeout or header that can't be used.
        """
        if not FORK_MARK[0]:  # forked by C code that runs no hooks of Python
            renew_after_fork()
        pipeline = (self._registry.plugins.get(name) or self._registry.get(name)).pipeline
        given = context
        if context is None:
            if (
                timeout is None
                and idempotent is None
                and key is None
                and headers is None
                and max_wait is None
                and operation is None
            ):
                # The common case.
                deadline = Deadline.after(pipeline.request_timeout, self._clock)
                return Call(request, codec, deadline, self._next_id(), NOTHING, NOTHING, pipeline.idempotent)
            context = _DEFAULT_CONTEXT
        else:
            _check_context(context)
        operation = context.operation if operation is None else operation
        usual_timeout, usually_idempotent = pipeline.request_timeout, pipeline.idempotent
        if operation:
            usual_timeout, usually_idempotent = pipeline.usual_of(operation)
        timeout = context.timeout if timeout is None else timeout
        timeout = usual_timeout if timeout is None else _checked_timeout(timeout)
        idempotent = context.idempotent if idempotent is None else idempotent
        sent = context.headers
        if headers:
            sent = {**sent, **_checked_headers(headers)}
        return Call(
            request,
            codec,
            Deadline.after(timeout, self._clock),
            context.request_id or self._next_id(),
            sent,
            context.metadata,
            usually_idempotent if idempotent is None else idempotent,
            context.max_retries,
            context.key if key is None else key,
            context.priority,
            context.preferences,
            max_wait,
            operation,
            page,
            given,
        )

    def run(
        self,
        name: str,
        call: Call,
        plugin: GuardedPlugin | None = None,
        *,
        traced: bool = True,
        intercepted: bool = True,
    ) -> Any:
        """Makes the call on this thread, in a span of its own where calls are traced, through the interceptors.

        Args:
            name: the plugin's name.
            call: the call.
            plugin: has admitted the call already.
            traced: False within the span.
            intercepted: False within the interceptors.
        """
        tracer = self._observers.tracer
        if tracer is not None and traced:
            return tracer.trace(partial(self.run, plugin=plugin, traced=False), name, call)
        if self._interceptors is not None and intercepted and not call.through:  # a fallback is part of its call
            make = partial(self.run, name, call, plugin, traced=False, intercepted=False)
            return self._interceptors.run(name, call, make)
        while True:
            if plugin is None:
                plugin = self._registry.plugins.get(name) or self._find(name, call)
            try:
                return plugin.call(call)
            except PluginClosedError:
                # A reload has just replaced the plugin, which did not admit the call, or let it wait for a slot: its
                # successor makes it.
                if call.admitted or self._registry.plugins.get(name) in (plugin, None):
                    raise
            plugin = None

    def forward(self, name: str, call: Call) -> Any:
        """As :meth:`run`, for a call of another plugin, for which ``name`` is the fallback; its operation goes along.

        Raises:
            OperationNotFoundError: the fallback has operations, but none of that name.
        """
        plugin = self._registry.plugins.get(name)
        if call.operation and plugin is not None:
            plugin.pipeline.usual_of(call.operation)
        return self.run(name, call)

    def _find(self, name: str, call: Call) -> GuardedPlugin:
        plugin = self._registry.plugins.get(name)
        if plugin is None:
            plugin = self._registry.get_for_nested_call(name)
            call.nested = True
        return plugin

    def _admit(self, name: str, call: Call) -> GuardedPlugin:
        """Admits a call before it is queued for a worker, so that closing its plugin waits for it."""
        while True:
            plugin = self._find(name, call)
            if call.nested:
                return plugin
            try:
                plugin.tracker.admit(call)
                return plugin
            except PluginClosedError:
                if self._registry.plugins.get(name) in (plugin, None):
                    raise

    def _on_worker(self, plugin: GuardedPlugin, call: Call, function: Callable[[], T]) -> Future[T]:
        """Runs ``function``, which makes the admitted call, on a worker."""
        try:
            future = self.pool.submit(function)
        except BaseException:
            plugin.tracker.cancel_admission(call)
            raise
        future.add_done_callback(lambda _: plugin.tracker.cancel_admission(call))  # also if the future is cancelled
        return future

    def run_result(self, name: str, call: Call) -> CallResult[Any]:
        """As :meth:`run`, with the call's metadata."""
        started = self._clock.monotonic()
        value = self.run(name, call)
        return self._result(name, call, started, value)

    def _result(
        self, name: str, call: Call, started: float, value: Any, error: PluginError | None = None
    ) -> CallResult[Any]:
        return CallResult(
            value,
            source=call.source,
            attempts=call.attempts,
            elapsed=self._clock.monotonic() - started,
            member=call.member or name,
            request_id=call.request_id,
            metadata=call.reply_metadata,
            error=error,
        )

    def pages(
        self,
        name: str,
        codec: Codec,
        request: Any,
        context: ExecutionContext | None,
        timeout: float | None,
        headers: Mapping[str, str] | None,
        operation: str | None,
        cursor: str,
    ) -> Pages[Any]:
        """The items of a list, a call for each page; see :meth:`goplugins.Manager.pages`."""

        def fetch(page: str) -> Any:
            call = self.start(name, codec, request, context, timeout, None, None, headers, operation, page=page)
            return self.run(name, call)

        return Pages(fetch, cursor)

    def submit(self, name: str, call: Call) -> Future[Any]:
        """Makes the call on a worker."""
        plugin = self._admit(name, call)
        return self._on_worker(plugin, call, lambda: self.run(name, call, plugin))

    def _submit_result(self, name: str, call: Call, done: Callable[[CallResult[Any]], object]) -> Future[Any]:
        """Makes the call on a worker, or on this thread if all are busy; a :class:`PluginError` is in the result."""
        plugin = self._admit(name, call)

        def make() -> CallResult[Any]:
            started = self._clock.monotonic()
            try:
                result = self._result(name, call, started, self.run(name, call, plugin))
            except PluginError as error:
                result = self._result(name, call, started, None, error)
            done(result)
            return result

        try:
            return self._on_worker(plugin, call, make)
        except SaturatedError:
            call.nested = True  # it was admitted above
            return _completed(make())

    def map(
        self,
        name: str,
        codec: Codec,
        requests: Iterable[Any],
        context: ContextSource,
        timeout: float | None,
        concurrency: int | None,
        progress: Progress,
        operation: str | None = None,
        ordered: bool = True,
        on_result: Callable[[Any, CallResult[Any]], object] | None = None,
    ) -> Generator[CallResult[Any], None, None]:
        """Many calls through a bounded window; see :meth:`goplugins.Manager.map_results`."""
        most = self.pool.max_workers
        if concurrency is not None and (not isinstance(concurrency, int) or concurrency < 1):
            raise InvalidArgumentError(f"concurrency: expected an integer of at least 1, got {concurrency!r}")
        if timeout is not None:
            timeout = _checked_timeout(timeout)
        if self._registry.closed:
            raise self._registry.not_found(name)

        def start(request: Any) -> Future[CallResult[Any]]:
            def done(result: CallResult[Any]) -> None:
                if on_result is not None:
                    on_result(request, result)

            try:
                own = _context_for(request, context)
                call = self.start(name, codec, request, own, timeout, None, None, None, operation, _FOREVER)
                return self._submit_result(name, call, done)
            except PluginError as error:
                result: CallResult[Any] = CallResult(None, attempts=0, member=name, error=error)
                done(result)
                return _completed(result)

        results = results_of(requests, start, min(concurrency or most, most), ordered=ordered)
        return reporting(results, progress, len(requests) if isinstance(requests, Sized) else None)


def _context_for(request: Any, context: ContextSource) -> ExecutionContext | None:
    if not callable(context):
        return context
    try:
        return context(request)
    except StopIteration as exc:  # would end the batch silently
        raise InvalidArgumentError("context: the function raised StopIteration") from exc


def _completed(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future


def _check_context(context: Any) -> None:
    if not isinstance(context, ExecutionContext):
        raise InvalidArgumentError(f"context: expected an ExecutionContext, got a {type(context).__name__}")


def _checked_headers(headers: Any) -> Mapping[str, str]:
    if not isinstance(headers, Mapping):
        raise InvalidArgumentError(f"headers: expected a mapping, got a {type(headers).__name__}")
    check_headers(headers)
    return headers


def _checked_timeout(seconds: Any) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InvalidArgumentError(f"timeout: expected seconds greater than 0, got {seconds!r}")
    return min(seconds, _LONGEST)
