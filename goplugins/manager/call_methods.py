"""The methods of a manager that call plugins by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, overload

import attrs

from goplugins.errors import InvalidArgumentError
from goplugins.manager.batch import Progress, values
from goplugins.manager.bound import BoundPlugin
from goplugins.manager.dispatch import CallDispatcher, ContextSource
from goplugins.manager.pages import Pages
from goplugins.manager.pickling import ManagerPickler
from goplugins.models.context import ExecutionContext
from goplugins.models.results import CallResult
from goplugins.runtime.call import Codec
from goplugins.transports.json_codec import codec_for

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # types such as `Repo | None`, which are no classes

Req = TypeVar("Req")
Resp = TypeVar("Resp")
BoundReq = TypeVar("BoundReq")
BoundResp = TypeVar("BoundResp")
Item = TypeVar("Item")


class CallMethods(Generic[Req, Resp]):
    """Calls by name; the base of :class:`goplugins.Manager`, which has everything else."""

    _codec: Codec | None
    _dispatcher: CallDispatcher
    _pickler: ManagerPickler

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
        operation: str | None = None,
    ) -> Resp:
        """Calls a plugin and returns its typed answer, or raises one clear error, before the deadline.

        Runs on the caller's thread.

        Args:
            name: the plugin's name.
            request: the request.
            context: further settings; the keywords below override it, and it overrides the plugin's configuration.
            timeout: seconds for the whole call, all attempts and waits included.
            idempotent: True if the plugin may run the request twice; more failures are then retried.
            key: the key for consistent hashing.
            headers: sent with the call, in addition to the context's.
            operation: which of the plugin's operations to call; none for a plugin with one function.

        Raises:
            PluginError: see :mod:`goplugins.errors` for the kinds.
        """
        call = self._dispatcher.start(
            name, self._codec or self._types(), request, context, timeout, idempotent, key, headers, operation
        )
        return self._dispatcher.run(name, call)  # type: ignore[no-any-return]

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
        operation: str | None = None,
    ) -> CallResult[Resp]:
        """Like ``execute``; the answer comes with its source, attempts, elapsed seconds and reply metadata."""
        call = self._dispatcher.start(
            name, self._codec or self._types(), request, context, timeout, idempotent, key, headers, operation
        )
        return self._dispatcher.run_result(name, call)

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
        operation: str | None = None,
    ) -> Future[Resp]:
        """Like ``execute`` on a worker thread. The deadline starts now, and includes the wait for a worker.

        Raises:
            SaturatedError: all workers are busy and the queue is full.
            PluginNotFoundError: no plugin of that name.
        """
        call = self._dispatcher.start(
            name, self._codec or self._types(), request, context, timeout, idempotent, key, headers, operation
        )
        return self._dispatcher.submit(name, call)

    def map(
        self,
        name: str,
        requests: Iterable[Req],
        *,
        context: ContextSource = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
        operation: str | None = None,
    ) -> Iterator[Resp]:
        """Calls a plugin for each request and yields the answers in input order.

        Requests are read only while the answers are iterated, at most ``concurrency`` ahead. Calls wait for the
        rate limiter instead of being rejected. The first error is raised, and cancels calls that have not started.

        Args:
            name: the plugin's name.
            requests: the requests; may be endless.
            context: for all calls, or a function of the request.
            timeout: seconds for each item; an enclosing ``deadline()`` bounds the batch.
            concurrency: calls at a time; by default the number of workers.
            progress: True for a tqdm bar, or a function that takes the count so far.
            operation: as for ``execute``.
        """
        codec = self._codec or self._types()
        return values(self._dispatcher.map(name, codec, requests, context, timeout, concurrency, progress, operation))

    def map_results(
        self,
        name: str,
        requests: Iterable[Req],
        *,
        context: ContextSource = None,
        timeout: float | None = None,
        concurrency: int | None = None,
        progress: Progress = None,
        operation: str | None = None,
        ordered: bool = True,
        on_result: Callable[[Req, CallResult[Resp]], object] | None = None,
    ) -> Iterator[CallResult[Resp]]:
        """Like ``map``, but an item's error is in the ``error`` of its result, and the batch continues.

        Args:
            name: the plugin's name.
            requests: the requests.
            context: for all calls, or a function of the request.
            timeout: seconds for each item.
            concurrency: calls at a time.
            progress: True for a tqdm bar, or a function that takes the count so far.
            operation: as for ``execute``.
            ordered: False yields results in the order of their completion.
            on_result: called with request and result on the worker's thread, so that a batch can be resumed.
        """
        codec = self._codec or self._types()
        return self._dispatcher.map(
            name, codec, requests, context, timeout, concurrency, progress, operation, ordered, on_result
        )

    def pages(
        self: CallMethods[Req, list[Item]],
        name: str,
        request: Req,
        context: ExecutionContext | None = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        operation: str | None = None,
        cursor: str = "",
    ) -> Pages[Item]:
        """The items of a list that a REST service returns in pages: a call for each page, when its items are needed.

        The response type is the list on one page. Where the next page is, the reply says by a Link header, or by what
        the operation names (``next`` and ``cursor``).

        Args:
            name: the plugin's name.
            request: the request, the same for each page.
            context: further settings, as for ``execute``.
            timeout: seconds for each page; an enclosing ``deadline()`` bounds all of them.
            headers: as for ``execute``.
            operation: as for ``execute``.
            cursor: where to begin: the ``cursor`` of an iteration that ended early. One that came from outside may name
                any path of the service, which gets the plugin's credentials: sign it, or use a cursor parameter.

        Raises:
            PluginError: while iterating; see :class:`~goplugins.manager.pages.Pages`.
        """
        codec = self._codec or self._types()
        return self._dispatcher.pages(name, codec, request, context, timeout, headers, operation, cursor)

    @overload
    def bind(self, name: str, *, operation: str = ...) -> BoundPlugin[Req, Resp]: ...

    @overload
    def bind(
        self, name: str, request_type: type[BoundReq], response_type: type[BoundResp], *, operation: str = ...
    ) -> BoundPlugin[BoundReq, BoundResp]: ...

    @overload
    def bind(
        self, name: str, request_type: TypeForm[BoundReq], response_type: TypeForm[BoundResp], *, operation: str = ...
    ) -> BoundPlugin[BoundReq, BoundResp]: ...

    @overload
    def bind(
        self, name: str, request_type: Any, response_type: Any, *, operation: str = ...
    ) -> BoundPlugin[Any, Any]: ...

    def bind(
        self, name: str, request_type: Any = attrs.NOTHING, response_type: Any = attrs.NOTHING, *, operation: str = ""
    ) -> BoundPlugin[Any, Any]:
        """A callable for one plugin or one of its operations, with types of its own (by default the manager's).

        The names are resolved at each call; the plugin may be added later. None as a type is that of nothing: of an
        answer without a body, for instance.
        """
        if (request_type is attrs.NOTHING) != (response_type is attrs.NOTHING):
            raise InvalidArgumentError("give both request_type and response_type, or neither for the manager's own")
        codec = self._types() if request_type is attrs.NOTHING else codec_for(request_type, response_type)
        return BoundPlugin(self._dispatcher, name, codec, self._pickler, operation)

    def _types(self) -> Codec:
        """The codec of plain JSON; rejects ``Manager[A, B]()``, which would silently mean Any."""
        if self._codec is None:
            promised = get_args(getattr(self, "__orig_class__", None))
            if promised and promised != (Any, Any):
                raise InvalidArgumentError(
                    "Manager[A, B]() can't see its types at run time: write Manager(A, B), which infers them"
                )
            self._codec = codec_for()
        return self._codec
