"""On which line a setting stands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from goplugins.config.files import parse_file
from goplugins.config.line_numbers import line_at, lines_of

YAML = """\
# a comment
common: &common
  timeout: 1s
plugins:
- name: a
  retry:
    max_retries: 3

- {name: b, labels: {on: yes}}
- <<: *common
  timeout: 2s
  "quoted key": |
    several
    lines
  after: 1
"""
JSON = """{
\t"plugins": [
    {"name": "a", "text": "br{ack,et: \\" \\u00e9",
     "retry": {"max_retries":
        3}},

    {"name": "b", "list": [1, [2,
      3], true, null]}
  ], "last": -1.5e3}
"""
TOML = '''\
title = "x"  # plugins = 1
[default_retry]
max_retries = 3
"odd key" = 1

[[plugins]]
name = "a"
text = """
[[plugins]]
name = 1
"""
list = [
  1,
  2,
]
[plugins.retry]
max_retries = 4
[[plugins]]
name = "b"
labels = {on = "yes"}
a.b.c = 1
[[plugins.sub]]
x = 1
[[plugins.sub]]
x = 2
'''


def test_yaml() -> None:
    lines = lines_of(YAML.encode(), "c.yaml")
    assert lines["plugins",] == 4
    assert lines["plugins", 0, "name"] == 5
    assert lines["plugins", 0, "retry", "max_retries"] == 7
    assert lines["plugins", 1, "labels", "on"] == 9
    assert lines["plugins", 2, "timeout"] == 11
    assert lines["plugins", 2, "after"] == 15
    merged = lines_of(b"base: &b\n  x: 1\n  y: 2\nuse:\n  <<: *b\n  y: 3\n", "c.yml")
    assert (merged["use", "x"], merged["use", "y"]) == (2, 6)


def test_json() -> None:
    lines = lines_of(JSON.encode(), "c.json")
    assert lines["plugins", 0, "text"] == 3
    assert lines["plugins", 0, "retry", "max_retries"] == 4
    assert lines["plugins", 1, "list", 1, 1] == 8
    assert lines["plugins", 1, "list", 3] == 8
    assert lines["last",] == 9


def test_toml() -> None:
    lines = lines_of(TOML.encode(), "c.toml")
    assert lines["title",] == 1
    assert lines["default_retry", "odd key"] == 4
    assert (lines["plugins", 0], lines["plugins", 1]) == (6, 18)
    assert (lines["plugins", 0, "text"], lines["plugins", 0, "list"]) == (8, 12)
    assert lines["plugins", 0, "retry", "max_retries"] == 17
    assert (lines["plugins", 1, "labels", "on"], lines["plugins", 1, "a", "b", "c"]) == (20, 21)
    assert lines["plugins", 1, "sub", 1, "x"] == 25


@pytest.mark.parametrize(
    ("name", "text"),
    [("c.json", "{"), ("c.json", ""), ("c.yaml", "a: ["), ("c.yaml", ""), ("c.toml", "a = "), ("c.ini", "a = 1")],
)
def test_an_invalid_text_has_no_lines(name: str, text: str) -> None:
    assert lines_of(text.encode(), name) == {}


def test_a_missing_path_has_the_line_of_its_parent() -> None:
    lines = lines_of(YAML.encode(), "c.yaml")
    assert line_at(lines, ("plugins", 0, "retry", "multiplier")) == 6
    assert line_at(lines, ("plugins", 0, "endpoint")) == 5
    assert line_at(lines, ("nothing",)) == 0


def paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return {(*path, key) for key, _ in items}.union(*(paths(item, (*path, key)) for key, item in items))


_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_TEXTS, _VALUES, max_size=3))
def test_every_path_of_json_has_its_line(values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=1, ensure_ascii=False)
    lines = lines_of(text.encode(), "c.json")
    assert set(lines) == paths(values)
    written = text.split("\n")
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert written[line - 1].lstrip().startswith(json.dumps(path[-1], ensure_ascii=False))


@pytest.mark.parametrize(("name", "text"), [("c.toml", TOML), ("c.yaml", YAML)])
def test_every_path_has_a_line(name: str, text: str) -> None:
    values = parse_file(text.encode(), name)
    assert paths(values) <= set(lines_of(text.encode(), name)) | {("plugins",), ("plugins", 1, "sub")} | {
        ("plugins", 1, "a"),
        ("plugins", 1, "a", "b"),
    }
