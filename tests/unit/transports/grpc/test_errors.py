"""Statuses as errors, with the texts of grpc versions that may not be installed."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.errors import (
    ConnectionLostError,
    PluginConnectionError,
    PluginRequestError,
    PluginUnavailableError,
    ReplyTooLargeError,
    TLSError,
)
from goplugins.transports.grpc.errors import Attempt, translate
from goplugins.transports.grpc.unary import Outcome


def translated(status: str, text: str, **fields: Any) -> Any:
    known: dict[str, Any] = {
        "connected": False,
        "answered": False,
        "tls": True,
        "remaining": 1.0,
        "elapsed": 0.1,
        "connection_timeout": 10.0,
        "limit": 4000,
        "sent": 10,
    }
    return translate(Outcome(status, text, None, (), False), Attempt(**{**known, **fields}), str)


NO_CONNECTION = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            "Ssl handshake failed: SSL_ERROR_SSL: error:1:SSL routines:X:CERTIFICATE_VERIFY_FAILED",
            "CertificateError",
        ),
        ("Peer name 127.0.0.1 is not in peer certificate", "CertificateError"),
        ("Ssl handshake failed: SSL_ERROR_SSL: error:1:SSL routines:X:WRONG_VERSION_NUMBER", "TLSError"),
        ("Ssl handshake failed: error:1:SSL routines:X:TLSV1_ALERT_UNKNOWN_CA", "TLSError"),
        ("connection attempt timed out before receiving SETTINGS frame", "PluginTimeoutError"),
        ("Connection refused", "PluginConnectionError"),
    ],
)
def test_failed_connections(text, kind):
    assert type(translated("UNAVAILABLE", NO_CONNECTION + text)).__name__ == kind


def test_refused_client_certificate_is_final():
    error = translated("UNAVAILABLE", NO_CONNECTION + "Ssl handshake failed: X:SSLV3_ALERT_BAD_CERTIFICATE")
    assert type(error) is TLSError
    assert not error.retryable


def test_a_handshake_without_a_reason_is_a_timeout_if_it_was_slow():
    text = NO_CONNECTION + "Handshake read failed"
    assert isinstance(translated("UNAVAILABLE", text, elapsed=9.99), TimeoutError)
    assert type(translated("UNAVAILABLE", text)) is TLSError


@pytest.mark.parametrize("connected", [True, None])
def test_the_text_counts_only_if_the_channel_is_not_connected(connected):
    error = translated("UNAVAILABLE", NO_CONNECTION + "x", connected=connected, tls=False)
    assert type(error) is (PluginUnavailableError if connected else PluginConnectionError)


def test_lost_connection():
    assert type(translated("UNAVAILABLE", "recvmsg:Connection reset by peer", connected=True)) is ConnectionLostError


@pytest.mark.parametrize(
    ("text", "fields", "kind"),
    [
        ("Received message larger than max (5000 vs. 4000)", {}, ReplyTooLargeError),
        ("Received message larger than max (5000 vs. 4000)", {"sent": 5000}, PluginRequestError),
        ("grpc: received message larger than max (5000 vs. 3000)", {}, PluginRequestError),
        ("CLIENT: Decompressed message larger than max", {}, ReplyTooLargeError),
    ],
)
def test_messages_that_are_too_large(text, fields, kind):
    assert type(translated("RESOURCE_EXHAUSTED", text, **fields)) is kind
