"""Endpoints: which ones a transport accepts, and what is parsed of them."""

from __future__ import annotations

import attrs
import pytest

from goplugins.config import (
    AuthConfig,
    HealthCheckConfig,
    PluginConfig,
)
from goplugins.config.endpoints import Endpoint
from goplugins.enums import TransportType
from goplugins.errors import ConfigError
from tests.unit.config.helpers import GOOD, codes_of, problems_of


def endpoint(transport: str, address: str) -> str | None:
    found = codes_of(PluginConfig(name="a", transport=transport, endpoint=address))
    assert set(found) <= {"endpoint"}
    return found.get("endpoint")


@pytest.mark.parametrize(
    ("transport", "address"),
    [
        ("http", "http://host"),
        ("http", "HTTP://host:8080/a/b?c=d"),
        ("http", "http://127.0.0.1:1"),
        ("https", "https://[::1]:65535/a"),
        ("https", "https://bücher.example/a"),
        ("grpc", "host:50051"),
        ("grpc", "127.0.0.1:443"),
        ("grpc", "[::1]:443"),
        ("grpc", "[fe80::1%eth0]:443"),
        ("grpc", "dns:///host:443"),
        ("grpc", "dns:///host"),
        ("grpc", "dns:host:443"),
        ("grpc", "dns://8.8.8.8/host:443"),
        ("grpc", "dns:50051"),  # a host of that name
        ("grpc", "unix:/run/a.sock"),
        ("grpc", "unix:///run/a.sock"),
        ("grpc", "unix:a.sock"),
        ("grpc", "unix-abstract:a"),
        ("grpc", "ipv4:10.0.0.1:443,10.0.0.2:443"),
        ("grpc", "ipv6:[::1]:443"),
        ("grpc-tls", "host:443"),
        ("unix", "/run/a.sock"),
        ("unix", "a.sock"),
        ("unix", "@abstract"),
        ("unix", "/" + "a" * 106),
        ("python", "package.module:callable"),
        ("python", "module:Class.method"),
        ("python", "entry-point"),
    ],
)
def test_valid_endpoints(transport: str, address: str) -> None:
    assert endpoint(transport, address) is None


@pytest.mark.parametrize(
    ("transport", "address", "code"),
    [
        ("https", "http://host/", "PLUGIN_1004"),
        ("http", "https://host/", "PLUGIN_1004"),
        ("http", "ftp://host/", "PLUGIN_1004"),
        ("http", "host:80", "PLUGIN_1005"),
        ("http", "//host/a", "PLUGIN_1005"),
        ("http", "http:///a", "PLUGIN_1004"),
        ("http", "http://:80/a", "PLUGIN_1004"),
        ("http", "http://host:0/", "PLUGIN_1004"),
        ("http", "http://host:65536/", "PLUGIN_1004"),
        ("http", "http://host:port/", "PLUGIN_1004"),
        ("http", "http://[::1/", "PLUGIN_1004"),
        ("http", "http://host/a b", "PLUGIN_1004"),
        ("http", "http://host/\r\nX: y", "PLUGIN_1004"),
        ("http", "http://host/#part", "PLUGIN_1004"),
        ("http", "http://user@host/", "PLUGIN_1004"),
        ("http", "http://host/?***", "PLUGIN_1004"),
        ("grpc", "host", "PLUGIN_1005"),
        ("grpc", "host:0", "PLUGIN_1005"),
        ("grpc", "host:65536", "PLUGIN_1005"),
        ("grpc", "::1:443", "PLUGIN_1005"),
        ("grpc", "host:443/path", "PLUGIN_1005"),
        ("grpc", "http://host:443", "PLUGIN_1005"),
        ("grpc-tls", "http://host:443", "PLUGIN_1005"),
        ("grpc-tls", "https://host:443", "PLUGIN_1005"),
        ("grpc", "user:pw@host:443", "PLUGIN_1005"),
        ("grpc", "dns:///", "PLUGIN_1005"),
        ("grpc", "dns:///host:0", "PLUGIN_1005"),
        ("grpc", "unix:", "PLUGIN_1005"),
        ("grpc", "ho st:443", "PLUGIN_1005"),
        ("unix", "@", "PLUGIN_1006"),
        ("unix", "unix:/run/a", "PLUGIN_1005"),
        ("unix", "http://host/p", "PLUGIN_1005"),
        ("unix", "unix+http://%2Frun%2Fa", "PLUGIN_1005"),
        ("unix", "file:///run/a", "PLUGIN_1005"),
        ("unix", "/" + "a" * 107, "PLUGIN_1005"),
        ("unix", "/" + "é" * 60, "PLUGIN_1005"),
        ("unix", "/a\x00b", "PLUGIN_1005"),
        ("python", "module:", "PLUGIN_1005"),
        ("python", ":callable", "PLUGIN_1005"),
        ("python", "a.b:c:d", "PLUGIN_1005"),
        ("python", "a b", "PLUGIN_1005"),
    ],
)
def test_invalid_endpoints(transport: str, address: str, code: str) -> None:
    assert endpoint(transport, address) == code


