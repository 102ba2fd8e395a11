"""Address, proxy and paths of an HTTP plugin."""

from __future__ import annotations

import pytest

from goplugins.config import HealthCheckConfig, PluginConfig
from goplugins.errors import (
    InvalidConfigError,
    InvalidEndpointFormatError,
    InvalidEndpointURLError,
    MissingEndpointError,
)
from goplugins.transports.http import HTTPPluginFactory
from goplugins.transports.http.target import target_of


def target(endpoint: str, **fields):
    return target_of(PluginConfig(name="p", transport=fields.pop("transport", "http"), endpoint=endpoint, **fields))


def test_parts_of_an_endpoint():
    found = target("https://Example.com/a/b/?q=1", transport="https")
    assert (found.origin, found.path, found.health_path, found.port) == (
        "https://example.com",
        "/a/b/?q=1",
        "/a/b/health?q=1",
        443,
    )
    assert target("http://h:8080").path == "/"
    assert target("http://[::1]:8080/x").first_hop == ("::1", 8080)


def test_http_transport_may_use_a_secure_endpoint():
    assert target("https://h/x").tls


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://h/x", "http:///x", "http://h:99999/x", "http://h:0/x", "http://[::1/x", "http://h/a b"],
)
def test_invalid_urls(endpoint):
    with pytest.raises(InvalidEndpointURLError):
        target(endpoint)


def test_an_endpoint_without_a_scheme():
    with pytest.raises(InvalidEndpointFormatError):
        target("h:80/x")


def test_missing():
    with pytest.raises(MissingEndpointError):
        target("")


def test_credentials_in_the_url_are_rejected_and_not_quoted():
    with pytest.raises(InvalidEndpointURLError) as caught:
        target("http://user:hunter2@h/x")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["https://p:3128", "socks5://p:1", "http://", "http://p:x"])
def test_invalid_proxies(proxy):
    with pytest.raises(InvalidConfigError) as caught:
        target("http://h/x", options={"proxy": proxy})
    assert caught.value.path == "options.proxy"


def test_proxy_credentials_are_not_in_the_repr():
    found = target("http://h/x", options={"proxy": "http://u:hunter2@p:3128"})
    assert found.first_hop == ("p", 3128)
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("endpoint", "error"), [("http://other/x", InvalidConfigError), ("https://h/x", InvalidEndpointURLError)]
)
def test_health_endpoint_on_another_host_is_rejected_by_the_factory(endpoint, error):
    config = PluginConfig(
        name="p",
        transport="http",
        endpoint="http://h/x",
        health_check=HealthCheckConfig(endpoint=endpoint),
    )
    with pytest.raises(error, match=r"health_check\.endpoint"):
        HTTPPluginFactory().validate_config(config)
