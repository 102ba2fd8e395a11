"""A served plugin with several functions, each with types of its own: its operations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

import attrs

from goplugins.config.operations import NAME_FIX, is_operation_name
from goplugins.config.problems import unknown_fix
from goplugins.errors import InvalidArgumentError
from goplugins.json_text import shown_key
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import OperationInfo, PluginInfo
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.serve._contract import UNSET
from goplugins.serve._json_schema import json_schema
from goplugins.serve._served import HealthCheck, Served, checked_name, found_for
from goplugins.serve._served_function import ServedPlugin, name_of, summary_of

F = TypeVar("F", bound=Callable[..., Any])


class Plugin(Served):
    """A plugin with several functions, which callers choose by ``operation=``.

    Where it has only one, or a default one, callers may leave the name out. Its functions stay as they are: tests call
    them directly. It is also a :class:`~goplugins.models.plugin.Plugin`: a manager can register and call it in this
    process.

    Args:
        name: name of the plugin.
        version: version of the plugin.
        description: what it does.
        author: its author.
        capabilities: what it can do, as the author names it.
        metadata: further facts about it.
        health: as for :func:`plugin`.
        clock: source of time.

    Raises:
        InvalidArgumentError: the name can't be encoded as UTF-8.

    >>> from goplugins import serve
    >>> text = serve.Plugin("text", "1.0.0")
    >>> @text.operation
    ... def shout(request: str) -> str:
    ...     return request.upper()
    >>> @text.operation(idempotent=True)
    ... def count(request: str) -> int:
    ...     return len(request)
    >>> count("Ada"), list(text.operations), text.operations["count"].response
    (3, ['shout', 'count'], {'type': 'integer'})
    """

    def __init__(
        self,
        name: str,
        version: str = "",
        *,
        description: str = "",
        author: str = "",
        capabilities: Sequence[str] = (),
        metadata: Mapping[str, str] | None = None,
        health: HealthCheck | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(health, clock)
        self.name = checked_name(name)
        self.__module__ = sys._getframe(1).f_globals.get("__name__", "")  # where a pickle finds it
        self._own_info = PluginInfo(name, version, description, author, tuple(capabilities), dict(metadata or {}))
        self._functions: Mapping[str, ServedPlugin[Any, Any]] = {}
        self._stated: Mapping[str, OperationInfo] = {}
        self._described: Mapping[str, OperationInfo] | None = None

    @overload
    def operation(self, function: F, /) -> F: ...

    @overload
    def operation(
        self,
        function: None = None,
        /,
        *,
        name: str | None = ...,
        idempotent: bool = ...,
        default: bool = ...,
        description: str = ...,
        request: Any = ...,
        response: Any = ...,
    ) -> Callable[[F], F]: ...

    def operation(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        idempotent: bool = False,
        default: bool = False,
        description: str = "",
        request: Any = UNSET,
        response: Any = UNSET,
    ) -> Any:
        """Adds ``f(request)`` or ``f(request, context)`` as an operation, and returns it as it is.

        Requests, answers and exceptions are as for :func:`plugin`; ``context.operation`` has the operation's name.

        Args:
            function: the function.
            name: name of the operation; the function's name when None.
            idempotent: a call can be repeated without further effect. Callers over a wire read it in the plugin's info;
                they state it in their own configuration.
            default: calls without an operation go to it. A plugin with one operation needs none.
            description: what it does; the first line of the function's docstring when empty.
            request: type of requests, for a function without annotations, such as a lambda.
            response: type of responses, likewise.

        Raises:
            InvalidArgumentError: the name is taken or can't be one, there is a default already, or the function takes
                other arguments or lacks a type.
        """

        def add(function: F) -> F:
            own_name = name_of(function) if name is None else name
            self._check_new(own_name, default)
            called: ServedPlugin[Any, Any] = ServedPlugin(
                function, self._own_info, request=request, response=response, operation=own_name, clock=self._clock
            )
            stated = OperationInfo(description or summary_of(function), idempotent, default)
            self._stated = {**self._stated, own_name: stated}
            self._functions = {**self._functions, own_name: called}
            self._described = None
            return function

        return add if function is None else add(function)

    def _check_new(self, name: str, default: bool) -> None:
        if not is_operation_name(name):
            raise InvalidArgumentError(f"plugin {self.name!r}: {name!r} is not a name for an operation: {NAME_FIX}")
        if name in self._functions:
            raise InvalidArgumentError(f"plugin {self.name!r} has an operation {name!r} already")
        first = self._default
        if default and first in self._stated and self._stated[first].default:
            raise InvalidArgumentError(f"plugin {self.name!r}: operations {first!r} and {name!r} are both the default")

    @property
    def _default(self) -> str:
        """The operation for calls that name none; empty if there is none."""
        if len(self._stated) == 1:
            return next(iter(self._stated))
        return next((name for name, stated in self._stated.items() if stated.default), "")

    def find(self, operation: str) -> ServedPlugin[Any, Any]:
        """The function of an operation.

        Raises:
            InvalidArgumentError: there is none; the text has a similar name, and all names.
        """
        functions = self._functions
        found = functions.get(operation or self._default)
        if found is not None:
            return found
        names = ", ".join(functions)
        if not functions:
            raise InvalidArgumentError(f"plugin {self.name!r} has no operations")
        if not operation:
            raise InvalidArgumentError(f"plugin {self.name!r} has several operations, name one: {names}")
        what, fix = shown_key(operation), unknown_fix(operation, functions, "operations")
        known = "" if names in fix else f" It has {names}"
        raise InvalidArgumentError(f"plugin {self.name!r} has no operation {what!r}: {fix}{known}")

    @property
    def operations(self) -> Mapping[str, OperationInfo]:
        """The operations, by name, with the JSON Schemas of their requests and answers."""
        if self._described is None:
            default = self._default
            self._described = {
                name: attrs.evolve(
                    stated,
                    default=name == default,
                    request=json_schema(self._functions[name].request_type),
                    response=json_schema(self._functions[name].response_type),
                )
                for name, stated in self._stated.items()
            }
        return self._described

    def info(self) -> PluginInfo:
        """Name, version, the other arguments, and the operations."""
        return attrs.evolve(self._own_info, operations=self.operations)

    def execute(self, request: Any, context: ExecutionContext, /) -> Any:
        """Calls the function of ``context.operation`` as a plugin in this process.

        Raises:
            PluginRequestError: there is no such operation.
            PluginError: as for :meth:`ServedPlugin.execute`.
        """
        function = found_for(self, context.operation)
        if context.operation != function.operation:
            context = attrs.evolve(context, operation=function.operation)
        return self._functions[function.operation].execute(request, context)

    def __repr__(self) -> str:
        return f"<serve.Plugin {self.name!r}: {', '.join(self._functions) or 'no operations'}>"

    def _global_name(self) -> str:
        module = vars(sys.modules.get(self.__module__, object))
        return next((name for name, value in module.items() if value is self), "")
