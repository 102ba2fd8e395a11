"""Translates gRPC statuses into errors of goplugins.

The same status can come from the plugin or from the grpc library itself. Where the difference decides
whether anything was sent, the state of the channel is used as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    CertificateError,
    ConnectionLostError,
    GRPCTransportError,
    LocalResourceError,
    NameResolutionError,
    PluginConnectionError,
    PluginError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    ReplyTooLargeError,
    TLSError,
    missing_by_text,
)
from goplugins.runtime.text import from_outside
from goplugins.transports.challenge import add_challenge
from goplugins.transports.envelope import MAX_ERROR_TEXT
from goplugins.transports.grpc.unary import Outcome

_NOT_CONNECTED = re.compile(r"failed to connect to all addresses|Empty update|connections to all backends failing")
_NOT_RESOLVED = re.compile(r"DNS resolution failed|errors resolving|hostname lookup error|Name resolution failure")
_BROKEN = re.compile(
    r"Socket closed|Stream removed|recvmsg|sendmsg|Broken pipe|[Cc]onnection reset|Endpoint clos|GOAWAY|"
    r"Connection closed|keepalive|[Tt]ransport closed|FD [Ss]hutdown|End of TCP stream"
)
_TIMED_OUT = re.compile(r"timed out|Endpoint closing|FD [Ss]hutdown|Handshake timeout")
_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|not in peer certificate|[Hh]ostname [Vv]erification")
_HANDSHAKE = re.compile(r"(?:Ssl|SSL|Tls|TLS) handshake|Handshake read failed|Handshake write failed|SSL_ERROR")
_REFUSED_OURS = re.compile(r"ALERT_\w*(?:CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_FAILURE)")
_TOO_LARGE = re.compile(r"message larger than max(?: \((\d+) vs\. (\d+)\))?")
_PUSHBACK = re.compile(r"[0-9]{1,9}")

_REQUEST_FAULTS: Mapping[str, str] = {
    "INVALID_ARGUMENT": "the request was refused",
    "NOT_FOUND": "not found",
    "ALREADY_EXISTS": "it already exists",
    "FAILED_PRECONDITION": "the plugin is not in the required state",
    "OUT_OF_RANGE": "the request is out of range",
    "UNIMPLEMENTED": "the plugin has no such method",
}


@attrs.frozen
class Attempt:
    """The circumstances of a failed attempt.

    Attributes:
        connected: see :meth:`goplugins.transports.grpc.channel.Channel.is_connected`.
        answered: whether the channel got a reply to any earlier call.
        tls: whether the connection is encrypted.
        remaining: seconds that remained until the deadline.
        elapsed: seconds that the attempt took.
        connection_timeout: seconds that connecting may take.
        limit: maximum bytes of a reply.
        sent: bytes of the request.
    """

    connected: bool | None
    answered: bool
    tls: bool
    remaining: float
    elapsed: float
    connection_timeout: float
    limit: int
    sent: int

    @property
    def is_over(self) -> bool:
        """Whether it ended at the deadline."""
        return self.remaining <= 0.01


def translate(outcome: Outcome, attempt: Attempt, scrub: Callable[[str], str]) -> PluginError:
    """The error for a status that is not OK, or for a reply that is not one message.

    Args:
        outcome: of the call.
        attempt: its circumstances.
        scrub: removes credentials from a remote text.
    """
    status, text = outcome.status, outcome.text
    error = _wrong_count(outcome) or _classified(status, text, attempt)
    text = from_outside(scrub(text), MAX_ERROR_TEXT)
    if text:
        error.message = f"{error.message}: {text}"
    error.details["status"] = status
    if isinstance(error, AuthenticationError):
        found = (value for key, value in outcome.trailing if key == "www-authenticate" and isinstance(value, str))
        add_challenge(error, next(found, None))
    _add_metadata(error, outcome.trailing, scrub)
    _apply_pushback(error, outcome.trailing)
    return error


def is_broken(error: PluginError) -> bool:
    """Whether the channel's connection failed or broke, so that the channel is replaced."""
    return error.details.get("status") == "UNAVAILABLE" and not isinstance(error, PluginUnavailableError)


def _wrong_count(outcome: Outcome) -> PluginError | None:
    """The error for a method that does not reply with exactly one message."""
    if outcome.status == "OK":
        return BadReplyError("gRPC OK without a reply message: only a server-streaming method may reply with none")
    if outcome.status == "DEADLINE_EXCEEDED" and outcome.reply is not None:
        return BadReplyError(
            "a reply message came, but not the end of the reply before the deadline: the method may be a "
            "server-streaming one, and only methods that reply with one message can be called"
        )
    return None


