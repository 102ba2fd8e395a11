"""A look at a plugin's health over gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from goplugins.enums import PluginStatus
from goplugins.errors import BadReplyError, PluginError, PluginRequestError, belongs_to_host
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.grpc.messages import CHECK, HEALTH, SERVING, messages
from goplugins.transports.health_status import failed_look, status_of_word

__all__ = ["Asker", "HealthReader"]

_LONGEST_MESSAGE = 500

_Verdict = tuple[PluginStatus, str, dict[str, str]]


class Asker(Protocol):
    """Makes one call beside the plugin's own, if a place is free at once."""

    def __call__(self, method: str, request: bytes, deadline: Deadline, /) -> bytes:
        """The reply's bytes; raises a :class:`~goplugins.errors.PluginError`."""
        ...


class HealthReader:
    """Asks one plugin how it is.

    PluginService is asked first, since only its answer tells more than yes and no; then the standard service. A
    plugin that has neither, and says so, is there and answers.

    Args:
        ask: makes the calls.
        service: asks the standard service, and for this one.
        native: whether the plugin is a service of another kind, which has no PluginService.
        clock: measures.
        scrub: takes secrets out of a text that came from afar.
    """

    def __init__(self, ask: Asker, service: str, native: bool, clock: Clock, scrub: Callable[[str], str]) -> None:
        self._ask = ask
        self._service = service
        self._has_own = not native and not service
        self._clock = clock
        self._scrub = scrub

    def look(self, timeout: float) -> HealthStatus:
        """One look within ``timeout`` seconds; a verdict in every case."""
        clock = self._clock
        started = clock.monotonic()
        # Not Deadline.after(): a caller's enclosing deadline must not make a plugin look dead.
        deadline = Deadline(started + timeout, clock)
        try:
            status, message, metadata = self._verdict(deadline)
        except PluginError as error:
            (status, message), metadata = failed_look(error), {}
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            status, message, metadata = PluginStatus.UNHEALTHY, f"{type(exc).__name__}: {exc}", {}
        return HealthStatus(
            status=status,
            message=self._scrub(message)[:_LONGEST_MESSAGE],
            last_check=clock.time(),
            response_time=clock.monotonic() - started,
            metadata=metadata,
        )

    def _verdict(self, deadline: Deadline) -> _Verdict:
        if self._has_own:
            try:
                return self._own(deadline)
            except PluginRequestError as error:
                if error.details.get("status") != "UNIMPLEMENTED":
                    raise
        return self._standard(deadline)

    def _own(self, deadline: Deadline) -> _Verdict:
        reply = parse(messages().HealthResponse, self._ask(HEALTH, b"", deadline))
        status = status_of_word(reply.status, PluginStatus.HEALTHY)
        metadata = {self._scrub(key): self._scrub(value) for key, value in reply.metadata.items()}
        return status, reply.message, metadata

    def _standard(self, deadline: Deadline) -> _Verdict:
        service = self._service
        request = messages().HealthCheckRequest(service=service).SerializeToString()
        try:
            reply = parse(messages().HealthCheckResponse, self._ask(CHECK, request, deadline))
        except PluginRequestError as error:
            status = error.details.get("status")
            if status == "UNIMPLEMENTED" and not service:
                return PluginStatus.HEALTHY, "it answers; it has no health service", {}
            if status == "NOT_FOUND" and not service:
                return PluginStatus.UNKNOWN, "its health service knows of single services only", {}
            raise
        if reply.status == SERVING["serving"]:
            return PluginStatus.HEALTHY, "", {}
        if reply.status == SERVING["unknown"]:
            return PluginStatus.UNKNOWN, "its health service does not know", {}
        word = next((word for word, number in SERVING.items() if number == reply.status), str(reply.status))
        return PluginStatus.UNHEALTHY, f"its health service says {word.upper()}", {}


def parse(kind: Any, data: bytes) -> Any:
    """The message that ``data`` holds.

    Raises:
        BadReplyError: it holds none.
    """
    try:
        return kind.FromString(data)
    except Exception as exc:
        from google.protobuf.message import DecodeError

        if not isinstance(exc, DecodeError):
            raise
        raise BadReplyError(f"the reply is no {kind.DESCRIPTOR.name}: {exc}") from exc
