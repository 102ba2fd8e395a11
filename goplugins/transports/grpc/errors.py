"""gRPC statuses as errors of goplugins.

A status that a plugin sent and one that the library made up look the same. Where that matters, to know whether
anything was sent, the link's state is asked, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.errors import (
    AuthenticationError,
    CertificateError,
    ConnectionLostError,
    GRPCTransportError,
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
)
from goplugins.transports.envelope import MAX_ERROR_TEXT

if TYPE_CHECKING:
    import grpc

__all__ = ["Attempt", "is_broken", "translate"]

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
    "NOT_FOUND": "the plugin found nothing",
    "ALREADY_EXISTS": "it exists already",
    "FAILED_PRECONDITION": "the plugin is not in the state for it",
    "OUT_OF_RANGE": "the request is out of range",
    "UNIMPLEMENTED": "the plugin has no such method",
}


@attrs.frozen
class Attempt:
    """What is known of an attempt that failed.

    Attributes:
        connected: see :meth:`goplugins.transports.grpc.channel.Channel.is_connected`.
        answered: whether the link had answered any call before.
        tls: whether the connection is encrypted.
        remaining: seconds that were left of the deadline.
        elapsed: seconds that the attempt took.
        connection_timeout: seconds that connecting may take.
        limit: bytes that a reply may have.
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
        """Whether it ended with the deadline."""
        return self.remaining <= 0.01


def translate(failure: grpc.RpcError, attempt: Attempt, scrub: Callable[[str], str]) -> PluginError:
    """The error for a status that is not OK.

    Args:
        failure: what grpc raised.
        attempt: how it came about.
        scrub: takes secrets out of a text that came from afar.
    """
    status: str = failure.code().name
    text: str = (failure.details() or "")[:MAX_ERROR_TEXT]
    error = _classified(status, text, attempt)
    text = scrub(text)
    if text:
        error.message = f"{error.message}: {text}"
    error.details["status"] = status
    metadata = failure.trailing_metadata() or ()
    _add_metadata(error, metadata, scrub)
    if error.retryable:
        _heed_pushback(error, metadata)
    return error


def is_broken(error: PluginError) -> bool:
    """Whether the link can't be used any more: there is no connection, or there is none any more."""
    return error.details.get("status") == "UNAVAILABLE" and not isinstance(error, PluginUnavailableError)


def _classified(status: str, text: str, attempt: Attempt) -> PluginError:
    local = _OURS_TOO.get(status)
    if local is not None:
        return local(text, attempt)
    if status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return AuthenticationError(f"gRPC {status}: the plugin refused the credentials")
    if status in _REQUEST_FAULTS:
        return PluginRequestError(f"gRPC {status}: {_REQUEST_FAULTS[status]}")
    if status == "CANCELLED":
        return ConnectionLostError(f"gRPC {status}: the plugin's side cancelled the call")
    return GRPCTransportError(f"gRPC {status}: the plugin failed")


def _unavailable(text: str, attempt: Attempt) -> PluginError:
    # Both must say so: a plugin may pass on the words of a failed connection of its own.
    if attempt.connected is not True:
        if _NOT_RESOLVED.search(text):
            return NameResolutionError("the plugin's host has no address")
        if _NOT_CONNECTED.search(text):
            return _no_connection(text, attempt)
    if _BROKEN.search(text):
        return ConnectionLostError("the connection broke before the reply")
    return PluginUnavailableError("gRPC UNAVAILABLE: unavailable")


def _no_connection(text: str, attempt: Attempt) -> PluginError:
    """Nothing of the call was sent."""
    if _CERTIFICATE.search(text):
        return CertificateError("the plugin's certificate was refused")
    if _REFUSED_OURS.search(text):
        return TLSError("the plugin refused our certificate, or wants one", retryable=False, replay=Replay.NEVER)
    if _TIMED_OUT.search(text) or attempt.elapsed >= 0.95 * attempt.connection_timeout:
        return PluginTimeoutError("no connection in time; nothing was sent", replay=Replay.ALWAYS)
    if attempt.tls and _HANDSHAKE.search(text):
        return TLSError("the TLS handshake failed")
    if attempt.tls and _BROKEN.search(text):
        # With TLS 1.3 a server looks at our certificate after our side of the handshake, and grpc hides its words.
        return TLSError("the plugin closed the connection in the TLS handshake; it may want a client certificate")
    return PluginConnectionError("no connection")


def _timed_out(text: str, attempt: Attempt) -> PluginError:
    if not attempt.is_over:
        return PluginTimeoutError("the plugin says that the deadline has passed")
    if attempt.connected is False and not attempt.answered:
        # Not "nothing was sent": a connection that carried the call may have broken since.
        return PluginTimeoutError("no answer in time, and no connection at the end")
    return PluginTimeoutError("no whole reply in time")


def _exhausted(text: str, attempt: Attempt) -> PluginError:
    found = _TOO_LARGE.search(text)
    if found is None:
        return PluginThrottledError("gRPC RESOURCE_EXHAUSTED: too many calls")
    # Old versions of grpc do not say on whose side a message was too large.
    of_request = found[1] is not None and (int(found[1]) == attempt.sent or int(found[2]) != attempt.limit)
    if "SERVER:" in text or of_request:
        return PluginRequestError("the request is larger than the plugin takes")
    return ReplyTooLargeError(f"the reply is larger than {attempt.limit} bytes")


_OURS_TOO: Mapping[str, Callable[[str, Attempt], PluginError]] = {
    "UNAVAILABLE": _unavailable,
    "DEADLINE_EXCEEDED": _timed_out,
    "RESOURCE_EXHAUSTED": _exhausted,
}
"""The statuses that the library makes up, too."""


def _add_metadata(error: PluginError, metadata: Sequence[Any], scrub: Callable[[str], str]) -> None:
    """The plugin's own trailing metadata; grpc's, and what is not text, stays out."""
    own = ((key, value) for key, value in metadata if isinstance(value, str) and not key.startswith("grpc-"))
    found = {scrub(key): scrub(value) for key, value in own}
    if found:
        error.details["metadata"] = found


def _heed_pushback(error: PluginError, metadata: Sequence[Any]) -> None:
    """The plugin knows best whether it may be called again: milliseconds to wait; anything unreadable says no."""
    value = next((value for key, value in metadata if key == "grpc-retry-pushback-ms"), None)
    if value is None:
        return
    if isinstance(value, str) and _PUSHBACK.fullmatch(value):
        error.replay = Replay.ALWAYS
        error.retry_after = int(value) / 1000.0
    else:
        error.replay = Replay.NEVER
