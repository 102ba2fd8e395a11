from __future__ import annotations

import builtins
import json
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from goplugins import errors
from goplugins.config import (
    AuthConfig,
    ConnectionConfig,
    HealthCheckConfig,
    ManagerConfig,
    PluginConfig,
    RetryConfig,
)
from goplugins.config.loading import load_config, load_resolved
from goplugins.errors import ConfigError

PLUGIN: dict[str, Any] = {"name": "a", "transport": "http", "endpoint": "http://host/p"}


def load(plugin: dict[str, Any], **environ: str) -> PluginConfig:
    return load_config({"plugins": [{**PLUGIN, **plugin}]}, environ=environ).plugins[0]


def problems(source: Any, **environ: str) -> dict[str, ConfigError]:
    with pytest.raises(ConfigError) as caught:
        load_config(source, environ=environ)
    assert all(problem.path and problem.fix for problem in caught.value.problems)
    return {problem.path: problem for problem in caught.value.problems}


JSON = """{"default_retry": {"max_interval": "1m30s"},
 "plugins": [{"name": "a", "transport": "http", "endpoint": "http://${HOST}/p", "labels": {"on": "yes"}}]}"""
TOML = """
[default_retry]
max_interval = "1m30s"
[[plugins]]
name = "a"
transport = "http"
endpoint = "http://${HOST}/p"
labels = {on = "yes"}
"""
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


