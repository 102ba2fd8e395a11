"""Target and options of a channel."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.config import ConnectionConfig, HealthCheckConfig, PluginConfig
from goplugins.config.plugin_sections import DEFAULT_CONNECTION
from goplugins.config.schema import merge
from goplugins.errors import InvalidConfigError, InvalidEndpointFormatError, MissingEndpointError
from goplugins.transports.grpc.target import channel_options, target_of


def config(endpoint: str, **fields: Any) -> PluginConfig:
    return PluginConfig(**{"name": "p", "transport": "grpc", "endpoint": endpoint, **fields})


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
def test_endpoint_as_a_target(endpoint, name):
    assert target_of(config(endpoint)).name == name


@pytest.mark.parametrize("endpoint", ["http://host:80", "host", "host:0", "host:99999", "user@host:80", "a b:80"])
def test_invalid_endpoints(endpoint):
    with pytest.raises(InvalidEndpointFormatError):
        target_of(config(endpoint))


def test_missing_endpoint():
    with pytest.raises(MissingEndpointError):
        target_of(config(""))


@pytest.mark.parametrize("method", ["Method", "/Method", "pkg.Service/Method", "/a/b/c", 7])
def test_invalid_methods(method):
    with pytest.raises(InvalidConfigError) as caught:
        target_of(config("host:80", options={"method": method}))
    assert caught.value.path == "options.method"


def test_health_service():
    health = HealthCheckConfig(endpoint="/pkg.Service")
    assert target_of(config("host:80", health_check=health)).health_service == "pkg.Service"


def test_options_of_the_channel():
    connection = merge(ConnectionConfig(connection_timeout=2.0, idle_timeout=7.0), DEFAULT_CONNECTION)
    options = dict(channel_options(target_of(config("host:80")), connection))
    assert options["grpc.service_config_disable_resolution"] == 1, "a retry policy of the network would be applied"
    assert options["grpc.enable_http_proxy"] == 0
    assert options["grpc.max_receive_message_length"] == 4 * 1024 * 1024
    assert options["grpc.min_reconnect_backoff_ms"] == 2000
    assert options["grpc.client_idle_timeout_ms"] == 7000
    assert options["grpc.keepalive_timeout_ms"] == 60_000
    long = merge(ConnectionConfig(request_timeout=90.0), DEFAULT_CONNECTION)
    assert dict(channel_options(target_of(config("host:80")), long))["grpc.keepalive_timeout_ms"] == 90_000


def test_the_proxy_of_the_environment_is_given_to_the_channel(monkeypatch):
    """grpc itself reads fewer variables, and fewer forms of NO_PROXY."""
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("ALL_PROXY", "http://u:pw@proxy.example:3128")
    connection = merge(ConnectionConfig(), DEFAULT_CONNECTION)
    trusting = config("host.example:80", options={"trust_env": True})
    options = dict(channel_options(target_of(trusting), connection))
    assert options["grpc.enable_http_proxy"] == 1
    assert options["grpc.http_proxy"] == "http://u:pw@proxy.example:3128"
    assert "pw" not in repr(target_of(trusting))
    monkeypatch.setenv("NO_PROXY", "*.example:80")
    options = dict(channel_options(target_of(trusting), connection))
    assert options["grpc.enable_http_proxy"] == 0
