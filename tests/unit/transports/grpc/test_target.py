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
    assert options["grpc.enable_retries"] == options["grpc.enable_http_proxy"] == 0
    assert options["grpc.max_receive_message_length"] == 4 * 1024 * 1024
    assert options["grpc.min_reconnect_backoff_ms"] == 2000
    assert options["grpc.client_idle_timeout_ms"] == 7000
    trusting = target_of(config("host:80", options={"trust_env": True}))
    assert dict(channel_options(trusting, connection))["grpc.enable_http_proxy"] == 1
