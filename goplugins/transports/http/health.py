"""A look at a plugin's health over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from goplugins.enums import PluginStatus
from goplugins.errors import PluginError
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.health_status import failed_look, status_of_word

if TYPE_CHECKING:
    from goplugins.transports.http.engine import Engine, HTTPReply
    from goplugins.transports.http.request import RequestWriter

__all__ = ["HealthReader"]

_LONGEST_MESSAGE = 500


class HealthReader:
    """Asks one plugin how it is."""

    def __init__(
        self,
        engine: Engine,
        request: Callable[[], RequestWriter],
        clock: Clock,
        scrub: Callable[[str], str],
    ) -> None:
        self._engine = engine
        self._request = request
        self._clock = clock
        self._scrub = scrub

    def look(self, timeout: float) -> HealthStatus:
        """One GET within ``timeout`` seconds; a verdict in every case."""
        clock = self._clock
        started = clock.monotonic()
        # Not Deadline.after(): a caller's enclosing deadline must not make a plugin look dead.
        deadline = Deadline(started + timeout, clock)
        status, message, metadata = self._verdict(deadline)
        return HealthStatus(
            status=status,
            message=self._scrub(message)[:_LONGEST_MESSAGE],
            last_check=clock.time(),
            response_time=clock.monotonic() - started,
            metadata={self._scrub(key): self._scrub(value) for key, value in metadata.items()},
        )

    def _verdict(self, deadline: Deadline) -> tuple[PluginStatus, str, dict[str, str]]:
        try:
            reply = self._engine.look(self._request(), deadline)
        except PluginError as error:
            return *failed_look(error), {}
        return self._judged(reply)

    @staticmethod
    def _judged(reply: HTTPReply) -> tuple[PluginStatus, str, dict[str, str]]:
        from goplugins.transports.http.reply import failure_text, fields_of, texts_of

        fields = reply.fields = fields_of(reply)
        text = failure_text(reply)
        metadata = texts_of(fields)
        if not 200 <= reply.status < 300:
            return PluginStatus.UNHEALTHY, f"HTTP {reply.status}" + (f": {text}" if text else ""), metadata
        return status_of_word(fields.get("status"), PluginStatus.HEALTHY), text, metadata
