"""The plugin of a typed function: its types, its information and its health."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack, overload

import attrs

from goplugins.errors import (
    InvalidArgumentError,
    PluginExecutionError,
    PluginInternalError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    belongs_to_host,
)
from goplugins.json_text import shown_key
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.reply import Reply
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline, deadline
from goplugins.serve._contract import UNSET, Rejected, Unavailable, types_of
from goplugins.serve._served import HealthCheck, Served, checked_name, found_for
from goplugins.transports.conversion_limits import error_of
from goplugins.transports.json_codec import codec_for, structurer_for, typed_values
from goplugins.transports.json_converter import explain_mismatch

Req = TypeVar("Req")
Resp = TypeVar("Resp")

_NO_CONTEXT = ExecutionContext()


class ServedPlugin(Served, Generic[Req, Resp]):
    """A function with its types, ready to be served; made by :func:`plugin`.

    Calling it calls the function, so tests need no server. It is also a
    :class:`~goplugins.models.plugin.Plugin`: a manager can register and call it in this process.

    Args:
        function: takes a request, or a request and a context.
        info: of the plugin.
        health: as for :func:`plugin`.
        request: type of requests, where the function has no annotations.
        response: type of responses, likewise.
        operation: its name among several of a plugin; empty for a plugin with one function.
        any_operation: a call may name any operation, which the function finds in its context; else it is refused.
        clock: source of time.

    Attributes:
        operation: its name among several of a plugin; empty for a plugin with one function.
        request_type: type that requests are converted to.
        response_type: type of the function's return value; where that is a ``Reply``, type of its value.
    """

    def __init__(
        self,
        function: Callable[..., Resp],
        info: PluginInfo,
        health: HealthCheck | None = None,
        *,
        request: Any = UNSET,
        response: Any = UNSET,
        operation: str = "",
        any_operation: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        functools.update_wrapper(self, function)  # first: attributes of the function must not replace the plugin's
        super().__init__(health, clock)
        self.name = info.name
        self.operation = operation
        where = str(self)
        self._function = function
        self._takes_context = _takes_context(function, where)
        self._any_operation = any_operation and self._takes_context
        self._info = info
        self.request_type, self.response_type = types_of(function, where, request, response)
        self._structure = _structurer(self.request_type, f"{where}, request")
        _structurer(self.response_type, f"{where}, response")
        self._codec = codec_for(self.response_type)
        # A caller in this process may have other types than the function: as over a wire, the JSON counts.
        self._typed = typed_values(codec_for(self.request_type, self.response_type), codec_for().encode)

    def __call__(self, request: Req, context: ExecutionContext = _NO_CONTEXT, /) -> Resp:
        if self._takes_context:
            return self._function(request, context)
        return self._function(request)

    def __repr__(self) -> str:
        return f"<ServedPlugin {self.name!r}>"

    def __str__(self) -> str:
        """What log lines and errors call it."""
        return f"plugin {self.name!r}" + (f", operation {self.operation!r}" if self.operation else "")

    def _global_name(self) -> str:
        return str(getattr(self, "__qualname__", ""))

    def find(self, operation: str) -> ServedPlugin[Req, Resp]:
        """Itself, for a call without an operation.

        Raises:
            InvalidArgumentError: the call names one: it is for another plugin, or another version of this one.
        """
        if operation and not self._any_operation:
            text = f"{self} has no operation {shown_key(operation)!r}, only one function: call it without operation"
            raise InvalidArgumentError(text)
        return self

    def info(self) -> PluginInfo:
        """Name, version and the other arguments of the decorator."""
        return self._info

    def execute(self, request: Req, context: ExecutionContext, /) -> Resp:
        """Calls the function as a plugin in this process.

        Raises:
            PluginExecutionError: the function raised :class:`Rejected`.
            PluginTimeoutError: a plugin call within the function used up ``context.timeout``.
            PluginUnavailableError: the function raised :class:`Unavailable`.
            PluginInternalError: the function raised anything else, which is the cause.
            PluginRequestError: the context names another operation.
        """
        name, limit = self._info.name, None
        if context.operation and context.operation != self.operation:
            found_for(self, context.operation)
        request = self._typed.admit_request(request)
        try:
            if context.timeout is None:
                return self._admit(self(request, context))  # type: ignore[no-any-return]
            with deadline(context.timeout, clock=self._clock) as limit:
                return self._admit(self(request, context))  # type: ignore[no-any-return]
        except Rejected as exc:
            details = {"metadata": exc.metadata} if exc.metadata else None
            raise PluginExecutionError(exc.message, plugin=name, details=details) from exc
        except Unavailable as exc:
            replay = None if exc.retry_after is None else Replay.ALWAYS
            raise PluginUnavailableError(exc.message, plugin=name, retry_after=exc.retry_after, replay=replay) from exc
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            # An error of another plugin is not this plugin's: "nothing was sent" is not true of this one's work.
            if isinstance(exc, PluginTimeoutError) and limit is not None and limit.remaining() <= 0:
                raise PluginTimeoutError("the deadline passed during execution", plugin=name) from exc
            raise PluginInternalError(f"raised {type(exc).__name__}: {exc}", plugin=name) from exc

    def _admit(self, response: Any) -> Any:
        """The response, held to its type as over a wire; metadata around it stays."""
        if type(response) is Reply:
            return attrs.evolve(response, value=self._typed.admit_answer(response.value))
        return self._typed.admit_answer(response)

    def decode(self, data: Any, deadline: Deadline | None = None) -> Req:
        """The typed request from parsed JSON.

        Raises:
            InvalidArgumentError: names the first fields that do not fit.
            PluginTimeoutError: the deadline passed.
        """
        try:
            return typing.cast("Req", self._structure(data, deadline))
        except Exception as exc:  # noqa: BLE001 - raised below
            failure = exc
        try:  # not within the except block: an exception of the host keeps its own context
            raise error_of(failure) or _mismatch(failure, data)
        finally:
            del failure  # its traceback holds this frame: no work for the collector

    def encode(self, response: Resp) -> bytes:
        """The response as one line of JSON.

        Raises:
            UnserializableRequestError: it is not of the type, or has a value that JSON lacks.
        """
        return self._codec.encode(response)


def _mismatch(exc: Exception, data: Any) -> InvalidArgumentError:
    error = InvalidArgumentError(f"the request does not fit: {explain_mismatch(exc, data)}")
    error.__cause__ = exc
    return error


def _takes_context(function: Callable[..., Any], where: str) -> bool:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidArgumentError(f"{where}: a served function can't be async or a generator; return the response")
    signature = inspect.signature(function)
    for arguments in ((None, None), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) == 2
    raise InvalidArgumentError(f"{where}: expected f(request) or f(request, context), got f{signature}")


def _structurer(kind: Any, where: str) -> Callable[[Any, Deadline | None], Any]:
    try:
        return structurer_for(kind)
    except InvalidArgumentError as exc:
        raise InvalidArgumentError(f"{where}: {exc.message}") from exc


class _Details(TypedDict, total=False):
    """What :func:`plugin` takes besides the function and its types."""

    name: str | None
    version: str
    description: str
    author: str
    capabilities: Sequence[str]
    metadata: Mapping[str, str] | None
    health: HealthCheck | None


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[[Req, ExecutionContext], Resp], /) -> ServedPlugin[Req, Resp]: ...
    @overload
    def __call__(self, function: Callable[[Req], Resp], /) -> ServedPlugin[Req, Resp]: ...


@overload
def plugin(function: Callable[[Req, ExecutionContext], Resp], /) -> ServedPlugin[Req, Resp]: ...
@overload
def plugin(function: Callable[[Req], Resp], /) -> ServedPlugin[Req, Resp]: ...
@overload
def plugin(**details: Unpack[_Details]) -> _Decorator: ...
@overload
def plugin(
    *, request: object = ..., response: object = ..., **details: Unpack[_Details]
) -> Callable[[Callable[..., Any]], ServedPlugin[Any, Any]]: ...
def plugin(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "",
    description: str = "",
    author: str = "",
    capabilities: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    health: HealthCheck | None = None,
    request: Any = UNSET,
    response: Any = UNSET,
) -> Any:
    """Makes a plugin of ``f(request)`` or ``f(request, context)``, with the types of its annotations.

    A request is checked against its annotation before the function runs; ``Any`` accepts all JSON. The function
    returns the response, or a :class:`Reply` of the response and metadata. It raises :class:`Rejected` for a business
    error and :class:`Unavailable` for a temporary one. Any other exception is an internal error: it is logged here,
    and the caller gets no details of it. ``context`` has what the caller sent; ``context.timeout`` is the seconds that
    remain, and also limits calls of other plugins within the function.

    Args:
        name: name of the plugin; the function's name when None.
        version: version of the plugin.
        description: what it does; the first line of the function's docstring when empty.
        author: its author.
        capabilities: what it can do, as the author names it.
        metadata: further facts about it.
        health: called without arguments for each health check, on a worker thread; must be quick. True, "healthy"
            and "degraded" mean that it can take calls; any other text describes a fault; a
            :class:`~goplugins.models.results.HealthStatus` is reported as it is.
        request: type of requests, for a function without annotations, such as a lambda.
        response: type of responses, likewise.

    Raises:
        InvalidArgumentError: the function takes other arguments or lacks a type, or a type can't be converted from
            JSON; or the name can't be encoded as UTF-8.

    >>> from goplugins import ExecutionContext, serve
    >>> @serve.plugin(name="greeter", version="1.2.0")
    ... def greet(request: str, context: ExecutionContext) -> str:
    ...     return f"Hello {request}"
    >>> greet("Ada"), greet.info().name
    ('Hello Ada', 'greeter')
    """

    def decorate(function: Callable[..., Any]) -> ServedPlugin[Any, Any]:
        own_name = checked_name(name_of(function) if name is None else name)
        summary = description or summary_of(function)
        info = PluginInfo(own_name, version, summary, author, tuple(capabilities), dict(metadata or {}))
        return ServedPlugin(function, info, health, request=request, response=response)

    return decorate if function is None else decorate(function)


def plain_function(function: Callable[..., Any]) -> ServedPlugin[Any, Any]:
    """The plugin of a function of this process that no decorator has made a plugin.

    It takes calls that name an operation, if it takes the context, which has the name: its caller and it are always of
    one version, other than with a server.

    Raises:
        InvalidArgumentError: as for :func:`plugin`.
    """
    return ServedPlugin(function, PluginInfo(name_of(function), description=summary_of(function)), any_operation=True)


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function, or of the class of another callable."""
    return str(getattr(function, "__name__", type(function).__name__))


def summary_of(function: Callable[..., Any]) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(function) or "").partition("\n")[0]
