"""docs/go-mapping.md has a row for each symbol of the Go library; named Python objects exist with the given values."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pytest

ROOT = Path(__file__).resolve().parents[2]
SYMBOLS = (ROOT / "tests/data/go-v1.0.0-symbols.txt").read_text().split()
FIELDS = dict(line.split() for line in (ROOT / "tests/data/go-v1.0.0-fields.txt").read_text().splitlines())
"""The exported fields of the Go library's structs, with their JSON names; a dash for none."""
NO_NAME = "—"


class Row(NamedTuple):
    go: str
    python: str
    state: str
    note: str


def parse_rows(page: str) -> list[Row]:
    """The rows of all tables of the page; fails for a malformed row."""
    rows = []
    for line in page.splitlines():
        if not line.startswith("|") or line.startswith(("| Go ", "|---")):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        assert len(cells) == 4, f"expected 4 cells: {line}"
        rows.append(Row(cells[0].strip("`"), cells[1].strip("`"), cells[2], cells[3]))
    return rows


def resolve(path: str) -> Any:
    """The object of a dotted path: the longest prefix that is a module, then attributes or attrs fields."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
                continue
            raise
        for attribute in parts[end:]:
            found = _attribute(found, attribute)
        return found
    raise ModuleNotFoundError(path)


def _attribute(owner: Any, name: str) -> Any:
    if isinstance(owner, type) and attrs.has(owner) and name in attrs.fields_dict(owner):
        return attrs.fields_dict(owner)[name]
    return getattr(owner, name)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return parse_rows((ROOT / "docs/go-mapping.md").read_text())


def test_every_symbol_has_exactly_one_row(rows: list[Row]) -> None:
    counts = Counter(row.go for row in rows)
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 285
    assert sorted(set(SYMBOLS) - set(counts)) == [], "symbols without a row"
    assert sorted(set(counts) - set(SYMBOLS) - set(FIELDS)) == [], "rows of no symbol"
    assert sorted(go for go, count in counts.items() if count > 1) == [], "symbols with several rows"


def test_a_row_is_done_or_planned_and_a_dash_has_a_note(rows: list[Row]) -> None:
    assert {row.state for row in rows} <= {"done", "planned"}
    assert [row.go for row in rows if not row.python] == []
    assert [row.go for row in rows if row.python == NO_NAME and not row.note] == []


def test_names_are_public(rows: list[Row]) -> None:
    private = [row for row in rows if any(part.startswith("_") for part in row.python.split("."))]
    assert private == []


def test_names_of_done_rows_exist(rows: list[Row]) -> None:
    problems = []
    for row in rows:
        if row.state == "done" and row.python != NO_NAME:
            try:
                resolve(row.python)
            except (ImportError, AttributeError) as exc:
                problems.append(f"{row.go} -> {row.python}: {exc}")
    assert problems == []


def test_every_field_has_its_json_name_or_a_row(rows: list[Row]) -> None:
    structs = {row.go: row.python for row in rows}
    missing = []
    for field, tag in FIELDS.items():
        struct, _, name = field.partition(".")
        if field in structs or structs[struct] == NO_NAME:
            continue
        try:
            resolve(f"{structs[struct]}.{_snake_case(name) if tag == '-' else tag}")
        except AttributeError:
            missing.append(field)
    assert missing == []


def _snake_case(name: str) -> str:
    """The name in lower case with underscores: ``RequestID`` is ``request_id``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def test_values_are_those_of_the_go_library(rows: list[Row]) -> None:
    without_value = [row.go for row in rows if row.go.startswith("ErrCode") and not row.note.startswith("= `")]
    assert without_value == []
    for row in rows:
        if row.state == "done" and row.note.startswith("= `"):
            assert str(resolve(row.python)) == row.note[3:].partition("`")[0], row.go


def test_the_check_finds_a_wrong_name() -> None:
    assert resolve("goplugins.errors.PluginNotFoundError.code") == "PLUGIN_1201"
    assert resolve("goplugins.models.context.ExecutionContext.timeout").name == "timeout"
    with pytest.raises(AttributeError):
        resolve("goplugins.errors.PluginNotFoundError.cod")
    with pytest.raises(AttributeError):
        resolve("goplugins.no_such_module.Name")
    with pytest.raises(ModuleNotFoundError):
        resolve("no_such_package.Name")
