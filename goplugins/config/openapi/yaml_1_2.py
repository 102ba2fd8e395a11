"""YAML 1.2 to plain values, as OpenAPI needs it. Imported only for YAML, since PyYAML is an optional dependency.

PyYAML reads YAML 1.1, where ``[on, off]`` are booleans, ``012`` is 10, ``12:30`` is 750 and ``2026-01-31`` is a date:
an enumeration of texts would become one of other values.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from goplugins.config.yaml_text import Strict, parse_yaml

_TAG = "tag:yaml.org,2002:"
_RULES = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)
"""Tag, form, and first characters of the plain scalars that are no strings (YAML 1.2.2, 10.3.2)."""


class _Loader(Strict, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # several times faster, in C
    """Reads the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as PyYAML has it

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        text = str(node.value)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


for _name, _form, _first in _RULES:
    _letters: list[Any] = [*_first, ""] if _name == "null" else list(_first)
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_form})\\Z"), _letters)
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_whole)


def parse_yaml_1_2(text: str, source: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigSyntaxError: the text is not YAML, or has a duplicate key; with line and column.

    >>> parse_yaml_1_2("{on: [no, 2026-01-31, 012, 12:30, 0x10, 1e3, ~, 1.5, true]}", "")
    {'on': ['no', '2026-01-31', 12, '12:30', 16, 1000.0, None, 1.5, True]}
    """
    return parse_yaml(text, source, _Loader)