@pytest.mark.parametrize(("name", "text"), [("c.json", JSON), ("c.TOML", TOML), ("c.yaml", YAML), ("c.yml", YAML)])
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    monkeypatch.setenv("HOST", "example.com")
    expected = ManagerConfig(
        default_retry=RetryConfig(max_interval=90.0),
        plugins=[PluginConfig(name="a", transport="http", endpoint="http://example.com/p", labels={"on": "yes"})],
    )
    assert load_config(path) == load_config(str(path)) == ManagerConfig.from_file(str(path)) == expected


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("c.json", '{\n "a": hunter2}', "line 2, column 7"),
        ("c.json", "", "line 1, column 1"),
        ("c.json", '{"a": 1, "a": 2}', "'a' occurs more than once"),
        ("c.toml", "a = 1\nb = hunter2\n", "line 2, column 5"),
        ("c.toml", "a = 1\na = 2\n", "line 2"),
        ("c.yaml", "a: 1\nb: [hunter2\n", "line 3, column 1"),
        ("c.yaml", "a: 1\na: 2\n", "line 2, column 1: the key 'a' occurs more than once"),
        ("c.yaml", "a: !!python/object:x.Y {}\n", "line 1, column 4"),
        ("c.yaml", "a: 2020-99-99\n", "has an invalid date"),
        ("c.yaml", "a: \x07\n", "not YAML"),
        ("c.yaml", "a: 1\n---\na: 1\n", "line 2, column 1"),
    ],
)
def test_bad_syntax_has_its_place_and_shows_nothing_of_the_text(
    tmp_path: Path, name: str, text: str, place: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(errors.ConfigSyntaxError) as caught:
        load_config(path)
    assert place in str(caught.value)
    assert caught.value.path == str(path)
    assert caught.value.fix
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_yaml_keys_are_names_and_its_aliases_and_merges_work(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "plugins:\n"
        "- &base {name: a, transport: http, endpoint: 'http://h', fallback: {value: 1, on: [rate-limit]}}\n"
        "- {<<: *base, name: b}\n"
    )
    first, second = load_config(path).plugins
    assert (first.name, second.name) == ("a", "b")
    assert first.fallback == second.fallback
    assert first.fallback is not None
    assert first.fallback.on == ("rate-limit",)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    for path, text in [
        (tmp_path / "none.json", "does not exist"),
        (tmp_path / "c.ini", "suffixes .json, .toml, .yaml, .yml"),
        (tmp_path, "suffixes .json"),
        ('{"token": "hunter2"}', "read JSON text by ManagerConfig.from_json"),
        ("plugins:\n- token: hunter2", "read JSON text by ManagerConfig.from_json"),
    ]:
        with pytest.raises(errors.ConfigFileError) as caught:
            load_config(path)
        assert text in str(caught.value)
        assert caught.value.path
        assert caught.value.fix
        assert "hunter2" not in str(caught.value)
    (tmp_path / "directory.json").mkdir()
    with pytest.raises(errors.ConfigFileError, match="can't be read"):
        load_config(tmp_path / "directory.json")


def test_yaml_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(YAML)
    whole = builtins.__import__

    def without_yaml(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "goplugins.config.yaml_text":
            raise ImportError("No module named 'yaml'")
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(errors.ConfigFileError, match=r"pip install goplugins\[yaml\]"):
        load_config(path)


@pytest.mark.parametrize("source", [None, 5, [], b"c.json"])
def test_what_is_no_configuration(source: Any) -> None:
    with pytest.raises(errors.InvalidConfigError, match="expected a configuration"):
        load_config(source)


def test_variables_in_any_string() -> None:
    plugin = load(
        {
            "endpoint": "http://${HOST}:${PORT:80}/${EMPTY:}$${HOST}",
            "labels": {"a": "$5 ${HOST}", "b": "$$", "c": "$HOST"},
            "options": {"proxy": "http://${HOST}:1"},
            "cache": {"ttl": 1, "vary_headers": ["X-${PORT:1-2}"]},
        },
        HOST="h",
    )
    assert plugin.endpoint == "http://h:80/${HOST}"
    assert plugin.labels == {"a": "$5 h", "b": "$$", "c": "$HOST"}
    assert plugin.options == {"proxy": "http://h:1"}
    assert plugin.cache is not None
    assert plugin.cache.vary_headers == ("X-1-2",)


def test_a_variable_s_value_is_not_expanded_again() -> None:
    assert load({"labels": {"a": "${A}"}}, A="${B}").labels == {"a": "${B}"}


def test_a_value_that_is_wholly_a_variable_may_be_a_number_a_switch_or_a_duration() -> None:
    plugin = load(
        {
            "retry": {"max_retries": "${N:3}", "multiplier": "${M}", "idempotent": "${YES}"},
            "connection": {"request_timeout": "${SECONDS}", "idle_timeout": "${TEXT}", "keep_alive": "${NO}"},
            "health_check": {"interval": "${N:30}"},
            "transport": "${T}",
            "options": {"trust_env": "${YES}"},
        },
        M="1.5",
        YES="True",
        NO="0",
        SECONDS="30",
        TEXT="1m30s",
        T="http",
    )
    assert plugin.retry == RetryConfig(max_retries=3, multiplier=1.5, idempotent=True)
    assert plugin.connection == ConnectionConfig(request_timeout=30.0, idle_timeout=90.0, keep_alive=False)
    assert plugin.health_check == HealthCheckConfig(interval=30.0)
    assert plugin.options == {"trust_env": True}


def test_text_that_came_from_no_variable_stays_text() -> None:
    found = problems({"plugins": [{**PLUGIN, "retry": {"max_retries": "3${EMPTY:}"}}]})
    assert found["plugins[0].retry.max_retries"].message == "expected an integer, got '3'"


def test_strings_from_variables_are_plain_strings_afterwards() -> None:
    plugin = load(
        {"name": "${A}", "type": "mine", "options": {"x": ["${A}"]}, "fallback": {"value": {"y": "${A}"}}}, A="text"
    )
    assert plugin.fallback is not None
    for value in (plugin.name, plugin.options["x"][0], plugin.fallback.value["y"]):
        assert value == "text"
        assert type(value) is str


def test_a_wrong_value_from_a_variable_is_named_by_the_variable() -> None:
    found = problems(
        {"plugins": [{**PLUGIN, "retry": {"max_retries": "${N}", "multiplier": "${EMPTY:}"}}]}, N="hunter2"
    )
    assert found["plugins[0].retry.max_retries"].message == "expected an integer, got the value of ${N}"
    assert found["plugins[0].retry.multiplier"].message == "expected a number, got the empty value of ${EMPTY:}"


def test_unset_variables_are_named_all_with_their_paths() -> None:
    found = problems(
        {"plugins": [{**PLUGIN, "endpoint": "http://${A}", "args": ["${B}"], "labels": {"x": "${C}${D:}"}}]}
    )
    assert {path: (problem.code, problem.message, problem.fix) for path, problem in found.items()} == {
        "plugins[0].endpoint": ("PLUGIN_1013", "variable A is not set", "set A, or write ${A:default}"),
        "plugins[0].args[0]": ("PLUGIN_1013", "variable B is not set", "set B, or write ${B:default}"),
        "plugins[0].labels.x": ("PLUGIN_1013", "variable C is not set", "set C, or write ${C:default}"),
    }


@pytest.mark.parametrize("text", ["${", "${A", "${1A}", "${}", "${A B}"])
def test_what_only_looks_like_a_variable_is_named_and_not_repeated(text: str) -> None:
    found = problems({"plugins": [{**PLUGIN, "auth": {"method": "bearer", "token": f"hunter2{text}"}}]})
    assert set(found) == {"plugins[0].auth.token"}
    assert "$${" in found["plugins[0].auth.token"].fix
    assert "hunter2" not in str(found)


def test_variables_in_a_configuration_made_in_code() -> None:
    config = ManagerConfig(
        plugins=[
            PluginConfig(**PLUGIN, auth=AuthConfig(method="bearer", token="${TOKEN}"), options={"proxy": "http://${P}"})
        ]
    )
    plugin = load_config(config, environ={"TOKEN": "t", "P": "p:1"}).plugins[0]
    assert plugin.auth is not None
    assert (plugin.auth.token, plugin.options) == ("t", {"proxy": "http://p:1"})
    assert config.plugins[0].auth == AuthConfig(method="bearer", token="${TOKEN}")


def test_a_configuration_without_variables_is_loaded_as_it_is() -> None:
    config = ManagerConfig(plugins=[PluginConfig(**PLUGIN, retry=RetryConfig(max_retries=0))])
    assert load_config(config, environ={}) == config


def test_wrong_types_unset_variables_and_wrong_sense_are_reported_in_one_round() -> None:
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


def test_a_plugin_that_is_no_table_does_not_hide_or_invent_other_problems() -> None:
    found = problems({"plugins": ["x", {"name": "a"}], "log_level": "loud"})
    assert set(found) == {"plugins[0]", "log_level"}


def test_the_default_environment_is_the_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPLUGINS_TEST_NAME", "from-environment")
    config = load_config({"plugins": [{**PLUGIN, "name": "${GOPLUGINS_TEST_NAME}"}]})
    assert config.plugins[0].name == "from-environment"


@pytest.mark.parametrize("default", ["-s3cr3t", "-", "--5", "?s3cr3t", "=s3cr3t", "+s3cr3t"])
@pytest.mark.parametrize("environ", [{}, {"A": "set"}])
def test_a_default_written_as_for_a_shell_is_refused_whether_needed_or_not(
    default: str, environ: dict[str, str]
) -> None:
    found = problems({"plugins": [{**PLUGIN, "labels": {"x": f"${{A:{default}}}"}}]}, **environ)
    problem = found["plugins[0].labels.x"]
    assert problem.message == "the default of A has the syntax of a shell"
    assert "write ${A:default}" in problem.fix
    assert "s3cr3t" not in str(problem)


def test_a_default_may_be_a_negative_number() -> None:
    assert load({"priority": "${A:-5}", "labels": {"x": "${A:-.5}"}}).priority == -5


def test_a_variable_within_a_default_is_refused() -> None:
    found = problems({"plugins": [{**PLUGIN, "labels": {"x": "${A:${B}}", "y": "${A:$${B}}"}}]}, A="a", B="b")
    assert set(found) == {"plugins[0].labels.x", "plugins[0].labels.y"}
    assert "contains a variable, which is not replaced" in found["plugins[0].labels.x"].message
    assert "set A" in found["plugins[0].labels.x"].fix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a {b: *a}\n", "an anchor contains an alias of itself"),
        ("plugins: &a [*a]\n", "an anchor contains an alias of itself"),
        ("plugins:\n- &a {<<: *a}\n", "an anchor contains an alias of itself"),
        ("a: &a0 x\n" + "".join(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)), "aliases"),
        ("a: " + "[" * 5000 + "]" * 5000, "nest less"),
    ],
)
def test_yaml_aliases_without_end_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(errors.ConfigSyntaxError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_one_section_may_be_shared_by_thousands_of_plugins(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    plugins = "".join(f"- {{name: p{i}, transport: http, endpoint: 'http://h', retry: *r}}\n" for i in range(1, 1000))
    first = "- {name: p0, transport: http, endpoint: 'http://h', retry: &r {max_retries: 1, multiplier: 3}}\n"
    path.write_text(f"plugins:\n{first}{plugins}")
    assert {plugin.retry for plugin in load_config(path).plugins} == {RetryConfig(max_retries=1, multiplier=3)}


def test_a_mapping_that_holds_itself_is_refused() -> None:
    options: dict[str, Any] = {}
    options["options"] = options
    with pytest.raises(errors.InvalidConfigError, match="contains itself"):
        load_config({"plugins": [{**PLUGIN, "options": options}]})


def test_toml_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(errors.ConfigSyntaxError, match="nested too deeply"):
        load_config(path)


@pytest.mark.parametrize(
    ("name", "text", "told"),
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
def test_a_single_problem_names_its_file(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    error = caught.value
    assert len(error.problems) == 1
    assert str(error).startswith(f"[{error.code}] {path}{told}")
    for arrived in (pickle.loads(pickle.dumps(error)), type(error)(*json.loads(json.dumps(error.args)))):
        assert str(arrived) == str(error)
        assert arrived.source == error.source


def test_of_several_problems_only_the_whole_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("metrics_port: x\nlog_level: y\nplugins: [{name: a, transport: http, endpoint: 'http://h'}]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).count(str(path)) == 1
    assert caught.value.source == str(path)


def test_a_list_of_plugins_in_code_belongs_under_plugins() -> None:
    with pytest.raises(errors.InvalidConfigError, match=r"put it under plugins:"):
        load_config([PLUGIN])  # type: ignore[arg-type]


def test_a_resolved_configuration_has_its_defaults_and_its_files_checked() -> None:
    config = load_resolved({"plugins": [PLUGIN]})
    assert config == load_config({"plugins": [PLUGIN]}).with_defaults()
    auth = {"method": "mtls", "cert_file": "/none/c", "key_file": "/none/k"}
    plugin = {"name": "a", "transport": "https", "endpoint": "https://h", "auth": auth}
    assert load_config({"plugins": [plugin]}).plugins
    with pytest.raises(ConfigError) as caught:
        load_resolved({"plugins": [plugin]})
    assert [problem.path for problem in caught.value.problems] == [
        "plugins[0].auth.cert_file",
        "plugins[0].auth.key_file",
    ]


def test_all_problems_come_in_one_round_a_caller_s_own_too() -> None:
    told: list[Any] = []

    def further(config: ManagerConfig, suspect: Collection[int]) -> list[ConfigError]:
        told.append((config.plugins[0].type, set(suspect)))
        own = errors.UnsupportedTransportError("no factory", path="plugins[0].type", fix="register it")
        again = errors.InvalidConfigError("known already", path="plugins[1].endpoint", fix="")
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
        load_resolved(source, environ={}, further=further)
    assert [problem.path for problem in caught.value.problems] == [
        "metrics_port",
        "plugins[0].type",
        "plugins[1].endpoint",
        "plugins[2].retry.max_retries",
        "plugins[3].auth.ca_file",
        "plugins[4].labels.x",
    ]
    assert told == [("http", {1, 2, 3, 4})]
    assert "known already" not in str(caught.value)
