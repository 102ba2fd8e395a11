"""The Plugin protocol, which everything that can be called by name implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

import attrs

from goplugins.models.context import ExecutionContext
from goplugins.models.results import HealthStatus

__all__ = ["Plugin", "PluginInfo"]

ReqIn_contra = TypeVar("ReqIn_contra", contravariant=True)


RespOut_co = TypeVar("RespOut_co", covariant=True)


@attrs.frozen
class PluginInfo:
    """Who a plugin is."""

    name: str
    version: str = ""
    description: str = ""
    author: str = ""
    capabilities: Sequence[str] = ()
    metadata: Mapping[str, str] = attrs.field(factory=dict)


class Plugin(Protocol[ReqIn_contra, RespOut_co]):
    """What can be called by name: a service behind a transport, a balancer, or an object of your own."""

    def info(self) -> PluginInfo:
        """Who the plugin is; may ask it over the wire the first time."""
        ...

    def execute(self, request: ReqIn_contra, context: ExecutionContext, /) -> RespOut_co:
        """One attempt. Raises a :class:`~goplugins.errors.PluginError` for what went wrong."""
        ...

    def health(self, timeout: float) -> HealthStatus:
        """Looks at the plugin's health for at most ``timeout`` seconds; never raises."""
        ...

    def close(self) -> None:
        """Lets go of connections and processes; harmless when repeated."""
        ...
