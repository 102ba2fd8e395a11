"""Where a call goes, in OpenTelemetry's words."""

from __future__ import annotations

import pytest

from goplugins.enums import TransportType
from goplugins.observability.spans import peer_attributes


@pytest.mark.parametrize(
    ("transport", "endpoint", "address", "port", "network"),
    [
        ("http", "http://auth.example:8080/v1", "auth.example", 8080, "tcp"),
        ("http", "http://auth.example", "auth.example", 80, "tcp"),
        ("https", "https://[::1]/x", "::1", 443, "tcp"),
        ("http", "http://unix:81/x", "unix", 81, "tcp"),
        ("grpc", "search.example:50051", "search.example", 50051, "tcp"),
        ("grpc", "unix:50051", "unix", 50051, "tcp"),
        ("grpc", "dns:///search.example:50051", "search.example", 50051, "tcp"),
        ("grpc", "dns://1.1.1.1/search.example:50051", "search.example", 50051, "tcp"),
        ("grpc-tls", "[::1]:50051", "::1", 50051, "tcp"),
        ("grpc", "ipv4:10.0.0.1:50051", "10.0.0.1", 50051, "tcp"),
        ("grpc", "ipv6:[::1]:50051", "::1", 50051, "tcp"),
        ("grpc", "unix:/run/search.sock", "/run/search.sock", None, "unix"),
        ("grpc", "unix:///run/search.sock", "/run/search.sock", None, "unix"),
        ("grpc", "unix-abstract:search", "search", None, "unix"),
        ("unix", "/run/a:b.sock", "/run/a:b.sock", None, "unix"),
        ("unix", "@search", "@search", None, "unix"),
        ("exec", "/usr/bin/search", None, None, "pipe"),
        ("python", "package.module:search", None, None, None),
        ("grpc", "vsock:2:5000", None, None, None),
        ("grpc", "ipv4:10.0.0.1:1,10.0.0.2:2", None, None, None),
        ("http", "", None, None, None),
        ("unix", "", None, None, None),
    ],
)
def test_the_attributes_of_an_endpoint(transport, endpoint, address, port, network):
    wanted = {"server.address": address, "server.port": port, "network.transport": network}
    found = peer_attributes(TransportType(transport), endpoint)
    assert found == {name: value for name, value in wanted.items() if value is not None}
