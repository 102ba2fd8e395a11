"""Health checks over gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from goplugins.enums import PluginStatus
from goplugins.errors import PluginRequestError
from goplugins.runtime.deadline import Deadline
from goplugins.transports.grpc.messages import CHECK, HEALTH, messages, parse
from goplugins.transports.health_status import CheckResult, status_of_word


class HealthChecker:
    """Checks the health of one plugin.

    PluginService's own method is called first, since its reply has more than one bit; then the standard health
    service. A plugin that reports both as unimplemented is healthy: it answers.

    Args:
        send: makes a call outside of the plugin's policies: method, request, deadline. Raises a PluginError.
        service: the name to check by the standard service alone; empty for the server as a whole.
        native: whether the plugin is a service of another kind, without PluginService.
    """

    def __init__(self, send: Callable[[str, bytes, Deadline], bytes], service: str, native: bool) -> None:
        self._send = send
        self._service = service
        self._has_own_method = not native and not service

    def check(self, deadline: Deadline) -> CheckResult:
        """One health check.

        Raises:
            PluginError: it failed.
        """
        if self._has_own_method:
            try:
                return self._own_method(deadline)
            except PluginRequestError as error:
                if error.details.get("status") != "UNIMPLEMENTED":
                    raise
        return self._standard_service(deadline)

    def _own_method(self, deadline: Deadline) -> CheckResult:
        reply = parse(messages().HealthResponse, self._send(HEALTH, b"", deadline))
        status = status_of_word(reply.status, PluginStatus.HEALTHY)
        return status, reply.message, reply.metadata

    def _standard_service(self, deadline: Deadline) -> CheckResult:
        service = self._service
        request = messages().HealthCheckRequest(service=service).SerializeToString()
        response: Any = messages().HealthCheckResponse
        try:
            serving = parse(response, self._send(CHECK, request, deadline)).status
        except PluginRequestError as error:
            status = error.details.get("status")
            if status == "UNIMPLEMENTED" and not service:
                return PluginStatus.HEALTHY, "it answers; it has no health service", {}
            if status == "NOT_FOUND" and not service:
                return PluginStatus.UNKNOWN, "its health service has no status for the server as a whole", {}
            raise
        if serving == response.SERVING:
            return PluginStatus.HEALTHY, "", {}
        if serving == response.UNKNOWN:
            return PluginStatus.UNKNOWN, "its health service reports UNKNOWN", {}
        names = response.ServingStatus.DESCRIPTOR.values_by_number
        name = names[serving].name if serving in names else str(serving)
        return PluginStatus.UNHEALTHY, f"its health service reports {name}", {}
