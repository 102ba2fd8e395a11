"""A callable for one plugin, with its request and response types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from goplugins.manager.batch import Progress, values
from goplugins.manager.dispatch import CallDispatcher, ContextSource
from goplugins.manager.pages import Pages
from goplugins.models.context import ExecutionContext
from goplugins.models.results import CallResult
from goplugins.runtime.call import Codec

__all__ = ["BoundPlugin"]

Req = TypeVar("Req")
Resp = TypeVar("Resp")
Item = TypeVar("Item")


class BoundPlugin(Generic[Req, Resp]):
    """Calls one plugin, or one of its operations, with types of its own. Created by :meth:`goplugins.Manager.bind`.

    The name is resolved at each call, so a bound plugin can be created at import, before any configuration is loaded,
    and stays valid through reloads. The methods take the same arguments as the manager's, without the name.
    """

    __slots__ = ("_codec", "_dispatcher", "_operation", "_pickled_manager", "name")

    def __init__(
        self, dispatcher: CallDispatcher, name: str, codec: Codec, pickled_manager: object, operation: str = ""
    ) -> None:
        """``pickled_manager`` is pickled with the bound plugin, and unpickles as its manager."""
        self._operation = operation or None
        self._dispatcher = dispatcher
        self._codec = codec
        self._pickled_manager = pickled_manager
        self.name = name

    def __call__(
        self,
        request: Req,
        context: ExecutionContext | None = None,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Resp:
        """Calls the plugin; see :meth:`goplugins.Manager.execute`."""
        call = self._dispatcher.start(
            self.name, self._codec, request, context, timeout, idempotent, key, headers, self._operation
        )
        return self._dispatcher.run(self.name, call)  # type: ignore[no-any-return]

    def result(
        self,
        request: Req,
        context: ExecutionContext | None = None,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> CallResult[Resp]:
        """The answer with the call's metadata; see :meth:`goplugins.Manager.execute_result`."""
        call = self._dispatcher.start(
            self.name, self._codec, request, context, timeout, idempotent, key, headers, self._operation
        )
        return self._dispatcher.run_result(self.name, call)

    def submit(
        self,
        request: Req,
        context: ExecutionContext | None = None,
        *,
        timeout: float | None = None,
        idempotent: bool | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Future[Resp]:
        """Calls the plugin on a worker; see :meth:`goplugins.Manager.submit`."""
        call = self._dispatcher.start(
            self.name, self._codec, request, context, timeout, idempotent, key, headers, self._operation
        )
        return self._dispatcher.submit(self.name, call)

    def map(
        self,
        requests: Iterable[Req],
        *,
        context: ContextSource = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
    ) -> Iterator[Resp]:
        """Calls the plugin for each request; see :meth:`goplugins.Manager.map`."""
        return values(
            self._dispatcher.map(
                self.name, self._codec, requests, context, timeout, concurrency, progress, self._operation
            )
        )

    def map_results(
        self,
        requests: Iterable[Req],
        *,
        context: ContextSource = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
        ordered: bool = True,
        on_result: Callable[[Req, CallResult[Resp]], object] | None = None,
    ) -> Iterator[CallResult[Resp]]:
        """Calls the plugin for each request, with errors in the results; see :meth:`goplugins.Manager.map_results`."""
        return self._dispatcher.map(
            self.name,
            self._codec,
            requests,
            context,
            timeout,
            concurrency,
            progress,
            self._operation,
            ordered,
            on_result,
        )

    def pages(
        self: BoundPlugin[Req, list[Item]],
        request: Req,
        context: ExecutionContext | None = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        cursor: str = "",
    ) -> Pages[Item]:
        """The items of a list in pages; see :meth:`goplugins.Manager.pages`."""
        return self._dispatcher.pages(
            self.name, self._codec, request, context, timeout, headers, self._operation, cursor
        )

    def __reduce__(self) -> tuple[Any, ...]:
        codec: Any = self._codec
        types = codec.request_type, codec.response_type
        return _bind, (self._pickled_manager, self.name, *types, self._operation or "")

    def __repr__(self) -> str:
        operation = f", operation {self._operation!r}" if self._operation else ""
        return f"<BoundPlugin {self.name!r}{operation}>"


def _bind(manager: Any, name: str, request_type: Any, response_type: Any, operation: str = "") -> Any:
    return manager.bind(name, request_type, response_type, operation=operation)
