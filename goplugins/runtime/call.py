"""One call on its way: the record that the policies fill in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from goplugins.runtime.deadline import Deadline

__all__ = ["NOTHING", "Call", "Codec"]

NOTHING: Mapping[str, str] = {}
"""Headers or metadata of a call that has none."""


class Codec(Protocol):
    """Typed values to JSON and back, for one pair of request and response types."""

    def encode(self, request: Any) -> bytes:
        """The request as one line of JSON.

        Raises:
            UnserializableRequestError: the request is not of the type, or has a value that JSON lacks.
        """
        ...

    def decode(self, data: Any) -> Any:
        """The typed response from parsed JSON.

        Raises:
            ReplyTypeError: names the field that does not fit.
        """
        ...


class Call:
    """What is known of one call while it runs. Belongs to the thread that makes it; never shared.

    Attributes:
        request: the typed request; ``payload`` is its JSON, written once for all attempts.
        deadline: bounds all attempts and waits.
        attempts: how many attempts have been sent.
        max_wait: seconds to wait for the rate limiter; None leaves it to the plugin's configuration.
        admitted: True once the plugin's gate has let the call in; before that, it may look for a successor.
        inside, expected, nested: see :class:`goplugins.resilience.in_flight.Admission`.
        reply_metadata: what the plugin sent beside the data.
        member: which member of a group answered.
        source: who answered: "plugin", "fallback", "cache" or "stale".
        tried: members of a group that failed this call; another attempt goes elsewhere if it can.
        through: the plugins that this call is a fallback of, the first asked first.
        reconnected: True once the call has used up its one silent reconnect.
    """

    __slots__ = (
        "admitted",
        "attempts",
        "codec",
        "deadline",
        "expected",
        "headers",
        "idempotent",
        "inside",
        "key",
        "max_retries",
        "max_wait",
        "member",
        "metadata",
        "nested",
        "payload",
        "preferences",
        "priority",
        "reconnected",
        "reply_metadata",
        "request",
        "request_id",
        "source",
        "through",
        "tried",
    )

    def __init__(
        self,
        request: Any,
        codec: Codec,
        deadline: Deadline,
        request_id: str,
        headers: Mapping[str, str] = NOTHING,
        metadata: Mapping[str, str] = NOTHING,
        idempotent: bool = False,
        max_retries: int | None = None,
        key: str = "",
        priority: int = 0,
        preferences: Sequence[str] = (),
        max_wait: float | None = None,
    ) -> None:
        self.request = request
        self.codec = codec
        self.deadline = deadline
        self.request_id = request_id
        self.headers = headers
        self.metadata = metadata
        self.idempotent = idempotent
        self.max_retries = max_retries
        self.key = key
        self.priority = priority
        self.preferences = preferences
        self.max_wait = max_wait
        self.payload = b""
        self.admitted = self.inside = self.expected = self.nested = False
        self.attempts = 0
        self.reconnected = False
        self.reply_metadata: Mapping[str, str] = NOTHING
        self.member = ""
        self.source = "plugin"
        self.tried: tuple[str, ...] = ()
        self.through: tuple[str, ...] = ()

    def copy_for_attempt(self, deadline: Deadline) -> Call:
        """A copy that has sent nothing yet: for one of two attempts at the same time, or for one member of a group.

        Its ``deadline`` is this call's, or one of the same moment that can be cancelled.
        """
        leg = Call(
            self.request,
            self.codec,
            deadline,
            self.request_id,
            headers=self.headers,
            metadata=self.metadata,
            idempotent=self.idempotent,
            max_retries=self.max_retries,
            key=self.key,
            priority=self.priority,
            preferences=self.preferences,
            max_wait=self.max_wait,
        )
        leg.payload = self.payload
        leg.reconnected = self.reconnected
        return leg

    def adopt_result(self, leg: Call) -> None:
        """Makes what the attempt that counts has found out this call's own; its attempts are counted apart."""
        self.reply_metadata = leg.reply_metadata
        self.member = leg.member
        self.source = leg.source
