"""What urllib3, OpenSSL and the system raise, translated into errors of goplugins."""

from __future__ import annotations

import ssl
from typing import Protocol

import urllib3.exceptions

from goplugins.errors import (
    CertificateError,
    ConnectionLostError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
    TLSError,
)
from goplugins.runtime.deadline import Deadline

LIBRARY_ERRORS = (OSError, urllib3.exceptions.HTTPError, ValueError)
"""What may be raised while a connection is opened. ValueError: a host name that TLS can't ask for."""


class ExchangeState(Protocol):
    """State of an exchange; see :class:`goplugins.transports.http.connection.Connection`."""

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
    error = _exchange_error(state, seconds)
    error.__cause__ = state.failure or exc
    return error


def _exchange_error(state: ExchangeState, seconds: float) -> PluginError:
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
    return ConnectionLostError("the plugin closed the connection before it replied")


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