def test_known_fault_a_token_went_out_in_clear() -> None:
    found = problems_of(
        PluginConfig(
            name="a", transport="https", endpoint="http://host/", auth=AuthConfig(method="bearer", token="hunter2")
        )
    )
    assert found["endpoint"].message == "is a plaintext URL on transport https"
    assert endpoint("grpc-tls", "http://host:1") == "PLUGIN_1005"


@pytest.mark.parametrize("transport", ["http", "https", "grpc", "grpc-tls", "python"])
def test_credentials_in_an_endpoint_are_refused_and_never_repeated(transport: str) -> None:
    for address in (f"{transport}://me:hunter2@host/", "me:hunter2@host:80", "http://me:hunter2@host:99999/"):
        found = problems_of(PluginConfig(name="a", transport=transport, endpoint=address))
        assert "endpoint" in found
        assert "hunter2" not in "".join(map(str, found.values()))


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("/health", True),
        ("http://host/health", True),
        ("https://host/health", False),
        ("health", False),
        ("/he alth", False),
    ],
)
def test_health_endpoints(address: str, good: bool) -> None:
    found = codes_of(attrs.evolve(GOOD, health_check=HealthCheckConfig(endpoint=address)))
    assert found == ({} if good else {"health_check.endpoint": "PLUGIN_1004"})


@pytest.mark.parametrize(
    ("transport", "text", "expected"),
    [
        (
            "https",
            "HTTPS://Host.example:8443/v1/?q=1",
            Endpoint(
                "HTTPS://Host.example:8443/v1/?q=1",
                "https",
                "Host.example:8443",
                "host.example",
                8443,
                "/v1/",
                "q=1",
            ),
        ),
        ("http", "http://[::1]", Endpoint("http://[::1]", "http", "[::1]", "::1")),
        ("grpc", "Search:50051", Endpoint("Search:50051", "", "Search:50051", "search", 50051)),
        ("grpc", "[fe80::1%Eth0]:443", Endpoint("[fe80::1%Eth0]:443", "", "[fe80::1%Eth0]:443", "fe80::1%Eth0", 443)),
        ("grpc", "dns:///host", Endpoint("dns:///host", "dns", "", "host", None, "/host")),
        (
            "grpc",
            "dns://8.8.8.8/host:443",
            Endpoint("dns://8.8.8.8/host:443", "dns", "8.8.8.8", "host", 443, "/host:443"),
        ),
        (
            "grpc",
            "ipv4:10.0.0.1:1,10.0.0.2:2",
            Endpoint("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4", path="/10.0.0.1:1,10.0.0.2:2"),
        ),
        ("grpc", "unix:///run/x", Endpoint("unix:///run/x", "unix", socket_path="/run/x")),
        ("unix", "@name", Endpoint("@name", socket_path="@name")),
        ("python", "a.b:c", Endpoint("a.b:c")),
        ("exec", "anything", Endpoint("anything")),
    ],
)
def test_parsed_parts(transport: str, text: str, expected: Endpoint) -> None:
    assert Endpoint.parse(TransportType(transport), text) == expected


@pytest.mark.parametrize(
    ("transport", "text", "label", "host_and_port"),
    [
        ("https", "https://Host.example/v1/?q=1", "Host.example/v1", ("host.example", 443)),
        ("http", "http://host:8080", "host:8080", ("host", 8080)),
        ("grpc", "search:50051", "search:50051", ("search", 50051)),
        ("grpc", "dns:///search:50051", "dns:///search:50051", None),
        ("unix", "/run/x", "/run/x", None),
    ],
)
def test_label_and_lookup(transport: str, text: str, label: str, host_and_port: tuple[str, int] | None) -> None:
    endpoint = Endpoint.parse(TransportType(transport), text)
    assert endpoint.label == label
    assert endpoint.host_to_look_up == host_and_port


def test_port_0_is_an_address_to_listen_at() -> None:
    assert Endpoint.parse(TransportType.HTTP, "http://127.0.0.1:0/", listen=True).port == 0
    assert Endpoint.parse(TransportType.GRPC, "127.0.0.1:0", listen=True).port == 0
    with pytest.raises(ConfigError, match="port"):
        Endpoint.parse(TransportType.GRPC, "127.0.0.1:0")


def test_all_faults_of_a_url_are_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        Endpoint.parse(TransportType.HTTP, "http://me:pw@host:99999/#part")
    assert {problem.path for problem in caught.value.problems} == {"endpoint"}
    assert len(caught.value.problems) == 3
