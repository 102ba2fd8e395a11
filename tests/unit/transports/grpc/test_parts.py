"""The parts of the gRPC transport that need no wire."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from goplugins.config import AuthConfig, ConnectionConfig, HealthCheckConfig, PluginConfig
from goplugins.config.plugin_sections import DEFAULT_CONNECTION
from goplugins.config.schema import merge
from goplugins.errors import (
    AuthConfigError,
    ConfigError,
    ConnectionLostError,
    InvalidConfigError,
    InvalidEndpointFormatError,
    MissingEndpointError,
    PluginConnectionError,
    PluginRequestError,
    PluginUnavailableError,
    ReplyTooLargeError,
    TLSError,
)
from goplugins.transports.grpc import GRPCPluginFactory
from goplugins.transports.grpc.errors import Attempt, translate
from goplugins.transports.grpc.metadata import MetadataWriter
from goplugins.transports.grpc.target import channel_options, target_of


def config(endpoint: str, **fields: Any) -> PluginConfig:
    return PluginConfig(**{"name": "p", "transport": "grpc", "endpoint": endpoint, **fields})


class TestTarget:
    @pytest.mark.parametrize(
        ("endpoint", "name"),
        [
            ("host:80", "dns:///host:80"),
            ("unix:80", "dns:///unix:80"),
            ("[::1]:80", "dns:///[::1]:80"),
            ("[fe80::1%eth0]:80", "dns:///[fe80::1%25eth0]:80"),
            ("dns:///host:80", "dns:///host:80"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix-abstract:name", "unix-abstract:name"),
        ],
    )
    def test_forms(self, endpoint, name):
        assert target_of(config(endpoint)).name == name

    @pytest.mark.parametrize("endpoint", ["http://host:80", "host", "host:0", "host:99999", "user@host:80", "a b:80"])
    def test_endpoints_that_are_none(self, endpoint):
        with pytest.raises(InvalidEndpointFormatError):
            target_of(config(endpoint))

    def test_missing(self):
        with pytest.raises(MissingEndpointError):
            target_of(config(""))

    @pytest.mark.parametrize("method", ["Method", "/Method", "pkg.Service/Method", "/a/b/c", 7])
    def test_methods_that_are_none(self, method):
        with pytest.raises(InvalidConfigError) as caught:
            target_of(config("host:80", options={"method": method}))
        assert caught.value.path == "options.method"

    def test_health_service(self):
        health = HealthCheckConfig(endpoint="/pkg.Service")
        assert target_of(config("host:80", health_check=health)).health_service == "pkg.Service"

    def test_options_of_the_channel(self):
        connection = merge(ConnectionConfig(connection_timeout=2.0, idle_timeout=7.0), DEFAULT_CONNECTION)
        options = dict(channel_options(target_of(config("host:80")), connection))
        assert options["grpc.enable_retries"] == options["grpc.enable_http_proxy"] == 0
        assert options["grpc.max_receive_message_length"] == 4 * 1024 * 1024
        assert options["grpc.min_reconnect_backoff_ms"] == 2000
        assert options["grpc.client_idle_timeout_ms"] == 7000
        trusting = target_of(config("host:80", options={"trust_env": True}))
        assert dict(channel_options(trusting, connection))["grpc.enable_http_proxy"] == 1


class TestFactory:
    def test_transports(self):
        assert list(GRPCPluginFactory().supported_transports()) == ["grpc", "grpc-tls"]

    @pytest.mark.parametrize(
        "fields",
        [
            {"endpoint": "nowhere"},
            {"auth": AuthConfig(method="bearer", token="tök")},
            {"auth": AuthConfig(method="custom", headers={"grpc-x": "1"})},
            {"options": {"method": "x"}},
        ],
        ids=repr,
    )
    def test_refuses_what_it_can_not_build(self, fields):
        factory = GRPCPluginFactory()
        for use in (factory.validate_config, factory.create_plugin):
            with pytest.raises(ConfigError):
                use(config(**{"endpoint": "host:80", **fields}))

    def test_credential_that_metadata_can_not_carry_is_not_told(self):
        with pytest.raises(AuthConfigError) as caught:
            MetadataWriter({"Authorization": "Bearer sécret"})
        assert "sécret" not in str(caught.value)


class Failure:
    """What grpc raises, as far as it is looked at."""

    def __init__(self, status: str, text: str) -> None:
        self._status, self._text = status, text

    def code(self) -> Any:
        return SimpleNamespace(name=self._status)

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> tuple[()]:
        return ()


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
    return translate(Failure(status, text), Attempt(**{**known, **fields}), str)  # type: ignore[arg-type]


NO_CONNECTION = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "


class TestTranslation:
    """Texts of grpc versions that are not installed here."""

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
    def test_connecting(self, text, kind):
        assert type(translated("UNAVAILABLE", NO_CONNECTION + text)).__name__ == kind

    def test_refused_client_certificate_is_final(self):
        error = translated("UNAVAILABLE", NO_CONNECTION + "Ssl handshake failed: X:SSLV3_ALERT_BAD_CERTIFICATE")
        assert type(error) is TLSError
        assert not error.retryable

    def test_slow_handshake_without_a_word(self):
        text = NO_CONNECTION + "Handshake read failed"
        assert isinstance(translated("UNAVAILABLE", text, elapsed=9.99), TimeoutError)
        assert type(translated("UNAVAILABLE", text)) is TLSError

    @pytest.mark.parametrize("connected", [True, None])
    def test_state_decides_where_it_is_known(self, connected):
        error = translated("UNAVAILABLE", NO_CONNECTION + "x", connected=connected, tls=False)
        assert type(error) is (PluginUnavailableError if connected else PluginConnectionError)

    def test_lost(self):
        assert (
            type(translated("UNAVAILABLE", "recvmsg:Connection reset by peer", connected=True)) is ConnectionLostError
        )

    @pytest.mark.parametrize(
        ("text", "fields", "kind"),
        [
            ("Received message larger than max (5000 vs. 4000)", {}, ReplyTooLargeError),
            ("Received message larger than max (5000 vs. 4000)", {"sent": 5000}, PluginRequestError),
            ("grpc: received message larger than max (5000 vs. 3000)", {}, PluginRequestError),
            ("CLIENT: Decompressed message larger than max", {}, ReplyTooLargeError),
        ],
    )
    def test_sizes(self, text, fields, kind):
        assert type(translated("RESOURCE_EXHAUSTED", text, **fields)) is kind


def test_library_is_loaded_by_the_first_call_and_knows_of_forks():
    script = """
import os, sys
from goplugins.config import PluginConfig
from goplugins.transports.grpc import GRPCPlugin
plugin = GRPCPlugin(PluginConfig(name="p", transport="grpc", endpoint="127.0.0.1:1"))
assert "grpc" not in sys.modules
plugin.health(1)
assert "grpc" in sys.modules
assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "1"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
