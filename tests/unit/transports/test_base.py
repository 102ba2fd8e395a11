"""Factories of the built-in transports, used alone: they validate all, and name what needs a manager."""

from __future__ import annotations

import sys
from typing import Any

import attrs
import pytest

from goplugins import (
    BulkheadConfig,
    CacheConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    ExecPluginFactory,
    FallbackConfig,
    FunctionPluginFactory,
    GRPCPluginFactory,
    HTTPPluginFactory,
    Manager,
    PluginConfig,
    RateLimitConfig,
    RetryConfig,
    UnixSocketPluginFactory,
    serve,
)
from goplugins.errors import ConfigError, UnsupportedTransportError


@serve.plugin
def shout(request: str) -> str:
    return request.upper()


FACTORIES: list[tuple[Any, dict[str, Any]]] = [
    (HTTPPluginFactory, {"endpoint": "http://127.0.0.1:9"}),
    (HTTPPluginFactory, {"endpoint": "https://127.0.0.1:9"}),
    (GRPCPluginFactory, {"endpoint": "127.0.0.1:9"}),
    (UnixSocketPluginFactory, {"endpoint": "/tmp/no.sock"}),
    (ExecPluginFactory, {"executable": sys.executable}),
    (FunctionPluginFactory, {"endpoint": f"{__name__}:shout"}),
]
ALL = pytest.mark.parametrize(("factory", "where"), FACTORIES, ids=lambda value: getattr(value, "__name__", ""))


def config_of(where, **settings):
    return PluginConfig.from_mapping({"name": "p", **where, **settings})


@ALL
def test_a_valid_configuration_makes_a_plugin(factory, where, caplog):
    config = config_of(where, retry={"idempotent": True}, health_check={"timeout": 1})
    factory().validate_config(config)
    factory().create_plugin(config).close()
    assert caplog.messages == []


@ALL
@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"options": {"no_such_option": 1}},
        {"rate_limit": RateLimitConfig(enabled=True, requests_per_second=-1)},
        {"retry": RetryConfig(multiplier=0.5)},
        {"circuit_breaker": CircuitBreakerConfig(failure_threshold=0)},
        {"bulkhead": BulkheadConfig(max_concurrent=0)},
        {"connection": ConnectionConfig(max_connections=-1)},
        {"cache": CacheConfig(ttl=-1)},
        {"fallback": FallbackConfig(plugin="p")},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_a_manager_refuses_is_refused(factory, where, wrong):
    config = attrs.evolve(config_of(where), **wrong)
    for use in (factory().validate_config, factory().create_plugin):
        with pytest.raises(ConfigError):
            use(config)


@ALL
def test_another_transport_is_refused(factory, where):
    other = "unix" if factory is not UnixSocketPluginFactory else "grpc"
    config = config_of(where, transport=other)
    for use in (factory().validate_config, factory().create_plugin):
        with pytest.raises(UnsupportedTransportError):
            use(config)


@ALL
def test_a_warning_names_what_has_no_effect(factory, where, caplog):
    config = config_of(
        where,
        retry={"max_retries": 5, "idempotent": True},
        rate_limit={"enabled": True},
        bulkhead={"max_concurrent": 3},
        circuit_breaker={"failure_threshold": 3},
        health_check={"interval": 3},
        enabled=False,
    )
    factory().create_plugin(config).close()
    (message,) = caplog.messages
    assert message == (
        "plugin 'p': it makes single attempts without a manager; no effect has retry.max_retries, "
        "health_check.interval, circuit_breaker, rate_limit, bulkhead, enabled"
    )


def test_a_managers_plugins_have_their_policies_and_no_warning(caplog):
    class Own(HTTPPluginFactory):
        pass

    plugins = [
        {"name": "a", "transport": "http", "endpoint": "http://127.0.0.1:9", "bulkhead": {"max_concurrent": 3}},
        {
            "name": "b",
            "transport": "http",
            "endpoint": "http://127.0.0.1:9",
            "type": "own",
            "retry": {"max_retries": 1},
        },
    ]
    with Manager() as manager:
        manager.register_factory("own", Own())
        manager.load_from_config({"plugins": plugins})
    assert [record.message for record in caplog.records if "single attempts" in record.message] == []


def test_a_configuration_is_not_changed():
    config = config_of({"endpoint": "http://127.0.0.1:9"})
    before = attrs.asdict(config)
    HTTPPluginFactory().create_plugin(config).close()
    assert attrs.asdict(config) == before
