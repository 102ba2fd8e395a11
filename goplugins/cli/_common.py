"""What several commands share: a manager of a file, text that a terminal can't be tricked with, and tables."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from goplugins.errors import InvalidArgumentError

if TYPE_CHECKING:
    from rich.table import Table

    from goplugins.manager.manager import Manager

__all__ = [
    "Column",
    "Row",
    "add_config",
    "fitting",
    "has_rich",
    "make_table",
    "manager_of",
    "printable",
    "request_of",
    "write_table",
]

Column = tuple[str, bool]
"""A heading, and whether what stands below it are numbers."""

Row = Sequence[tuple[str, str]]
"""Cells: text and style."""

_FOLDED = 24
_GAP = 3


def add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds ``--config``."""
    parser.add_argument("--config", "-c", metavar="FILE", required=required, help="the manager's configuration")


def manager_of(name: str) -> Manager[Any, Any]:
    """A manager with the configuration of a file; the current directory counts, as with ``python -m``.

    Raises:
        ConfigError: with every problem found.
    """
    from goplugins.manager.manager import Manager

    if not sys.flags.safe_path and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    manager: Manager[Any, Any] = Manager()
    manager.load_from_config(name)
    return manager


def request_of(text: str) -> Any:
    """The request that a command was given: JSON, or ``-`` for JSON on stdin.

    Raises:
        InvalidArgumentError: it is no JSON.
    """
    try:
        return json.loads(sys.stdin.read() if text == "-" else text)
    except (ValueError, RecursionError) as exc:
        where = "stdin" if text == "-" else "the request"
        raise InvalidArgumentError(f"{where} is no JSON: {exc}; a text needs its quotes: '\"hello\"'") from exc


def printable(text: object) -> str:
    r"""One line without anything that a terminal would obey.

    >>> printable("red \x1b[31malert\nnext")
    'red �[31malert next'
    """
    return "".join(each if each.isprintable() else "�" for each in " ".join(str(text).split()))


def has_rich() -> bool:
    """Whether the extra ``cli`` is installed."""
    from importlib.util import find_spec

    return find_spec("rich") is not None


def fitting(columns: Sequence[Column], rows: Sequence[Row], width: int, spare: Sequence[str]) -> list[int]:
    """Which columns a terminal of ``width`` characters has room for: of ``spare``, the first headings go first.

    Text may be folded, to no less than 24 characters.

    >>> fitting([("plugin", False), ("calls", True)], [[("search", ""), ("123456", "")]], 12, ["calls"])
    [0]
    """
    needs = {}
    for index, (heading, numeric) in enumerate(columns):
        longest = max((len(printable(row[index][0])) for row in rows), default=0)
        needs[index] = max(len(heading), longest if numeric else min(longest, _FOLDED))
    by_heading = {heading: index for index, (heading, _) in enumerate(columns)}
    for heading in spare:
        if sum(needs.values()) + _GAP * len(needs) <= width:
            break
        del needs[by_heading[heading]]
    return list(needs)


def make_table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """A table for rich. A cell is its text and its style."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
    for heading, numeric in columns:
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        # Text takes no markup: what a plugin says is shown as it is.
        table.add_row(*(Text(printable(text), style=style) for text, style in row))
    return table


def write_table(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Writes a table to stdout: by rich on a terminal, plainly into a pipe or without it."""
    if has_rich() and sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(make_table(columns, rows))
        return
    cells = [[heading for heading, _ in columns], *([printable(text) for text, _ in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        parts = (
            text.rjust(width) if numeric else text.ljust(width)
            for text, width, (_, numeric) in zip(row, widths, columns, strict=True)
        )
        sys.stdout.write("  ".join(parts).rstrip() + "\n")
