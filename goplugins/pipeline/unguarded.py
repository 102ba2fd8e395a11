"""A plugin without its policies: for inspection, not for traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Codec
from goplugins.transports.single_call import single_call

if TYPE_CHECKING:
    from goplugins.pipeline.plugin import GuardedPlugin

Req = TypeVar("Req")
Resp = TypeVar("Resp")


class UnguardedPlugin(Generic[Req, Resp]):
    """What ``get_plugin`` returns for a transport: the typed :class:`~goplugins.models.plugin.Plugin` methods."""

    def __init__(self, guarded: GuardedPlugin, codec: Codec) -> None:
        self.sender = guarded.wire
        self._guarded = guarded
        self._codec = codec

    def info(self) -> PluginInfo:
        """Name and version of the plugin."""
        return self.sender.info()

    def execute(self, request: Req, context: ExecutionContext = ExecutionContext(), /) -> Resp:  # noqa: B008 - frozen
        """Makes one attempt, without retries, breaker or limiter."""
        pipeline, operation = self._guarded.pipeline, context.operation
        timeout, idempotent = (
            pipeline.usual_of(operation) if operation else (pipeline.request_timeout, pipeline.idempotent)
        )
        return single_call(  # type: ignore[no-any-return]
            self.sender,
            request,
            context,
            timeout=timeout,
            idempotent=idempotent,
            clock=self._guarded.clock,
            codec=self._codec,
        )

    def health(self, timeout: float) -> HealthStatus:
        """Checks the plugin's health."""
        return self.sender.health(timeout)

    def close(self) -> None:
        """Does nothing: the plugin belongs to the manager, whose ``unregister`` closes it."""
