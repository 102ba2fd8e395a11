"""What urllib3, http.client, OpenSSL and the system raise, as errors of goplugins.

Causes are those of the system or of http.client. The libraries' own wrappers hold the request with its
credentials, or the connection; they stay out.
"""

from __future__ import annotations

import http.client
import ssl
from typing import Protocol

import urllib3.exceptions

from goplugins.errors import (
    BadReplyError,
    CertificateError,
    ConnectionLostError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
    TLSError,
    TruncatedReplyError,
)
from goplugins.runtime.deadline import Deadline

__all__ = ["WIRE_FAILURES", "connect_failure", "exchange_failure", "is_dead_connection", "safe_cause"]

WIRE_FAILURES = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError)
"""What the wire and the libraries above it may raise. ValueError: http.client's for numbers that are none."""


class _Wire(Protocol):
    """How an exchange stands: see the attributes of the same names of either engine's sockets."""

    @property
    def sent(self) -> int: ...
    @property
    def received(self) -> int: ...
    @property
    def eof(self) -> bool: ...
    @property
    def failure(self) -> OSError | None: ...


def connect_failure(exc: Exception, deadline: Deadline, *, tls: bool) -> PluginError:
    """The error for a failed tunnel or TLS handshake; nothing of the request was sent."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return CertificateError(f"the plugin's certificate was refused: {exc.verify_message or exc.reason or exc}")
    if isinstance(exc, TimeoutError) or deadline.remaining() <= 0:
        return PluginTimeoutError("no connection in time; nothing was sent", replay=Replay.ALWAYS)
    if "unnel connection failed" in str(exc):
        return PluginConnectionError(f"the proxy refused: {exc}")
    if isinstance(exc, ssl.SSLError):
        return _tls_error(f"the TLS handshake failed: {_tls_reason(exc)}", final=_refuses_certificate(exc))
    if tls:
        return TLSError(f"the TLS handshake failed: {_reason(exc)}")
    return PluginConnectionError(f"no connection: {_reason(exc)}")


def is_dead_connection(exc: BaseException, wire: _Wire) -> bool:
    """Whether the peer had gone before it sent any byte of a reply."""
    if wire.received or isinstance(wire.failure or exc, TimeoutError):
        return False
    failure = wire.failure
    gone = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return isinstance(failure, gone) or (failure is None and wire.eof)


def exchange_failure(exc: Exception, wire: _Wire) -> PluginError:
    """The error for an exchange that broke off or made no sense."""
    failure = wire.failure
    if isinstance(failure, TimeoutError):
        got = f"{wire.received} bytes of it" if wire.received else "nothing"
        return PluginTimeoutError(f"no whole reply in time; {got} had come")
    if isinstance(failure, ssl.SSLError) and "ALERT" in (failure.reason or ""):
        # With TLS 1.3 a server looks at the client's certificate only after the client has gone on to talk.
        refused = not wire.received and _refuses_certificate(failure)
        error = _tls_error(f"the plugin ended the TLS connection: {_tls_reason(failure)}", final=refused)
        if wire.sent and not refused:
            error.replay = Replay.IF_IDEMPOTENT
        return error
    if failure is not None:
        when = "in the middle of the reply" if wire.received else "before the reply"
        return ConnectionLostError(f"the connection broke {when}: {_reason(failure)}")
    return _protocol_failure(exc, wire)


def _protocol_failure(exc: Exception, wire: _Wire) -> PluginError:
    if not wire.received:
        return ConnectionLostError("the plugin closed the connection before it replied")
    if isinstance(exc, http.client.BadStatusLine) and not (wire.eof and str(exc).lstrip("'").startswith("HTTP/")):
        return BadReplyError("the reply is not HTTP: it has no status line")
    if isinstance(exc, http.client.LineTooLong) or "maximum allowed length" in str(exc):
        return BadReplyError("the reply has a line that is too long")
    if wire.eof:
        return TruncatedReplyError(f"the reply ended too early, after {wire.received} bytes with its head")
    return BadReplyError(f"the reply is not HTTP: {type(exc).__name__}")


def safe_cause(exc: Exception, wire: _Wire | None) -> BaseException | None:
    """What an error may name as its cause: the system's failure, or a plain exception of the standard library."""
    if wire is not None and wire.failure is not None:
        return wire.failure
    inner: BaseException | None = exc
    while isinstance(inner, urllib3.exceptions.HTTPError):
        inner = inner.__cause__
    return inner


def _reason(exc: BaseException) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__


def _tls_reason(exc: ssl.SSLError) -> str:
    return (exc.reason or str(exc)).replace("_", " ").lower()


def _tls_error(message: str, *, final: bool) -> TLSError:
    return TLSError(message, retryable=False, replay=Replay.NEVER) if final else TLSError(message)


def _refuses_certificate(exc: ssl.SSLError) -> bool:
    """Whether the peer's alert is about our certificate, or the lack of one: it will be the same next time."""
    reason = exc.reason or ""
    if "ALERT" not in reason:
        return False
    # TLS 1.2 has no alert of its own for a missing certificate.
    return any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE"))
