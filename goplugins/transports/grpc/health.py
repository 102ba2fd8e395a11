"""Health checks over gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from goplugins.enums import PluginStatus
from goplugins.errors import PluginRequestError
from goplugins.models.results import HealthStatus
from goplugins.runtime.deadline import Deadline
from goplugins.transports.grpc.messages import CHECK, HEALTH, messages, parse
from goplugins.transports.health_status import status_of_word, without_report


class HealthChecker:
    """Checks the health of one plugin: by the standard health service, or by PluginService's own method.

    The own method's reply has more than one bit, but only plugins of goplugins have it.

    Args:
        send: makes a call outside of the plugin's policies: method, request, deadline. Raises a PluginError.
        service: the name to check by the standard service; empty for the server as a whole.
        kind: see :class:`goplugins.HealthCheckConfig`.
    """

    def __init__(self, send: Callable[[str, bytes, Deadline], bytes], service: str, kind: str) -> None:
        self._send = send
        self._service = service
        self._kind = kind

    def check(self, deadline: Deadline) -> HealthStatus:
        """One health check.

        Raises:
            PluginError: it failed.
        """
        if self._kind == "message":
            reply = parse(messages().HealthResponse, self._send(HEALTH, b"", deadline))
            status = status_of_word(reply.status, PluginStatus.HEALTHY)
            return HealthStatus(status, reply.message, metadata=reply.metadata)
        try:
            return self._standard_service(deadline)
        except PluginRequestError:
            if self._kind != "connect":
                raise
            return HealthStatus(PluginStatus.HEALTHY, "it answers")

    def _standard_service(self, deadline: Deadline) -> HealthStatus:
        service = self._service
        request = messages().HealthCheckRequest(service=service).SerializeToString()
        response: Any = messages().HealthCheckResponse
        try:
            serving = parse(response, self._send(CHECK, request, deadline)).status
        except PluginRequestError as error:
            status = error.details.get("status")
            if status == "UNIMPLEMENTED" and not service:
                return without_report("health service")
            if status == "NOT_FOUND" and not service:
                return HealthStatus(
                    message="its health service has no status for the server as a whole", reported=False
                )
            raise
        if serving == response.SERVING or self._kind == "connect":
            return HealthStatus(PluginStatus.HEALTHY)
        if serving == response.UNKNOWN:
            return HealthStatus(message="its health service reports UNKNOWN")
        names = response.ServingStatus.DESCRIPTOR.values_by_number
        name = names[serving].name if serving in names else str(serving)
        return HealthStatus(PluginStatus.UNHEALTHY, f"its health service reports {name}")
