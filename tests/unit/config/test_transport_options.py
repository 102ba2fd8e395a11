"""``options.resolve``: where it is allowed, and what it becomes."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins import Manager, PluginConfig
from goplugins.config import LoadBalancerConfig
from goplugins.config.diff import update_of
from goplugins.errors import (
    ConfigError,
    InvalidConfigError,
)
from tests.unit.balancing.dns_fakes import resolved_config


@pytest.mark.parametrize(
    ("fields", "paths", "in_place"),
    [
        ({"circuit_breaker": {"failure_threshold": 9}}, ["circuit_breaker.failure_threshold"], True),
        ({"retry": {"max_retries": 9}}, ["retry.max_retries"], True),
        ({"endpoint": "http://search.test/v2"}, ["endpoint"], False),
        ({"connection": {"max_connections": 3}}, ["connection.max_connections"], False),
        ({"options": {"resolve": True, "resolve_interval": 5}}, ["options.resolve_interval"], False),
        ({"balancing": {"strategy": "p2c"}}, ["balancer.strategy"], False),
    ],
)
def test_a_diff_names_fields_as_they_were_written(fields: dict[str, Any], paths: list[str], in_place: bool) -> None:
    options = fields.pop("options", None)
    update = update_of(resolved_config(), resolved_config(options, **fields))
    assert update is not None
    assert [change.path for change in update.changes] == paths
    assert update.in_place is in_place


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"transport": "http", "endpoint": "http://10.0.0.1/"}, "the endpoint is an IP address"),
        ({"transport": "https", "endpoint": "https://[::1]:8443/"}, "the endpoint is an IP address"),
        ({"transport": "grpc", "endpoint": "[::1]:50051"}, "the endpoint is an IP address"),
        ({"transport": "grpc", "endpoint": "dns:///search.test:50051"}, "of the form host:port"),
        ({"transport": "grpc-tls", "endpoint": "unix:/run/x"}, "of the form host:port"),
        ({"transport": "http", "endpoints": ["http://a.test/", "http://b.test/"]}, "not for several"),
        ({"transport": "unix", "endpoint": "/run/x"}, "unknown option"),
        ({"transport": "python", "endpoint": "math:sin"}, "unknown option"),
        ({"transport": "exec", "executable": "/bin/cat"}, "unknown option"),
    ],
)
def test_resolve_is_refused_where_it_would_have_no_effect(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        PluginConfig(name="p", options={"resolve": True}, **fields).validate()
    assert caught.value.problems[0].path == "options.resolve"


def test_an_interval_without_resolve_is_refused() -> None:
    with pytest.raises(InvalidConfigError, match="has no effect without resolve"):
        PluginConfig(
            name="p",
            transport="http",
            endpoint="http://a.test/",
            options={"resolve_interval": 5.0},
        ).validate()


def test_resolve_behind_a_proxy_is_refused() -> None:
    plugin = {"name": "p", "transport": "http", "endpoint": "http://a.test/"}
    options = {"resolve": True, "proxy": "http://proxy.test:3128"}
    with Manager() as manager, pytest.raises(ConfigError, match="behind a proxy") as caught:
        manager.load_from_config({"plugins": [{**plugin, "options": options}]})
    assert caught.value.problems[0].path == "plugins[0].options.resolve"


def test_balancing_options_of_a_resolved_plugin() -> None:
    config = resolved_config(balancing={"strategy": "p2c"})
    assert isinstance(config.balancer, LoadBalancerConfig)
    assert config.balancer.strategy == "p2c"
    assert config.endpoint == "http://search.test/v1"
