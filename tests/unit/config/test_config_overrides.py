"""Variables over the settings of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from goplugins.config import ManagerConfig
from goplugins.config.loading import load_config, load_resolved
from goplugins.errors import ConfigError

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


def load(tmp_path: Path, values: dict[str, Any] | None = None, **environ: str) -> ManagerConfig:
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(FILE if values is None else values))
    return load_config(path, environ={f"GOPLUGINS__{name}": text for name, text in environ.items()})


def problems(tmp_path: Path, values: dict[str, Any] | None = None, **environ: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, values, **environ)
    return {problem.path: f"{problem.message} ({problem.fix})" for problem in caught.value.problems}


def test_a_variable_sets_a_field_of_a_plugin_by_its_name(tmp_path: Path) -> None:
    config = load(
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
    config = load(
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
    assert "is not JSON" in problems(tmp_path, PLUGINS__GEO_EU_V2__ARGS="-v")["GOPLUGINS__PLUGINS__GEO_EU_V2__ARGS"]


def test_a_variable_s_value_is_taken_as_it_is(tmp_path: Path) -> None:
    config = load(tmp_path, PLUGINS__AUTH__AUTH__TOKEN="pa${ss}$${")
    assert config.plugins[0].auth is not None
    assert config.plugins[0].auth.token == "pa${ss}$${"


def test_the_variable_is_named_when_its_value_is_wrong_and_the_value_is_not(tmp_path: Path) -> None:
    found = problems(tmp_path, PLUGINS__AUTH__RETRY__MAX_RETRIES="hunter2")
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
def test_a_variable_for_nothing_is_a_problem(tmp_path: Path, variable: str, said: str) -> None:
    found = problems(tmp_path, **{variable: "x"})
    assert found[f"GOPLUGINS__{variable}"].startswith(said)


def test_a_variable_for_two_plugins_is_a_problem(tmp_path: Path) -> None:
    plugins = [{"name": name, "transport": "unix", "endpoint": "/run/a"} for name in ("geo-eu", "geo_eu", "a", "a__b")]
    found = problems(tmp_path, {"plugins": plugins}, PLUGINS__GEO_EU__ENDPOINT="/run/b")
    assert found["GOPLUGINS__PLUGINS__GEO_EU__ENDPOINT"].startswith("is for both 'geo-eu' and 'geo_eu'")
    config = load(tmp_path, {"plugins": plugins}, PLUGINS__A__B__ENDPOINT="/run/b")
    assert [plugin.endpoint for plugin in config.plugins] == ["/run/a", "/run/a", "/run/a", "/run/b"]


def test_a_variable_may_be_for_a_plugin_that_is_yet_to_be_discovered(tmp_path: Path) -> None:
    values = {**FILE, "discovery": {"enabled": True, "directories": ["/opt"]}}
    load(tmp_path, values, PLUGINS__NOT_HERE__ENDPOINT="x")


def test_code_beats_the_environment() -> None:
    environ = {"GOPLUGINS__PLUGINS__AUTH__PRIORITY": "5", "GOPLUGINS__LOG_LEVEL": "debug"}
    for source in (FILE, ManagerConfig.from_mapping(FILE)):
        config = load_config(source, environ=environ)
        assert (config.plugins[0].priority, config.log_level) == (0, "info")


def test_other_variables_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(FILE))
    environ = {"GOPLUGINS_LOG_LEVEL": "debug", "PLUGINS__AUTH__PRIORITY": "5", "HOME": "/"}
    assert load_config(path, environ=environ) == load_config(path, environ={})


def test_names_of_variables_may_be_small(tmp_path: Path) -> None:
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(FILE))
    assert load_config(path, environ={"goplugins__plugins__auth__priority": "5"}).plugins[0].priority == 5


# --- plugins from elsewhere ------------------------------------------------------------------------------------


def test_what_is_added_is_judged_with_the_whole() -> None:
    values = {
        "plugins": [{"name": "a", "transport": "unix", "endpoint": "/run/a", "fallback": {"plugin": "found"}}],
        "discovery": {"enabled": True, "directories": ["/opt"]},
    }

    def add(config: ManagerConfig) -> ManagerConfig:
        found = {"name": "found", "transport": "unix", "endpoint": "/run/b"}
        return ManagerConfig(plugins=[*config.plugins, ManagerConfig.from_mapping({"plugins": [found]}).plugins[0]])

    resolved = load_resolved(values, registered=(), extend=add)
    assert [plugin.name for plugin in resolved.plugins] == ["a", "found"]
    assert resolved.plugins[1].retry is not None
    with pytest.raises(ConfigError, match="there is no plugin 'found'"):
        load_resolved(values, registered=(), extend=lambda config: config)
    load_resolved(values, registered=())  # nobody looked: it may be there
