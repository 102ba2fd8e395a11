"""What urllib3, http.client, OpenSSL and the system raise, translated into errors of goplugins.

A cause is an error of the system or of http.client. The libraries' own wrappers hold the connection, or the request
with its credentials; they are left out.
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

LIBRARY_ERRORS = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError, ValueError)
"""What the system and the libraries above it may raise. ValueError: http.client's for malformed numbers."""


class ExchangeState(Protocol):
    """State of an exchange: see the attributes of the same names of either engine's connections."""

    @property
    def sent(self) -> int: ...
    @property
    def received(self) -> int: ...
    @property
    def eof(self) -> bool: ...
    @property
    def failure(self) -> OSError | None: ...


def connect_error(exc: Exception, deadline: Deadline, *, tls: bool) -> PluginError:
    """The error for a failed tunnel or TLS handshake; nothing of the request was sent."""
    error = _connect_error(exc, deadline, tls)
    error.__cause__ = _safe_cause(exc)
    return error


def _connect_error(exc: Exception, deadline: Deadline, tls: bool) -> PluginError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return CertificateError(f"the plugin's certificate was rejected: {exc.verify_message or exc.reason or exc}")
    if isinstance(exc, TimeoutError) or deadline.remaining() <= 0:
        return PluginTimeoutError("timed out while connecting; nothing was sent", replay=Replay.ALWAYS)
    if "unnel connection failed" in str(exc):
        return PluginConnectionError(f"the proxy refused: {exc}")
    if isinstance(exc, ssl.SSLError):
        return _tls_error(f"the TLS handshake failed: {_tls_reason(exc)}", final=_rejects_certificate(exc))
    if tls:
        return TLSError(f"the TLS handshake failed: {_reason(exc)}")
    return PluginConnectionError(f"no connection: {_reason(exc)}")


def is_gone(exc: BaseException, state: ExchangeState) -> bool:
    """Whether the peer had closed the connection before it sent any byte of a reply."""
    if state.received or isinstance(exc, PluginError) or isinstance(state.failure or exc, TimeoutError):
        return False
    failure = state.failure
    closed = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return isinstance(failure, closed) or (failure is None and state.eof)


def exchange_error(exc: Exception, state: ExchangeState, seconds: float) -> PluginError:
    """The error for an exchange that failed after ``seconds``, with its cause set; ``exc`` if that is one already."""
    if isinstance(exc, PluginError):
        return exc
    error = _exchange_error(exc, state, seconds)
    error.__cause__ = state.failure or _safe_cause(exc)
    return error


def _exchange_error(exc: Exception, state: ExchangeState, seconds: float) -> PluginError:
    failure = state.failure
    if isinstance(failure, TimeoutError):
        received = f"{state.received or 'no'} bytes received"
        return PluginTimeoutError(f"timed out after {seconds:.3g} s waiting for the reply ({received})")
    if isinstance(failure, ssl.SSLError) and "ALERT" in (failure.reason or ""):
        # With TLS 1.3 a server checks the client's certificate only once the client has started to send.
        rejected = not state.received and _rejects_certificate(failure)
        error = _tls_error(f"the plugin ended the TLS connection: {_tls_reason(failure)}", final=rejected)
        if state.sent and not rejected:
            error.replay = Replay.IF_IDEMPOTENT
        return error
    if failure is not None:
        when = "in the middle of the reply" if state.received else "before the reply"
        return ConnectionLostError(f"the connection broke {when}: {_reason(failure)}")
    return _protocol_error(exc, state)


def _protocol_error(exc: Exception, state: ExchangeState) -> PluginError:
    if not state.received:
        return ConnectionLostError("the plugin closed the connection before it replied")
    if isinstance(exc, http.client.BadStatusLine) and not (state.eof and str(exc).lstrip("'").startswith("HTTP/")):
        return BadReplyError("the reply is not HTTP: it has no status line")
    if isinstance(exc, http.client.LineTooLong) or "maximum allowed length" in str(exc):
        return BadReplyError("the reply has a line that is too long")
    if state.eof:
        return TruncatedReplyError(f"the reply ended too early, after {state.received} bytes with its head")
    return BadReplyError(f"the reply is not HTTP: {type(exc).__name__}")


def _safe_cause(exc: Exception) -> BaseException | None:
    """A plain exception of the system or the standard library, without the wrappers of urllib3."""
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


def _rejects_certificate(exc: ssl.SSLError) -> bool:
    """Whether the peer's alert is about our certificate, or the lack of one; a retry would end the same way."""
    reason = exc.reason or ""
    if "ALERT" not in reason:
        return False
    # TLS 1.2 has no alert of its own for a missing certificate.
    return any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE"))
