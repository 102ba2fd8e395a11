"""What urllib3, OpenSSL and the system raise, translated into errors of goplugins."""

from __future__ import annotations

import ssl

import urllib3.exceptions

from goplugins.errors import (
    CertificateError,
    ConnectionLostError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
    TLSError,
    missing_resource,
)
from goplugins.transports.tls import tls_reason

LIBRARY_ERRORS = (OSError, urllib3.exceptions.HTTPError, ValueError)
"""What may be raised while a connection is opened. ValueError: a host name that TLS can't ask for."""

CONNECTING, TUNNEL, TLS = "connecting", "waiting for a tunnel", "in the TLS handshake"
"""What a connection that is being opened waits for."""


def connect_error(exc: Exception, stage: str, *, late: bool, after: str) -> PluginError:
    """The error, with its cause set, for a connection that could not be opened; nothing of the request was sent.

    Args:
        exc: what failed.
        stage: what was waited for.
        late: whether the time is over.
        after: the time that has passed, and whose limit ended it.
    """
    error = _connect_error(exc, stage, late, after)
    error.__cause__ = _safe_cause(exc)
    return error


def _connect_error(exc: Exception, stage: str, late: bool, after: str) -> PluginError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return CertificateError(f"the plugin's certificate was rejected: {exc.verify_message or exc.reason or exc}")
    if isinstance(exc, TimeoutError) or late:
        reason = f" ({exc.strerror})" if isinstance(exc, TimeoutError) and exc.strerror else ""
        message = f"timed out while {stage}{reason}, after {after}; nothing was sent"
        return PluginTimeoutError(message, replay=Replay.ALWAYS)
    if isinstance(exc, ssl.SSLError):
        return _tls_error(f"the TLS handshake failed: {tls_reason(exc)}", final=_rejects_certificate(exc))
    reason = _reason(exc)
    if stage == TLS:
        return TLSError(f"the TLS handshake failed: {reason}")
    return PluginConnectionError(f"no connection: {reason[:1].lower()}{reason[1:]}")


def exchange_error(failure: OSError | None, *, sent: int, unsent: int, received: int, seconds: float) -> PluginError:
    """The error for an exchange that failed after ``seconds``.

    Args:
        failure: of a system call; None if the peer closed the connection before it replied.
        sent: bytes of the request that the system has accepted.
        unsent: bytes of a large request that it has not, since the peer read no further.
        received: bytes of the reply.
        seconds: since the exchange began.
    """
    if failure is None:
        return ConnectionLostError("the plugin closed the connection before it replied")
    if isinstance(failure, TimeoutError):
        if unsent > 0:
            doing = f"sending the request ({sent} of {sent + unsent} bytes sent)"
        else:
            doing = f"waiting for the reply ({received or 'no'} bytes received)"
        return PluginTimeoutError(f"timed out after {seconds:.3g} s {doing}")
    if isinstance(failure, ssl.SSLError) and "ALERT" in (failure.reason or ""):
        # With TLS 1.3 a server checks the client's certificate only once the client has started to send.
        rejected = not received and _rejects_certificate(failure)
        error = _tls_error(f"the plugin ended the TLS connection: {tls_reason(failure)}", final=rejected)
        if sent and not rejected:
            error.replay, error.elsewhere = Replay.IF_IDEMPOTENT, False
        return error
    when = "in the middle of the reply" if received else "before the reply"
    # Without a byte of it the plugin can't act on a request.
    replay = Replay.ALWAYS if not sent and missing_resource(failure) else None
    return ConnectionLostError(f"the connection broke {when}: {_reason(failure)}", replay=replay)


def _safe_cause(exc: Exception) -> BaseException | None:
    """A plain exception of the system or the standard library, without the wrappers of urllib3."""
    inner: BaseException | None = exc
    while isinstance(inner, urllib3.exceptions.HTTPError):
        inner = inner.__cause__
    return inner


def _reason(exc: BaseException) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__


def _tls_error(message: str, *, final: bool) -> TLSError:
    return TLSError(message, retryable=False, replay=Replay.NEVER) if final else TLSError(message)


def _rejects_certificate(exc: ssl.SSLError) -> bool:
    """Whether the peer's alert is about our certificate, or the lack of one; a retry would end the same way."""
    reason = exc.reason or ""
    if "ALERT" not in reason:
        return False
    # TLS 1.2 has no alert of its own for a missing certificate.
    return any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE"))
