"""Configuration files: JSON, TOML and YAML."""

from __future__ import annotations

import builtins
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
def test_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    monkeypatch.setenv("HOST", "example.com")
    expected = ManagerConfig(
        default_retry=RetryConfig(max_interval=90.0),
        plugins=[PluginConfig(name="a", transport="http", endpoint="http://example.com/p", labels={"on": "yes"})],
    )
    assert load(path).config == load(str(path)).config == ManagerConfig.from_file(str(path)) == expected


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
def test_syntax_errors_have_line_and_column_and_repeat_no_text(
    tmp_path: Path, name: str, text: str, place: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(errors.ConfigSyntaxError) as caught:
        load(path)
    assert place in str(caught.value)
    assert caught.value.path == str(path)
    assert caught.value.fix
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_yaml_keys_are_strings_and_aliases_and_merges_work(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "plugins:\n"
        "- &base {name: a, transport: http, endpoint: 'http://h', fallback: {value: 1, on: [rate-limit]}}\n"
        "- {<<: *base, name: b}\n"
    )
    first, second = load(path).config.plugins
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
            load(path)
        assert text in str(caught.value)
        assert caught.value.path
        assert caught.value.fix
        assert "hunter2" not in str(caught.value)
    (tmp_path / "directory.json").mkdir()
    with pytest.raises(errors.ConfigFileError, match="can't be read"):
        load(tmp_path / "directory.json")


def test_yaml_without_pyyaml_names_the_package_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(YAML)
    whole = builtins.__import__

    def without_yaml(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "goplugins.config.yaml_text":
            raise ImportError("No module named 'yaml'")
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(errors.ConfigFileError, match=r"pip install goplugins\[yaml\]"):
        load(path)


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
def test_recursive_or_huge_yaml_aliases_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(errors.ConfigSyntaxError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("number", ["030", "-017", "+010", "0_17", "00", "1:30", "1:30:00", "190:20:30.15", "-1:30"])
@pytest.mark.parametrize("field", ["priority: {}", "connection: {{request_timeout: {}}}", "fallback: {{value: [{}]}}"])
def test_numbers_that_yaml_reads_in_another_way_are_refused(tmp_path: Path, number: str, field: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"plugins:\n- name: a\n  transport: http\n  endpoint: http://h\n  {field.format(number)}\n")
    with pytest.raises(
        errors.ConfigSyntaxError, match=r"line 5, column .*YAML 1.1 reads this as .*in quotes"
    ) as caught:
        load(path)
    assert number not in str(caught.value).partition("YAML")[2], "it may be a password"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("7", 7),
        ("0x1F", 31),
        ("1_000", 1000),
        ("0.5", 0.5),
        ("08.5", 8.5),
        ("'030'", "030"),
        ("089", "089"),
        ("'1:30'", "1:30"),
        ("1e3", "1e3"),
        ("1.5e+3", 1500.0),
    ],
)
def test_other_numbers_of_yaml(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"plugins:\n- {{name: a, transport: http, endpoint: http://h, fallback: {{value: {text}}}}}\n")
    fallback = load(path).config.plugins[0].fallback
    assert fallback is not None
    assert fallback.value == value
    assert type(fallback.value) is type(value)


def test_thousands_of_plugins_may_share_a_yaml_anchor(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    plugins = "".join(f"- {{name: p{i}, transport: http, endpoint: 'http://h', retry: *r}}\n" for i in range(1, 1000))
    first = "- {name: p0, transport: http, endpoint: 'http://h', retry: &r {max_retries: 1, multiplier: 3}}\n"
    path.write_text(f"plugins:\n{first}{plugins}")
    assert {plugin.retry for plugin in load(path).config.plugins} == {RetryConfig(max_retries=1, multiplier=3)}


def test_deeply_nested_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(errors.ConfigSyntaxError, match="nested too deeply"):
        load(path)
