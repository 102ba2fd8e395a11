"""What the factory builds and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.config import AuthConfig, PluginConfig
from goplugins.errors import ConfigError
from goplugins.transports.grpc import GRPCPluginFactory


def config(endpoint: str, **fields: Any) -> PluginConfig:
    return PluginConfig(**{"name": "p", "transport": "grpc", "endpoint": endpoint, **fields})


def test_transports():
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
def test_refuses_endpoints_credentials_and_methods_that_are_invalid(fields):
    factory = GRPCPluginFactory()
    for use in (factory.validate_config, factory.create_plugin):
        with pytest.raises(ConfigError):
            use(config(**{"endpoint": "host:80", **fields}))
