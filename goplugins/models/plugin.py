"""The Plugin protocol, which everything that can be called by name implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import attrs

from goplugins.models.context import ExecutionContext
from goplugins.models.new_fields import with_new_fields
from goplugins.models.results import HealthStatus

__all__ = ["OperationInfo", "Plugin", "PluginInfo"]

ReqIn_contra = TypeVar("ReqIn_contra", contravariant=True)


RespOut_co = TypeVar("RespOut_co", covariant=True)


@attrs.frozen
class OperationInfo:
    """One function of a plugin that has several, as the plugin describes it.

    Attributes:
        description: what it does.
        idempotent: whether a call can be repeated without further effect.
        default: whether calls that name no operation go to it.
        request: JSON Schema of its requests.
        response: JSON Schema of its answers.
    """

    description: str = ""
    idempotent: bool = False
    default: bool = False
    request: Mapping[str, Any] = attrs.field(factory=dict)
    response: Mapping[str, Any] = attrs.field(factory=dict)


@with_new_fields
@attrs.frozen
class PluginInfo:
    """Name, version and description of a plugin; its operations by name, if it is known to have several functions."""

    name: str
    version: str = ""
    description: str = ""
    author: str = ""
    capabilities: Sequence[str] = ()
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    operations: Mapping[str, OperationInfo] = attrs.field(factory=dict)


class Plugin(Protocol[ReqIn_contra, RespOut_co]):
    """The protocol of all that can be called by name: a service behind a transport, a group, or your own object."""

    def info(self) -> PluginInfo:
        """Name and version of the plugin; the first call may request them from it."""
        ...

    def execute(self, request: ReqIn_contra, context: ExecutionContext, /) -> RespOut_co:
        """Makes one attempt; raises a :class:`~goplugins.errors.PluginError` if it fails."""
        ...

    def health(self, timeout: float) -> HealthStatus:
        """Checks the plugin's health within ``timeout`` seconds; never raises."""
        ...

    def close(self) -> None:
        """Closes connections and processes; can be called repeatedly."""
        ...
