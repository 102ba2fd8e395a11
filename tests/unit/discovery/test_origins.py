"""The origin of each setting."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from goplugins import ManagerConfig, PluginConfig, RetryConfig, load_with_origins
from goplugins.errors import ConfigError

YAML = """\
default_retry:
  max_retries: 5
plugins:
- name: auth
  transport: https
  endpoint: https://auth.example.com/v1
  auth:
    method: bearer
    token: ${TOKEN}
  retry:
    multiplier: 3
  labels: {tier: gold}
load_balancers:
- name: pool
  members: [auth]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plugins.yaml"
    path.write_text(YAML)
    return path


def test_settings_of_a_file_have_lines(file: Path) -> None:
    config, origins = load_with_origins(file, environ={"TOKEN": "hunter2"})
    assert config.plugins[0].retry is not None
    assert config.plugins[0].retry.max_retries == 5
    assert origins["default_retry.max_retries"] == f"{file}:2"
    assert origins["default_retry.multiplier"] == "default"
    assert origins["plugins[auth].endpoint"] == f"{file}:6"
    assert origins["plugins[auth].auth.token"] == f"{file}:9"
    assert origins["plugins[auth].retry.multiplier"] == f"{file}:11"
    assert origins["plugins[auth].retry.max_retries"] == f"{file}:2", "inherited"
    assert origins["plugins[auth].retry.max_interval"] == "default"
    assert origins["plugins[auth].labels.tier"] == f"{file}:12"
    assert origins["plugins[auth].enabled"] == "default"
    assert origins["load_balancers[pool].members"] == f"{file}:15"
    assert origins["load_balancers[pool].retry.max_retries"] == f"{file}:2"
    assert set(origins) == set(origins.shown)
    assert origins.shown["plugins[auth].retry.multiplier"] == 3.0
    assert "hunter2" not in str(dict(origins.shown))


def test_overriding_variables_are_named(file: Path) -> None:
    environ = {
        "TOKEN": "x",
        "GOPLUGINS__PLUGINS__AUTH__ENDPOINT": "https://other.example.com/",
        "GOPLUGINS__PLUGINS__AUTH__RETRY": '{"max_retries": 1}',
        "GOPLUGINS__DEFAULT_RETRY__MAX_INTERVAL": "9s",
    }
    config, origins = load_with_origins(str(file), environ=environ)
    assert config.plugins[0].endpoint == "https://other.example.com/"
    assert origins["plugins[auth].endpoint"] == "environment GOPLUGINS__PLUGINS__AUTH__ENDPOINT"
    assert origins["plugins[auth].retry.max_retries"] == "environment GOPLUGINS__PLUGINS__AUTH__RETRY"
    assert origins["plugins[auth].retry.multiplier"] == "default", "the whole section was replaced"
    assert origins["plugins[auth].retry.max_interval"] == "environment GOPLUGINS__DEFAULT_RETRY__MAX_INTERVAL"
    assert origins["plugins[auth].transport"] == f"{file}:5"


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_other_file_formats_have_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plugins.{suffix}"
    values = {"plugins": [{"name": "a", "transport": "unix", "endpoint": "/run/a"}]}
    toml = '[[plugins]]\nname = "a"\ntransport = "unix"\n\nendpoint = "/run/a"\n'
    path.write_text(json.dumps(values, indent=1) if suffix == "json" else toml)
    _, origins = load_with_origins(path, environ={})
    assert origins["plugins[a].endpoint"] == f"{path}:{6 if suffix == 'json' else 5}"


def test_settings_of_code() -> None:
    plugin = PluginConfig(name="a", transport="unix", endpoint="/run/a", retry=RetryConfig(max_retries=1))
    sources: list[Any] = [
        ManagerConfig(plugins=[plugin]),
        {"plugins": [{"name": "a", "transport": "unix", "endpoint": "/run/a", "retry": {"max_retries": 1}}]},
    ]
    for source in sources:
        _, origins = load_with_origins(source, environ={"GOPLUGINS__PLUGINS__A__ENDPOINT": "/run/b"})
        assert origins["plugins[a].endpoint"] == "code"
        assert origins["plugins[a].retry.max_retries"] == "code"
        assert origins["plugins[a].retry.multiplier"] == "default"
        assert origins["observability.metrics_prefix"] == "default"


def test_settings_of_discovered_plugins_have_lines_of_their_manifests(tmp_path: Path) -> None:
    before = os.umask(0o022)
    folder = tmp_path / "found"
    folder.mkdir()
    manifest = folder / "geo.yaml"
    manifest.write_text("name: geo\nversion: '1'\ntransport: unix\nendpoint: geo.sock\nretry: {max_retries: 1}\n")
    (folder / "auth.json").write_text('{"name": "auth"')
    (folder / "plugin-x").write_text("")
    (folder / "plugin-x").chmod(0o755)
    os.umask(before)
    path = tmp_path / "plugins.json"
    patterns = ["*.yaml", "*.json", "plugin-*"]
    path.write_text(json.dumps({"discovery": {"enabled": True, "directories": [str(folder)], "patterns": patterns}}))
    environ = {"GOPLUGINS__PLUGINS__GEO__PRIORITY": "3"}
    config, origins = load_with_origins(path, environ=environ)
    assert [plugin.name for plugin in config.plugins] == ["geo", "plugin-x"]
    assert config.plugins[0].connection is not None, "defaults are filled in"
    assert origins["plugins[geo].endpoint"] == f"discovery {manifest}:4"
    assert origins["plugins[geo].retry.max_retries"] == f"discovery {manifest}:5"
    assert origins["plugins[geo].priority"] == "environment GOPLUGINS__PLUGINS__GEO__PRIORITY"
    assert origins["plugins[geo].connection.keep_alive"] == "default"
    assert origins["plugins[plugin-x].executable"] == f"discovery {folder}/plugin-x"
    assert origins.report is not None
    assert [Path(problem.path).name for problem in origins.report.problems] == ["auth.json"]


def test_an_invalid_configuration_raises(file: Path) -> None:
    with pytest.raises(ConfigError, match="TOKEN"):
        load_with_origins(file, environ={})
