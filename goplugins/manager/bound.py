"""A plugin's name with its types: what application code holds and calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from goplugins.manager.batch import Progress, values
from goplugins.models.context import ExecutionContext
from goplugins.models.results import CallResult
from goplugins.runtime.call import Codec

if TYPE_CHECKING:
    from goplugins.manager.dispatch import Caller, ContextSource

__all__ = ["BoundPlugin"]

Req = TypeVar("Req")
Resp = TypeVar("Resp")


class BoundPlugin(Generic[Req, Resp]):
    """Calls one plugin with typed requests and answers. Made by :meth:`goplugins.Manager.bind`.

    The name is looked up at each call, so a bound plugin may be made at import, before any configuration is
    loaded, and goes on working through reloads. All methods take what the manager's do, without the name.
    """

    __slots__ = ("_caller", "_codec", "name")

    def __init__(self, caller: Caller, name: str, codec: Codec) -> None:
        self._caller = caller
        self._codec = codec
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
        call = self._caller.start(self.name, self._codec, request, context, timeout, idempotent, key, headers)
        return self._caller.run(self.name, call)  # type: ignore[no-any-return]

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
        """The answer with its circumstances; see :meth:`goplugins.Manager.execute_result`."""
        call = self._caller.start(self.name, self._codec, request, context, timeout, idempotent, key, headers)
        return self._caller.run_result(self.name, call)

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
        call = self._caller.start(self.name, self._codec, request, context, timeout, idempotent, key, headers)
        return self._caller.submit(self.name, call)

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
        return values(self._caller.map(self.name, self._codec, requests, context, timeout, concurrency, progress))

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
        """Calls the plugin for each request; never raises for one. See :meth:`goplugins.Manager.map_results`."""
        return self._caller.map(
            self.name, self._codec, requests, context, timeout, concurrency, progress, ordered, on_result
        )

    def __reduce__(self) -> tuple[Any, ...]:
        codec: Any = self._codec
        return self._caller.recipe.of_bound(self.name, (codec.request_type, codec.response_type))

    def __repr__(self) -> str:
        return f"<BoundPlugin {self.name!r}>"
