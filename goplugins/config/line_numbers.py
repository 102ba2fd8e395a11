"""The line of a file on which each setting is written."""

from __future__ import annotations

import bisect
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from goplugins.config.json_text import decode_text, parse_json
from goplugins.config.problems import Path
from goplugins.errors import ConfigSyntaxError

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s{}\[\],:"]+')


def lines_of(data: bytes, name: str) -> dict[Path, int]:
    r"""The line of every table, list and value, from 1, by its path; nothing for a text that can't be read.

    Args:
        data: content of the file.
        name: name of the file, with the suffix of JSON, TOML or YAML.

    >>> lines_of(b'{"a": 1,\n "b": [2,\n  3]}', "c.json")
    {('a',): 1, ('b',): 2, ('b', 0): 2, ('b', 1): 3}
    """
    find = {".json": _in_json, ".toml": _in_toml, ".yaml": _in_yaml, ".yml": _in_yaml}.get(
        PurePath(name).suffix.lower()
    )
    if find is None:
        return {}
    try:
        return dict(find(decode_text(data, name)))
    except (ConfigSyntaxError, tomllib.TOMLDecodeError, RecursionError, ImportError):
        return {}  # reported when the values are read


def line_at(lines: Mapping[Path, int], path: Path) -> int:
    """The line of ``path``, else of the innermost table or list around it; 0 if there is none."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 0


def _in_yaml(text: str) -> Iterator[tuple[Path, int]]:
    from goplugins.config.yaml_text import yaml_lines

    return yaml_lines(text)


def _in_json(text: str) -> Iterator[tuple[Path, int]]:
    parse_json(text, "")  # the code below needs a valid text
    starts = [match.start() for match in re.finditer("\n", text)]
    tokens = _JSON_TOKEN.finditer(text)

    def value(token: re.Match[str], path: Path) -> Iterator[tuple[Path, int]]:
        opened = token[0]
        if opened not in {"{", "["}:
            return
        index = 0
        while (token := next(tokens))[0] not in {"}", "]"}:
            below: Path = (*path, parse_json(token[0], "") if opened == "{" else index)
            yield below, bisect.bisect(starts, token.start()) + 1
            yield from value(next(tokens) if opened == "{" else token, below)
            index += 1

    return value(next(tokens), ())


def _in_toml(text: str) -> Iterator[tuple[Path, int]]:
    """Parses each statement alone, which shows the paths that it sets."""
    table: Path = ()
    counts: dict[Path, int] = {}
    statement, start = "", 0
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        statement, start = (statement + line, start) if statement else (line, number)
        try:
            values = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # the statement continues on the next line
        if statement.lstrip().startswith("["):
            table = _toml_table(values, counts)
            yield table, start
        else:
            yield from ((table + path, start) for path in _paths(values))
        statement = ""


def _toml_table(values: Any, counts: dict[Path, int]) -> Path:
    """The path of the table that a header opens; in a list of tables, of its last item."""
    path: Path = ()
    while values:
        (key, values), *_ = values.items()
        path += (key,)
        if isinstance(values, list):
            counts[path] = counts.get(path, -1) + 1
            return (*path, counts[path])
        if path in counts:
            path += (counts[path],)
    return path


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _paths(item, (*path, index))
