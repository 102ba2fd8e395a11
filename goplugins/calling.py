"""How calls are put together and set going: what the manager and its bound plugins share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sized
from concurrent.futures import Future
from typing import Any

from goplugins._batch import Progress, as_completed, in_order, or_inline, reporting
from goplugins._call import Call, Codec
from goplugins._clock import Clock
from goplugins._deadline import Deadline
from goplugins._ids import RequestIds
from goplugins.errors import InvalidArgumentError, PluginClosedError, PluginError
from goplugins.models import CallResult, ExecutionContext, check_headers
from goplugins.registry import Registry
from goplugins.workers import WorkerPool

__all__ = ["Caller", "ContextSource"]

ContextSource = ExecutionContext | Callable[[Any], ExecutionContext | None] | None
"""One context for all items of a batch, or a function that makes an item's own."""

_DEFAULT_CONTEXT = ExecutionContext()
_FOREVER = float("inf")


class Caller:
    """Turns names, requests and wishes into calls of the plugins in a registry.

    Args:
        registry: who answers to which name.
        pool: the threads behind ``submit`` and ``map``.
        clock: measures and waits.
    """

    def __init__(self, registry: Registry, pool: WorkerPool, clock: Clock) -> None:
        self.pool = pool
        self._registry = registry
        self._clock = clock
        self._next_id = RequestIds()

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
        max_wait: float | None = None,
    ) -> Call:
        """A call's record: keywords beat the context, the context beats the plugin's configuration.

        The deadline counts from here. ``max_wait`` is how many seconds it may wait for the rate limiter.

        Raises:
            PluginNotFoundError: no plugin of that name.
            InvalidArgumentError: a timeout or header that can't be used.
        """
        plugin = self._registry.get(name)
        if context is None:
            context = _DEFAULT_CONTEXT
        if timeout is None:
            timeout = context.timeout or plugin.request_timeout
        elif not _is_positive(timeout):
            raise InvalidArgumentError(f"timeout: expected seconds greater than 0, got {timeout!r}", plugin=name)
        if idempotent is None:
            idempotent = context.idempotent
            if idempotent is None:
                idempotent = plugin.idempotent
        sent = context.headers
        if headers:
            check_headers(headers)
            sent = {**sent, **headers}
        return Call(
            request,
            codec,
            Deadline.after(timeout, self._clock),
            context.request_id or self._next_id(),
            headers=sent,
            metadata=context.metadata,
            idempotent=idempotent,
            max_retries=context.max_retries,
            key=context.key if key is None else key,
            priority=context.priority,
            preferences=context.preferences,
            max_wait=max_wait,
        )

    def run(self, name: str, call: Call) -> Any:
        """Makes the call on this thread."""
        while True:
            plugin = self._registry.get(name)
            try:
                return plugin.call(call)
            except PluginClosedError:
                # Refused at the gate of a plugin that was just replaced: its successor takes the call.
                if call.admitted or self._registry.plugins.get(name) in (plugin, None):
                    raise

    def run_result(self, name: str, call: Call) -> CallResult[Any]:
        """Makes the call on this thread; the answer with its circumstances."""
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

    def submit(self, name: str, call: Call) -> Future[Any]:
        """Makes the call on a worker."""
        return self.pool.submit(self.run, name, call)

    def map(
        self,
        name: str,
        codec: Codec,
        requests: Iterable[Any],
        context: ContextSource,
        timeout: float | None,
        concurrency: int | None,
        progress: Progress,
        ordered: bool = True,
        on_result: Callable[[Any, CallResult[Any]], object] | None = None,
    ) -> Generator[CallResult[Any], None, None]:
        """Many calls through a bounded window; see :meth:`goplugins.Manager.map_results`."""
        if concurrency is not None and concurrency < 1:
            raise InvalidArgumentError(f"concurrency: expected an integer of at least 1, got {concurrency!r}")
        if timeout is not None and not _is_positive(timeout):
            raise InvalidArgumentError(f"timeout: expected seconds greater than 0, got {timeout!r}")

        def one(prepared: tuple[Any, Call | PluginError]) -> CallResult[Any]:
            request, call = prepared
            started = self._clock.monotonic()
            if isinstance(call, PluginError):
                result: CallResult[Any] = CallResult(None, attempts=0, member=name, error=call)
            else:
                try:
                    result = self._result(name, call, started, self.run(name, call))
                except PluginError as error:
                    result = self._result(name, call, started, None, error)
            if on_result is not None:
                on_result(request, result)
            return result

        def prepare(request: Any) -> tuple[Any, Call | PluginError]:
            own = context(request) if callable(context) else context
            try:
                return request, self.start(name, codec, request, own, timeout, None, None, None, _FOREVER)
            except PluginError as error:
                return request, error

        window = min(concurrency or self.pool.max_workers, self.pool.max_workers)
        walk = in_order if ordered else as_completed
        results = walk(map(prepare, requests), or_inline(self.pool.submit, one), window)
        return reporting(results, progress, len(requests) if isinstance(requests, Sized) else None)


def _is_positive(seconds: Any) -> bool:
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0
