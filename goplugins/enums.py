"""Enumerations of the public API. Values are lower-case strings; the integers of the Go library are accepted, too."""

from __future__ import annotations

import enum

__all__ = [
    "AuthMethod",
    "CircuitBreakerState",
    "LoadBalancingStrategy",
    "PluginStatus",
    "ReloadStrategy",
    "SpanStatusCode",
    "TransportType",
]


_NOT_IN_GO = frozenset({"oauth2", "p2c", "python"})
"""Members that the Go library lacks, so that no integer stands for them."""


class _GoEnum(enum.StrEnum):
    """A string enum that also accepts Go's integer, which is the index of the member: ``PluginStatus(1)``."""

    @classmethod
    def _missing_(cls, value: object) -> _GoEnum | None:
        if isinstance(value, int) and not isinstance(value, bool):
            members = [member for member in cls if member.value not in _NOT_IN_GO]
            if 0 <= value < len(members):
                return members[value]
        return None


class TransportType(_GoEnum):
    """How a plugin is reached."""

    HTTP = "http"
    HTTPS = "https"
    GRPC = "grpc"
    GRPC_TLS = "grpc-tls"
    UNIX = "unix"
    EXECUTABLE = "exec"
    PYTHON = "python"


class AuthMethod(_GoEnum):
    """How calls are authenticated."""

    NONE = "none"
    API_KEY = "api-key"
    BEARER = "bearer"
    BASIC = "basic"
    MTLS = "mtls"
    CUSTOM = "custom"
    OAUTH2 = "oauth2"


class PluginStatus(_GoEnum):
    """A plugin's health; UNKNOWN before the first health check."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    OFFLINE = "offline"


class CircuitBreakerState(_GoEnum):
    """CLOSED admits calls, OPEN refuses them, HALF_OPEN admits a few as probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class LoadBalancingStrategy(_GoEnum):
    """How a load balancer picks the member for a call."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LEAST_CONNECTIONS = "least-connections"
    LEAST_LATENCY = "least-latency"
    WEIGHTED_RANDOM = "weighted-random"
    CONSISTENT_HASH = "consistent-hash"
    PRIORITY = "priority"
    P2C = "p2c"


class ReloadStrategy(_GoEnum):
    """How a reload replaces changed plugins."""

    RECREATE = "recreate"
    GRACEFUL = "graceful"
    ROLLING = "rolling"


class SpanStatusCode(_GoEnum):
    """How a traced call ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
