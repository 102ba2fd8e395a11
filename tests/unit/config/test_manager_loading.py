"""Loading a configuration: all problems at once, defaults, further checks."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from goplugins import errors
from goplugins.config import (
    ManagerConfig,
    PluginConfig,
    RetryConfig,
)
from goplugins.config.manager import load
from goplugins.errors import ConfigError
from tests.unit.config.helpers import PLUGIN, problems

YAML = """
default_retry:
  max_interval: 1m30s
plugins:
- name: a
  transport: http
  endpoint: http://${HOST}/p
  retry:
  labels: {on: "yes"}
"""


@pytest.mark.parametrize("source", [None, 5, [], b"c.json"])
def test_objects_that_are_not_a_configuration(source: Any) -> None:
    with pytest.raises(errors.InvalidConfigError, match="expected a configuration"):
        load(source)


def test_a_configuration_without_variables_is_loaded_unchanged() -> None:
    config = ManagerConfig(plugins=[PluginConfig(**PLUGIN, retry=RetryConfig(max_retries=0))])
    assert load(config, environ={}).config == config


def test_type_errors_unset_variables_and_contradictions_are_reported_together() -> None:
    found = problems(
        {
            "metrics_port": "x",
            "plugins": [
                {"name": 5, "transport": "http"},
                {**PLUGIN, "endpoint": "${A}"},
                {**PLUGIN, "args": ["x", 5], "auth": {"method": "bearer"}},
                {"name": "exec", "transport": "exec", "retry": "x"},
            ],
        }
    )
    assert {path: problem.code for path, problem in found.items()} == {
        "metrics_port": "PLUGIN_1012",
        "plugins[0].name": "PLUGIN_1012",  # and not also "missing"
        "plugins[0].endpoint": "PLUGIN_1003",
        "plugins[1].endpoint": "PLUGIN_1013",
        "plugins[2].args[1]": "PLUGIN_1012",
        "plugins[2].auth.token": "AUTH_1102",
        "plugins[2].name": "PLUGIN_1010",
        "plugins[3].retry": "PLUGIN_1012",
        "plugins[3].executable": "PLUGIN_1007",
    }


def test_a_plugin_that_is_not_a_table_does_not_hide_or_add_problems() -> None:
    found = problems({"plugins": ["x", {"name": "a"}], "log_level": "loud"})
    assert set(found) == {"plugins[0]", "log_level"}


def test_a_mapping_that_contains_itself_is_refused() -> None:
    options: dict[str, Any] = {}
    options["options"] = options
    with pytest.raises(errors.InvalidConfigError, match="contains itself"):
        load({"plugins": [{**PLUGIN, "options": options}]})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", '{"plugins": [{"name": "a", "transport": "http"}]}', ": plugins[0].endpoint: missing"),
        ("c.yaml", "metrics_port: x\n" + YAML.replace("${HOST}", "h"), ": metrics_port: expected an integer"),
        ("c.yaml", "- name: a\n", ": expected a table, got a list (put it under plugins:)"),
        ("c.yaml", "", ": is empty (write plugins: and the list of plugins below it)"),
        ("c.yml", "# nothing yet\n", ": is empty (write plugins:"),
        ("c.json", "null", ": is empty"),
        ("c.json", " ", ': line 1, column 2: the text is empty (write {"plugins": [...]})'),
        ("c.toml", "", ": plugins: no plugin is configured"),
        ("c.yaml", "plugins:\n", ": plugins: no plugin is configured"),
    ],
)
def test_a_single_problem_names_its_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    error = caught.value
    assert len(error.problems) == 1
    assert str(error).startswith(f"[{error.code}] {path}{message}")
    for arrived in (pickle.loads(pickle.dumps(error)), type(error)(*json.loads(json.dumps(error.args)))):
        assert str(arrived) == str(error)
        assert arrived.source == error.source


def test_several_problems_name_the_file_once(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("metrics_port: x\nlog_level: y\nplugins: [{name: a, transport: http, endpoint: 'http://h'}]\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).count(str(path)) == 1
    assert caught.value.source == str(path)


def test_a_list_of_plugins_in_code_belongs_under_plugins() -> None:
    with pytest.raises(errors.InvalidConfigError, match=r"put it under plugins:"):
        load([PLUGIN])  # type: ignore[arg-type]


def test_a_resolved_configuration_has_its_defaults_and_its_files_checked() -> None:
    config = load({"plugins": [PLUGIN]}, check_files=True).resolved
    assert config == load({"plugins": [PLUGIN]}).config.with_defaults()
    auth = {"method": "mtls", "cert_file": "/none/c", "key_file": "/none/k"}
    plugin = {"name": "a", "transport": "https", "endpoint": "https://h", "auth": auth}
    assert load({"plugins": [plugin]}).config.plugins
    with pytest.raises(ConfigError) as caught:
        load({"plugins": [plugin]}, check_files=True)
    assert [problem.path for problem in caught.value.problems] == [
        "plugins[0].auth.cert_file",
        "plugins[0].auth.key_file",
    ]


def test_further_checks_are_reported_with_all_other_problems() -> None:
    checked: list[Any] = []

    def further(config: ManagerConfig, suspect: Collection[int]) -> list[ConfigError]:
        checked.append((config.plugins[0].type, set(suspect)))
        own = errors.UnsupportedTransportError("no factory", path="plugins[0].type", fix="register it")
        again = errors.InvalidConfigError("reported before", path="plugins[1].endpoint", fix="")
        return [own, again]

    source = {
        "metrics_port": "x",
        "plugins": [
            PLUGIN,
            {"name": "b", "transport": "http"},
            {**PLUGIN, "name": "c", "retry": {"max_retries": -1}},
            {**PLUGIN, "name": "d", "auth": {"method": "none", "ca_file": "/none/ca"}},
            {**PLUGIN, "name": "e", "labels": {"x": "${A}"}},
        ],
    }
    with pytest.raises(ConfigError) as caught:
        load(source, environ={}, further=further, check_files=True)
    assert [problem.path for problem in caught.value.problems] == [
        "metrics_port",
        "plugins[0].type",
        "plugins[1].endpoint",
        "plugins[2].retry.max_retries",
        "plugins[3].auth.ca_file",
        "plugins[4].labels.x",
    ]
    assert checked == [("http", {1, 2, 3, 4})]
    assert "reported before" not in str(caught.value)
