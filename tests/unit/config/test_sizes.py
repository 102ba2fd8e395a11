"""Sizes in bytes, as text and as numbers."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.config import ManagerConfig, PluginConfig
from goplugins.config.manager import load
from goplugins.config.sizes import parse_size
from goplugins.errors import ConfigError
from tests.unit.config.helpers import PLUGIN, plugin_messages


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4 MiB", 4 << 20),
        ("4MiB", 4 << 20),
        (" 4 Mi ", 4 << 20),
        ("1 GiB", 1 << 30),
        ("64 kB", 64_000),
        ("64KB", 64_000),
        ("64KiB", 65_536),
        ("1.5 KiB", 1536),
        ("2TB", 2 * 10**12),
        ("10 B", 10),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size
    config = ManagerConfig.from_mapping({"plugins": [{**PLUGIN, "connection": {"max_response_bytes": text}}]})
    assert config.plugins[0].connection is not None
    assert config.plugins[0].connection.max_response_bytes == size


@pytest.mark.parametrize(
    "text", ["", "4", "4 M", "4 mb", "4 iB", "MiB", "-4 MiB", "1.0001 kB", "4 MiB x", "1" * 50 + "B"]
)
def test_invalid_sizes(text: str) -> None:
    found = plugin_messages(connection={"max_response_bytes": text})["connection.max_response_bytes"]
    assert found.startswith("expected a size in bytes, got ")
    assert found.endswith('(write bytes as an integer, or text such as "4 MiB" or "64 kB")')


def test_a_size_must_be_positive_and_in_code_an_integer() -> None:
    wrong = {"connection.max_response_bytes": "expected an integer of 1 or more, got 0 (write an integer of 1 or more)"}
    assert plugin_messages(connection={"max_response_bytes": "0 B"}) == wrong
    assert plugin_messages(connection={"max_response_bytes": 0}) == wrong
    with pytest.raises(ConfigError, match="expected an integer"):
        PluginConfig(**PLUGIN, connection=_connection("4 MiB")).validate()


def _connection(size: Any) -> Any:
    from goplugins.config import ConnectionConfig

    return ConnectionConfig(max_response_bytes=size)


def test_a_size_from_a_variable_and_as_an_option() -> None:
    plugin: dict[str, Any] = {"name": "a", "transport": "exec", "executable": "x", "options": {"max_memory": "1 GiB"}}
    plugin["connection"] = {"max_response_bytes": "${SIZE}"}
    for text, size in (("1 MiB", 1 << 20), ("123", 123)):
        config = load({"plugins": [plugin]}, environ={"SIZE": text}).config.plugins[0]
        assert config.options == {"max_memory": 1 << 30}
        assert config.connection is not None
        assert config.connection.max_response_bytes == size
