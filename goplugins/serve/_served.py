"""What all servers of this package serve: a plugin with one function, or with several operations."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import attrs

from goplugins.config.field_types import surrogate_fault
from goplugins.enums import PluginStatus
from goplugins.errors import InvalidArgumentError, PluginRequestError
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import OperationInfo, PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline, deadline

HealthCheck = Callable[[], "HealthStatus | bool | str"]

_logger = logging.getLogger("goplugins.serve")


class Function(Protocol):
    """One function of a plugin, with its types.

    Attributes:
        name: name of the plugin.
        operation: name of the function among several; empty for a plugin with one function.
    """

    name: str
    operation: str

    def __call__(self, request: Any, context: ExecutionContext, /) -> Any: ...

    def decode(self, data: Any, deadline: Deadline | None = None) -> Any:
        """The typed request from parsed JSON.

        Raises:
            InvalidArgumentError: names the first fields that do not fit.
            PluginTimeoutError: the deadline passed.
        """
        ...

    def encode(self, response: Any) -> bytes:
        """The response as one line of JSON.

        Raises:
            UnserializableRequestError: it is not of the type, or has a value that JSON lacks.
        """
        ...


class Served(ABC):
    """A plugin that can be served. It is also a :class:`~goplugins.models.plugin.Plugin` in this process.

    Args:
        health: called for each health check; None for a plugin that is always healthy.
        clock: source of time.

    Attributes:
        name: name of the plugin.
    """

    name: str

    def __init__(self, health: HealthCheck | None, clock: Clock = SYSTEM_CLOCK) -> None:
        self._health = health
        self._clock = clock

    @abstractmethod
    def find(self, operation: str) -> Function:
        """The function of an operation; of an empty name the one for calls that name none.

        Raises:
            InvalidArgumentError: there is none; the text is for the caller.
        """

    @abstractmethod
    def info(self) -> PluginInfo:
        """What its author states about it."""

    @property
    def operations(self) -> Mapping[str, OperationInfo]:
        """Its operations, by name; empty for a plugin with one function."""
        return {}

    @abstractmethod
    def execute(self, request: Any, context: ExecutionContext, /) -> Any:
        """Calls its function as a plugin in this process."""

    def health(self, timeout: float = 5.0) -> HealthStatus:
        """Calls the plugin's health function; a plugin without one is healthy.

        Args:
            timeout: seconds for the plugin calls that the health function makes.
        """
        started = self._clock.monotonic()
        try:
            with deadline(timeout, clock=self._clock):
                status = _health_status(True if self._health is None else self._health())
        except (Exception, SystemExit):
            _logger.exception("plugin %r: its health check failed", self.name)
            status = HealthStatus(PluginStatus.UNHEALTHY, "the health check failed")
        return attrs.evolve(
            status,
            last_check=status.last_check or self._clock.time(),
            response_time=status.response_time or self._clock.monotonic() - started,
        )

    def close(self) -> None:  # noqa: B027 - a default
        """Does nothing: functions have no resources."""

    def __reduce__(self) -> str:
        """Pickles by name, as functions do: another process uses its own.

        Raises:
            InvalidArgumentError: the name refers to something else in its module.
        """
        module, name = self.__module__, self._global_name()
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not self:
            raise InvalidArgumentError(
                f"plugin {self.name!r} can't be pickled: {module}.{name or '?'} is not the plugin itself; "
                "decorate a function at a module's top level, or assign the plugin to its function's name"
            )
        return name

    @abstractmethod
    def _global_name(self) -> str:
        """The name by which its module has it."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def checked_name(name: str) -> str:
    """A name for a plugin, once it is known that every transport can carry it.

    Raises:
        InvalidArgumentError: it can't be encoded as UTF-8.
    """
    if fault := surrogate_fault(name):
        raise InvalidArgumentError(f"name: {name!r} {fault}")
    return name


def as_served(plugin: Any) -> Served:
    """The plugin itself, once it is known that it can be served.

    Raises:
        InvalidArgumentError: it can't.
    """
    if isinstance(plugin, Served):
        return plugin
    expected = "a function with @serve.plugin, or a serve.Plugin"
    raise InvalidArgumentError(f"expected {expected}, got {type(plugin).__name__}")


def found_for(plugin: Served, operation: str) -> Function:
    """The function of an operation, for a caller in this process.

    Raises:
        PluginRequestError: there is none: the error that a caller over a wire gets.
    """
    try:
        return plugin.find(operation)
    except InvalidArgumentError as exc:
        raise PluginRequestError(f"the request was refused: {exc.message}", plugin=plugin.name) from None


def _health_status(found: object) -> HealthStatus:
    """The result of a health function as a status. A text that is no status describes a fault."""
    if isinstance(found, HealthStatus):
        return found
    if isinstance(found, bool):
        return HealthStatus(PluginStatus.HEALTHY if found else PluginStatus.UNHEALTHY)
    if not isinstance(found, str):
        raise InvalidArgumentError(f"expected a HealthStatus, bool or str, got {type(found).__name__}")
    if found in set(PluginStatus):
        return HealthStatus(PluginStatus(found))
    return HealthStatus(PluginStatus.UNHEALTHY, found)
