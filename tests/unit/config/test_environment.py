"""Environment variables: in texts, and as overrides of fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from goplugins.config import (
    AuthConfig,
    ConnectionConfig,
    HealthCheckConfig,
    ManagerConfig,
    PluginConfig,
    RetryConfig,
)
from goplugins.config.manager import load
from goplugins.errors import ConfigError
from tests.unit.config.helpers import PLUGIN, problems


def loaded_plugin(plugin: dict[str, Any], **environ: str) -> PluginConfig:
    return load({"plugins": [{**PLUGIN, **plugin}]}, environ=environ).config.plugins[0]


JSON = """{"default_retry": {"max_interval": "1m30s"},
 "plugins": [{"name": "a", "transport": "http", "endpoint": "http://${HOST}/p", "labels": {"on": "yes"}}]}"""


def test_variables_in_any_text() -> None:
    plugin = loaded_plugin(
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
    assert loaded_plugin({"labels": {"a": "${A}"}}, A="${B}").labels == {"a": "${B}"}


def test_a_text_of_one_variable_may_set_a_number_a_switch_or_a_duration() -> None:
    plugin = loaded_plugin(
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


def test_other_texts_are_not_read_as_numbers() -> None:
    found = problems({"plugins": [{**PLUGIN, "retry": {"max_retries": "3${EMPTY:}"}}]})
    assert found["plugins[0].retry.max_retries"].message == "expected an integer, got '3'"


def test_texts_from_variables_become_plain_strings() -> None:
    plugin = loaded_plugin(
        {"name": "${A}", "type": "mine", "options": {"x": ["${A}"]}, "fallback": {"value": {"y": "${A}"}}}, A="text"
    )
    assert plugin.fallback is not None
    for value in (plugin.name, plugin.options["x"][0], plugin.fallback.value["y"]):
        assert value == "text"
        assert type(value) is str


def test_a_wrong_value_of_a_variable_is_reported_by_the_variable_s_name() -> None:
    found = problems(
        {"plugins": [{**PLUGIN, "retry": {"max_retries": "${N}", "multiplier": "${EMPTY:}"}}]}, N="hunter2"
    )
    assert found["plugins[0].retry.max_retries"].message == "expected an integer, got the value of ${N}"
    assert found["plugins[0].retry.multiplier"].message == "expected a number, got the empty value of ${EMPTY:}"


def test_all_unset_variables_are_reported_with_their_paths() -> None:
    found = problems(
        {"plugins": [{**PLUGIN, "endpoint": "http://${A}", "args": ["${B}"], "labels": {"x": "${C}${D:}"}}]}
    )
    assert {path: (problem.code, problem.message, problem.fix) for path, problem in found.items()} == {
        "plugins[0].endpoint": ("PLUGIN_1013", "variable A is not set", "set A, or write ${A:default}"),
        "plugins[0].args[0]": ("PLUGIN_1013", "variable B is not set", "set B, or write ${B:default}"),
        "plugins[0].labels.x": ("PLUGIN_1013", "variable C is not set", "set C, or write ${C:default}"),
    }


@pytest.mark.parametrize("text", ["${", "${A", "${1A}", "${}", "${A B}"])
def test_an_invalid_reference_is_reported_and_not_repeated(text: str) -> None:
    found = problems({"plugins": [{**PLUGIN, "auth": {"method": "bearer", "token": f"hunter2{text}"}}]})
    assert set(found) == {"plugins[0].auth.token"}
    assert "$${" in found["plugins[0].auth.token"].fix
    assert "hunter2" not in str(found)


def test_variables_in_a_configuration_set_in_code() -> None:
    config = ManagerConfig(
        plugins=[
            PluginConfig(**PLUGIN, auth=AuthConfig(method="bearer", token="${TOKEN}"), options={"proxy": "http://${P}"})
        ]
    )
    plugin = load(config, environ={"TOKEN": "t", "P": "p:1"}).config.plugins[0]
    assert plugin.auth is not None
    assert (plugin.auth.token, plugin.options) == ("t", {"proxy": "http://p:1"})
    assert config.plugins[0].auth == AuthConfig(method="bearer", token="${TOKEN}")


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPLUGINS_TEST_NAME", "from-environment")
    config = load({"plugins": [{**PLUGIN, "name": "${GOPLUGINS_TEST_NAME}"}]}).config
    assert config.plugins[0].name == "from-environment"


@pytest.mark.parametrize("default", ["-s3cr3t", "-", "--5", "?s3cr3t", "=s3cr3t", "+s3cr3t"])
@pytest.mark.parametrize("environ", [{}, {"A": "set"}])
def test_a_default_in_shell_syntax_is_refused_even_if_it_is_not_used(default: str, environ: dict[str, str]) -> None:
    found = problems({"plugins": [{**PLUGIN, "labels": {"x": f"${{A:{default}}}"}}]}, **environ)
    problem = found["plugins[0].labels.x"]
    assert problem.message == "the default of A has the syntax of a shell"
    assert "write ${A:default}" in problem.fix
    assert "s3cr3t" not in str(problem)


def test_a_default_may_be_a_negative_number() -> None:
    assert loaded_plugin({"priority": "${A:-5}", "labels": {"x": "${A:-.5}"}}).priority == -5


def test_a_variable_within_a_default_is_refused() -> None:
    found = problems({"plugins": [{**PLUGIN, "labels": {"x": "${A:${B}}", "y": "${A:$${B}}"}}]}, A="a", B="b")
    assert set(found) == {"plugins[0].labels.x", "plugins[0].labels.y"}
    assert "contains a variable, which is not replaced" in found["plugins[0].labels.x"].message
    assert "set A" in found["plugins[0].labels.x"].fix


FILE: dict[str, Any] = {
    "log_level": "info",
    "plugins": [
        {
            "name": "auth",
            "transport": "https",
            "endpoint": "https://auth.example.com/v1",
            "auth": {"method": "bearer", "token": "old"},
            "options": {"trust_env": False},
        },
        {"name": "geo-eu.v2", "transport": "exec", "executable": "/bin/geo", "retry": None},
    ],
    "load_balancers": [{"name": "pool", "members": ["auth"]}],
}


def load_overridden(tmp_path: Path, values: dict[str, Any] | None = None, **environ: str) -> ManagerConfig:
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(FILE if values is None else values))
    return load(path, environ={f"GOPLUGINS__{name}": text for name, text in environ.items()}).config


def override_problems(tmp_path: Path, values: dict[str, Any] | None = None, **environ: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_overridden(tmp_path, values, **environ)
    return {problem.path: f"{problem.message} ({problem.fix})" for problem in caught.value.problems}


def test_an_override_sets_a_field_of_a_plugin_by_name(tmp_path: Path) -> None:
    config = load_overridden(
        tmp_path,
        PLUGINS__AUTH__ENDPOINT="https://other.example.com/v1",
        PLUGINS__AUTH__AUTH__TOKEN="new",
        PLUGINS__AUTH__PRIORITY="5",
        PLUGINS__AUTH__OPTIONS__TRUST_ENV="true",
        PLUGINS__GEO_EU_V2__RETRY__INITIAL_INTERVAL="250ms",
        PLUGINS__GEO_EU_V2__RETRY__IDEMPOTENT="yes",
        LOAD_BALANCERS__POOL__STRATEGY="random",
        LOG_LEVEL="debug",
        DEFAULT_RETRY__MAX_RETRIES="9",
    )
    auth, geo = config.plugins
    assert (auth.endpoint, auth.priority, auth.options) == ("https://other.example.com/v1", 5, {"trust_env": True})
    assert auth.auth is not None
    assert (auth.auth.method, auth.auth.token) == ("bearer", "new")
    assert geo.retry is not None
    assert (geo.retry.initial_interval, geo.retry.idempotent) == (0.25, True)
    assert config.load_balancers[0].strategy == "random"
    assert (config.log_level, config.default_retry.max_retries) == ("debug", 9)


def test_lists_tables_and_sections_are_json(tmp_path: Path) -> None:
    config = load_overridden(
        tmp_path,
        PLUGINS__GEO_EU_V2__ARGS='["-v", "--fast"]',
        PLUGINS__AUTH__AUTH__HEADERS='{"X-Tenant": "a"}',
        PLUGINS__AUTH__RETRY='{"max_retries": 1}',
    )
    auth, geo = config.plugins
    assert geo.args == ("-v", "--fast")
    assert auth.auth is not None
    assert auth.auth.headers == {"X-Tenant": "a"}
    assert auth.retry is not None
    assert auth.retry.max_retries == 1
    assert (
        "is not JSON"
        in override_problems(tmp_path, PLUGINS__GEO_EU_V2__ARGS="-v")["GOPLUGINS__PLUGINS__GEO_EU_V2__ARGS"]
    )


def test_an_override_is_not_expanded_again(tmp_path: Path) -> None:
    config = load_overridden(tmp_path, PLUGINS__AUTH__AUTH__TOKEN="pa${ss}$${")
    assert config.plugins[0].auth is not None
    assert config.plugins[0].auth.token == "pa${ss}$${"


def test_a_wrong_override_is_reported_by_the_variable_s_name_only(tmp_path: Path) -> None:
    found = override_problems(tmp_path, PLUGINS__AUTH__RETRY__MAX_RETRIES="hunter2")
    assert "GOPLUGINS__PLUGINS__AUTH__RETRY__MAX_RETRIES" in found["plugins[0].retry.max_retries"]
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("PLUGINS__AUHT__ENDPOINT", "is for none of the plugins (unset it, or use one of these names: AUTH"),
        ("LOAD_BALANCERS__NONE__STRATEGY", "is for none of the load_balancers"),
        ("PLUGINS__AUTH__ENPOINT", "does not name a field (did you mean 'endpoint'?)"),
        ("PLUGINS__AUTH__RETRY__MAX", "does not name a field"),
        ("LOGLEVEL", "does not name a field (did you mean 'log_level'?)"),
        ("LOG_LEVEL__X", "does not name a field (write the name of one of its fields)"),
        ("", "does not name a field"),
    ],
)
def test_an_override_without_a_field_is_reported(tmp_path: Path, variable: str, said: str) -> None:
    found = override_problems(tmp_path, **{variable: "x"})
    assert found[f"GOPLUGINS__{variable}"].startswith(said)


def test_an_override_for_two_plugins_is_reported(tmp_path: Path) -> None:
    plugins = [{"name": name, "transport": "unix", "endpoint": "/run/a"} for name in ("geo-eu", "geo_eu", "a", "a__b")]
    found = override_problems(tmp_path, {"plugins": plugins}, PLUGINS__GEO_EU__ENDPOINT="/run/b")
    assert found["GOPLUGINS__PLUGINS__GEO_EU__ENDPOINT"].startswith("is for both 'geo-eu' and 'geo_eu'")
    config = load_overridden(tmp_path, {"plugins": plugins}, PLUGINS__A__B__ENDPOINT="/run/b")
    assert [plugin.endpoint for plugin in config.plugins] == ["/run/a", "/run/a", "/run/a", "/run/b"]


def test_an_override_may_be_for_a_plugin_that_discovery_finds(tmp_path: Path) -> None:
    values = {**FILE, "discovery": {"enabled": True, "directories": ["/opt"]}}
    load_overridden(tmp_path, values, PLUGINS__NOT_HERE__ENDPOINT="x")


def test_code_takes_precedence_over_overrides() -> None:
    environ = {"GOPLUGINS__PLUGINS__AUTH__PRIORITY": "5", "GOPLUGINS__LOG_LEVEL": "debug"}
    for source in (FILE, ManagerConfig.from_mapping(FILE)):
        config = load(source, environ=environ).config
        assert (config.plugins[0].priority, config.log_level) == (0, "info")


def test_other_variables_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(FILE))
    environ = {"GOPLUGINS_LOG_LEVEL": "debug", "PLUGINS__AUTH__PRIORITY": "5", "HOME": "/"}
    assert load(path, environ=environ).config == load(path, environ={}).config


def test_names_of_overrides_may_be_lower_case(tmp_path: Path) -> None:
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(FILE))
    assert load(path, environ={"goplugins__plugins__auth__priority": "5"}).config.plugins[0].priority == 5


def test_plugins_added_by_extend_are_checked_with_the_others() -> None:
    values = {
        "plugins": [{"name": "a", "transport": "unix", "endpoint": "/run/a", "fallback": {"plugin": "found"}}],
        "discovery": {"enabled": True, "directories": ["/opt"]},
    }

    def add(config: ManagerConfig) -> ManagerConfig:
        found = {"name": "found", "transport": "unix", "endpoint": "/run/b"}
        return ManagerConfig(plugins=[*config.plugins, ManagerConfig.from_mapping({"plugins": [found]}).plugins[0]])

    resolved = load(values, registered=(), extend=add, check_files=True).resolved
    assert [plugin.name for plugin in resolved.plugins] == ["a", "found"]
    assert resolved.plugins[1].retry is not None
    with pytest.raises(ConfigError, match="there is no plugin 'found'"):
        load(values, registered=(), extend=lambda config: config, check_files=True)
    load(values, registered=(), check_files=True)  # without discovery, the name is not checked
