"""The record of one call, which dispatch, policies and transports share and fill in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from goplugins.runtime.deadline import Deadline

NOTHING: Mapping[str, str] = {}
"""The headers or metadata of a call without any."""


class TypedValues(Protocol):
    """Holds values that stay in this process to the types of a codec."""

    def admit_request(self, request: Any, /) -> Any:
        """The request, or what a plugin over a wire would get.

        Raises:
            UnserializableRequestError: it does not fit the type.
        """
        ...

    def admit_answer(self, answer: Any, /) -> Any:
        """The answer, or what a caller over a wire would get.

        Raises:
            ReplyTypeError: it does not fit the type.
        """
        ...


class Codec(Protocol):
    """Converts between typed values and JSON, for one pair of request and response types.

    Attributes:
        request_class: class whose instances are requests without a further check; None if every value is one.
        answer_class: the same of answers.
    """

    request_type: Any
    response_type: Any
    request_class: type | None
    answer_class: type | None

    @property
    def typed(self) -> TypedValues:
        """The same types for values that are not written as JSON."""
        ...

    def encode(self, request: Any) -> bytes:
        """The request as one line of JSON.

        Raises:
            UnserializableRequestError: the request is not of the type, or has a value that JSON can't express.
        """
        ...

    def decode(self, data: Any, deadline: Deadline | None = None) -> Any:
        """The typed response from parsed JSON.

        Raises:
            ReplyTypeError: the data does not fit the type; names the first fields that do not.
            PluginTimeoutError: the deadline passed.
        """
        ...


class Call:
    """One call in progress. Belongs to the thread that makes it; never shared.

    Attributes:
        request: the typed request; ``payload`` is its JSON, encoded once for all attempts.
        deadline: bounds all attempts and waits.
        attempts: number of attempts sent so far.
        max_wait: seconds to wait for the rate limiter at most; None for the plugin's configuration.
        admitted: True from admission on. A call that is not admitted goes to the successor of a replaced plugin.
        inside: counted in by the plugin's in-flight tracker, and not yet out.
        expected: admitted while it is queued for a worker, and not yet counted in.
        nested: made within another admitted call; a plugin that is being closed admits it all the same.
        reply_metadata: metadata of the reply.
        member: the member of a group that answered.
        source: origin of the answer: "plugin", "fallback", "cache", "stale" or "interceptor".
        tried: members of a group that failed this call; further attempts go to others if possible.
        through: plugins for which this call is a fallback, outermost first.
        reconnected: True after the call's one silent reconnect.
        operation: the operation of the plugin; empty for a plugin with one function.
        page: where a call for one page of a list begins; empty for the first page, None for a call of another kind.
        signed: the headers of ``auth.provider`` in the last attempt, which are kept out of texts.
        prepared: the request as the sender has prepared it, for all attempts.
        context: what the caller passed as the call's context; for interceptors.
    """

    __slots__ = (
        "admitted",
        "attempts",
        "codec",
        "context",
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
        "operation",
        "page",
        "payload",
        "preferences",
        "prepared",
        "priority",
        "reconnected",
        "reply_metadata",
        "request",
        "request_id",
        "signed",
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
        operation: str = "",
        page: str | None = None,
        context: Any = None,
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
        self.operation = operation
        self.page = page
        self.context = context
        self.payload = b""
        self.prepared: Any = None
        self.admitted = self.inside = self.expected = self.nested = False
        self.attempts = 0
        self.reconnected = False
        self.reply_metadata: Mapping[str, str] = NOTHING
        self.signed: Mapping[str, str] = NOTHING
        self.member = ""
        self.source = "plugin"
        self.tried: tuple[str, ...] = ()
        self.through: tuple[str, ...] = ()

    def copy_for_attempt(self, deadline: Deadline) -> Call:
        """A copy without attempts: for one of two hedged attempts, a member of a group, or a fallback.

        Args:
            deadline: this call's, or a cancellable one at the same moment.
        """
        attempt = Call(
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
            operation=self.operation,
            page=self.page,
        )
        attempt.payload = self.payload
        attempt.prepared = self.prepared
        attempt.reconnected = self.reconnected
        return attempt

    def adopt_result(self, attempt: Call) -> None:
        """Takes over reply metadata, member and source of a copy; not its number of attempts."""
        self.reply_metadata = attempt.reply_metadata
        self.member = attempt.member
        self.source = attempt.source
