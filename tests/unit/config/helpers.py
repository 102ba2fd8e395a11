"""Shared by the tests of the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.config import (
    AuthConfig,
    ManagerConfig,
    PluginConfig,
)
from goplugins.config.manager import load
from goplugins.errors import ConfigError

GOOD = PluginConfig(name="a", transport="http", endpoint="http://host/p")


def problems_of(config: ManagerConfig | PluginConfig | AuthConfig, **how: Any) -> dict[str, ConfigError]:
    found: tuple[ConfigError, ...] = ()
    try:
        config.validate(**how)
    except ConfigError as error:
        found = error.problems
    assert all(problem.path and problem.fix for problem in found)
    return {problem.path: problem for problem in found}


def codes_of(config: ManagerConfig | PluginConfig | AuthConfig, **how: Any) -> dict[str, str]:
    return {path: problem.code for path, problem in problems_of(config, **how).items()}


PLUGIN: dict[str, Any] = {"name": "a", "transport": "http", "endpoint": "http://host/p"}


def plugin_messages(**plugin: Any) -> dict[str, str]:
    """Messages and fixes of the problems of a plugin, by path below the plugin."""
    return messages({"plugins": [{**PLUGIN, **plugin}]})


def messages(values: Any, **environ: str) -> dict[str, str]:
    """Messages and fixes of the problems of a configuration, by path."""
    try:
        load(values, environ=environ)
    except ConfigError as error:
        return {each.path.removeprefix("plugins[0]."): f"{each.message} ({each.fix})" for each in error.problems}
    return {}


def problems(source: Any, **environ: str) -> dict[str, ConfigError]:
    """The problems of a source that can't be loaded, by path."""
    with pytest.raises(ConfigError) as caught:
        load(source, environ=environ)
    assert all(problem.path and problem.fix for problem in caught.value.problems)
    return {problem.path: problem for problem in caught.value.problems}
