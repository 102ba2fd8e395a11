"""Interceptors: functions of the application around every call of a manager."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, NoReturn, TypeAlias

from goplugins.errors import (
    InterceptorError,
    InvalidArgumentError,
    PluginError,
    ReplyTypeError,
    belongs_to_host,
    host_exception,
)
from goplugins.models.call_info import CallInfo
from goplugins.runtime.call import Call
from goplugins.runtime.text import printable

__all__ = ["Interceptor", "Interceptors"]

Interceptor: TypeAlias = Callable[[CallInfo, Callable[[], Any]], Any]
"""Takes the call and a function that makes the rest of it, and returns the answer."""

_NOTHING: Any = object()


class Interceptors:
    """The interceptors of one manager, outermost first.

    Args:
        functions: the interceptors.

    Raises:
        InvalidArgumentError: one can't be called with a call and a function, or is asynchronous.
    """

    def __init__(self, functions: Iterable[Interceptor]) -> None:
        if callable(functions) or not isinstance(functions, Iterable):
            raise InvalidArgumentError("interceptors: expected a list of functions, such as [add_tenant]")
        self.functions = tuple(functions)
        for function in self.functions:
            _check(function)

    def run(self, name: str, call: Call, make: Callable[[], Any]) -> Any:
        """Makes a call through all interceptors, on this thread.

        Args:
            name: the plugin's name.
            call: the call.
            make: makes it.

        Raises:
            InterceptorError: one raised an exception that is neither a PluginError nor the host's.
            ReplyTypeError: the answer of one does not fit the response type.
        """
        return _Rest(self.functions, 0, CallInfo(name, call), call, make).run()

    def not_picklable(self) -> str:
        """Why they can't be pickled, by their names; empty if they can."""
        for function in self.functions:
            if not isinstance(function, FunctionType) or not _is_importable(function):
                return f"interceptor {_name(function)} is not a function of a module: define it with def in one"
        return ""


class _Rest:
    """The rest of a call, from one interceptor on: the function ``proceed`` of the one before."""

    __slots__ = ("_call", "_functions", "_info", "_make", "_place", "answer", "failed", "used")

    def __init__(
        self,
        functions: tuple[Interceptor, ...],
        place: int,
        info: CallInfo,
        call: Call,
        make: Callable[[], Any],
    ) -> None:
        self._functions = functions
        self._place = place
        self._info = info
        self._call = call
        self._make = make
        self.used = self.failed = False
        self.answer = _NOTHING

    def __call__(self) -> Any:
        """Makes the rest of the call, once."""
        if self.used:
            name = _name(self._functions[self._place - 1])
            raise InvalidArgumentError(
                f"interceptor {name} called proceed() again, or after its end: a call is made once; "
                "retry in the configuration makes further attempts"
            )
        self.used = self.failed = True
        self.answer = answer = self.run()
        self.failed = False
        return answer

    def run(self) -> Any:
        """Calls the interceptor, or makes the call after the last one."""
        if self._place == len(self._functions):
            self._info._made = True
            return self._make()
        interceptor = self._functions[self._place]
        rest = _Rest(self._functions, self._place + 1, self._info, self._call, self._make)
        try:
            answer = interceptor(self._info, rest)
        except Exception as exc:
            if rest.failed and isinstance(exc, PluginError):
                raise  # of the call itself, or of an inner interceptor
            self._raise(interceptor, exc)
        finally:
            rest.used = True
        return answer if answer is rest.answer else self._own_answer(interceptor, answer, rest.answer)

    def _raise(self, interceptor: Interceptor, exc: Exception) -> NoReturn:
        """Raises what an exception of an interceptor is to the caller."""
        try:
            if belongs_to_host(exc):
                raise exc
            host = host_exception(exc)
            if host is not None:
                raise host  # as it is, whatever the interceptor took it for
            if isinstance(exc, PluginError):
                raise self._named(exc)
            text = f"interceptor {_name(interceptor)} raised {type(exc).__name__}: {printable(exc)}"
            raise self._named(InterceptorError(text)) from exc
        finally:
            host = None
            del exc, host  # their tracebacks hold this frame: no work for the collector

    def _own_answer(self, interceptor: Interceptor, answer: Any, of_call: Any) -> Any:
        """An answer that is not that of the rest of the call, held to the response type."""
        if answer is None and of_call is not _NOTHING:
            text = f"interceptor {_name(interceptor)} returned None after proceed() had answered: return that answer"
            raise self._named(InterceptorError(text))
        try:
            answer = self._call.codec.typed.admit_answer(answer)
        except ReplyTypeError as error:
            error.message = f"interceptor {_name(interceptor)}: {error.message}"
            self._named(error)
            raise
        self._call.source, self._call.member = "interceptor", ""
        return answer

    def _named(self, error: PluginError) -> PluginError:
        """The error, with the plugin of the call unless it is that of another one."""
        if error.plugin is None:
            error.plugin, error.operation = self._info.plugin, self._call.operation or None
            error.attempts = self._call.attempts
        return error


def _check(function: Any) -> None:
    if not callable(function):
        raise InvalidArgumentError(f"interceptors: expected functions, got {function!r}")
    if inspect.iscoroutinefunction(function):
        raise InvalidArgumentError(f"interceptors: {_name(function)} is asynchronous; calls are not")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise InvalidArgumentError(f"interceptors: {_name(function)} does not take (call, proceed)") from None
    except ValueError:  # a function of C without a signature
        return


def _name(function: Any) -> str:
    kind = type(function)
    module = getattr(function, "__module__", None) or kind.__module__
    return f"{module}.{getattr(function, '__qualname__', None) or kind.__qualname__}"


def _is_importable(function: FunctionType) -> bool:
    found: Any = inspect.getmodule(function)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function