def _classified(status: str, text: str, attempt: Attempt) -> PluginError:
    classify = _ALSO_LOCAL.get(status)
    if classify is not None:
        return classify(text, attempt)
    if status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return AuthenticationError(f"gRPC {status}: the plugin rejected the credentials")
    if status in _REQUEST_FAULTS:
        return PluginRequestError(f"gRPC {status}: {_REQUEST_FAULTS[status]}")
    if status == "CANCELLED":
        return ConnectionLostError(f"gRPC {status}: the call was cancelled by the server")
    if status == "DATA_LOSS":
        return GRPCTransportError(f"gRPC {status}: the plugin lost data", retryable=False, replay=Replay.NEVER)
    return GRPCTransportError(f"gRPC {status}: the plugin failed")


def _unavailable(text: str, attempt: Attempt) -> PluginError:
    # Text and state must agree: a plugin may forward the text of a failed connection of its own.
    if attempt.connected is not True:
        if _NOT_RESOLVED.search(text):
            return NameResolutionError("the plugin's host name could not be resolved")
        if _NOT_CONNECTED.search(text):
            lacks = missing_by_text(text)
            return LocalResourceError(lacks) if lacks else _no_connection(text, attempt)
    if _BROKEN.search(text):
        return ConnectionLostError("the connection broke before the reply")
    return PluginUnavailableError("gRPC UNAVAILABLE: the plugin is unavailable")


def _no_connection(text: str, attempt: Attempt) -> PluginError:
    """Nothing of the call was sent."""
    if _CERTIFICATE.search(text):
        return CertificateError("the plugin's certificate failed verification")
    if _REFUSED_OURS.search(text):
        return TLSError(
            "the plugin refused the client certificate, or requires one", retryable=False, replay=Replay.NEVER
        )
    if _TIMED_OUT.search(text) or attempt.elapsed >= 0.95 * attempt.connection_timeout:
        return PluginTimeoutError(
            "not connected within connection.connection_timeout; nothing was sent", replay=Replay.ALWAYS
        )
    if attempt.tls and _HANDSHAKE.search(text):
        return TLSError("the TLS handshake failed")
    if attempt.tls and _BROKEN.search(text):
        # With TLS 1.3 a server checks the client certificate after the client's side of the handshake, and grpc hides
        # the server's alert.
        return TLSError(
            "the plugin closed the connection during the TLS handshake; it may require a client certificate"
        )
    return PluginConnectionError("no connection")


def _timed_out(text: str, attempt: Attempt) -> PluginError:
    if not attempt.is_over:
        return PluginTimeoutError("the plugin reported that the deadline had passed")
    if attempt.connected is False and not attempt.answered:
        # Not "nothing was sent": a connection that carried the call may have broken since.
        return PluginTimeoutError("timed out without a reply, and not connected at that time")
    return PluginTimeoutError("timed out waiting for the reply")


def _exhausted(text: str, attempt: Attempt) -> PluginError:
    found = _TOO_LARGE.search(text)
    if found is None:
        # Also what a plugin reports that has run out of memory or disk space halfway.
        return PluginThrottledError("gRPC RESOURCE_EXHAUSTED: too many calls", replay=Replay.IF_IDEMPOTENT)
    # Old versions of grpc do not report which side found a message too large.
    of_request = found[1] is not None and (int(found[1]) == attempt.sent or int(found[2]) != attempt.limit)
    if "SERVER:" in text or of_request:
        return PluginRequestError("the request is larger than the plugin accepts")
    return ReplyTooLargeError(f"the reply is larger than {attempt.limit} bytes")


_ALSO_LOCAL: Mapping[str, Callable[[str, Attempt], PluginError]] = {
    "UNAVAILABLE": _unavailable,
    "DEADLINE_EXCEEDED": _timed_out,
    "RESOURCE_EXHAUSTED": _exhausted,
}
"""The statuses that the grpc library itself generates, too."""


def _add_metadata(error: PluginError, metadata: Sequence[Any], scrub: Callable[[str], str]) -> None:
    """Adds the plugin's own trailing metadata, without grpc's and without binary values."""
    own = ((key, value) for key, value in metadata if isinstance(value, str) and not key.startswith("grpc-"))
    found = {scrub(key): scrub(value) for key, value in own}
    if found:
        error.details["metadata"] = found


def _apply_pushback(error: PluginError, metadata: Sequence[Any]) -> None:
    """Applies the plugin's own retry decision: milliseconds to wait; any other value forbids a retry.

    See https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback.
    """
    value = next((value for key, value in metadata if key == "grpc-retry-pushback-ms"), None)
    if value is None:
        return
    if isinstance(value, str) and _PUSHBACK.fullmatch(value):
        if not error.retryable:
            return
        error.replay = Replay.ALWAYS
        error.retry_after = int(value) / 1000.0
    else:
        error.replay = Replay.NEVER
        error.details["retry_forbidden"] = True
