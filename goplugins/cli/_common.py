"""Shared by several commands: a manager with the configuration of a file, and tables."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from goplugins.errors import InvalidArgumentError
from goplugins.runtime.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from goplugins.manager.manager import Manager

Column = tuple[str, bool]
"""The heading, and whether the cells are numbers, which are aligned right."""

Row = Sequence[tuple[str, str]]
"""Cells: text and style."""

_FOLDED = 24
_GAP = 3


def new_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    help_text: str,
    execute: Callable[[argparse.Namespace], int],
    *,
    config: bool = False,
) -> argparse.ArgumentParser:
    """Adds a command, described by the docstring of ``execute``; with ``config``, one that needs ``--config``."""
    parser = commands.add_parser(name, help=help_text, description=execute.__doc__)
    parser.set_defaults(execute=execute)
    if config:
        parser.add_argument("--config", "-c", metavar="FILE", required=True, help="configuration file of the plugins")
    return parser


def headers_of(texts: Sequence[str]) -> dict[str, str]:
    """The headers of options such as ``--header NAME=VALUE``."""
    for text in texts:
        if "=" not in text:
            raise InvalidArgumentError(f"--header {printable(text)}: expected NAME=VALUE")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def manager_of(name: str) -> Manager[Any, Any]:
    """A manager with the configuration of a file, which may name modules in the current directory.

    Raises:
        ConfigError: with every problem found.
    """
    from goplugins.manager.manager import Manager

    import_from_current_directory()
    manager: Manager[Any, Any] = Manager()
    manager.load_from_config(name)
    return manager


def import_from_current_directory() -> None:
    """Adds the current directory to ``sys.path``, as ``python -m`` does."""
    if not sys.flags.safe_path and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def has_rich() -> bool:
    """Whether the extra ``cli`` is installed."""
    from importlib.util import find_spec

    return find_spec("rich") is not None


def fitting(columns: Sequence[Column], rows: Sequence[Row], width: int, spare: Sequence[str]) -> list[int]:
    """Indexes of the columns that fit a terminal of ``width`` characters; headings in ``spare`` are left out in order.

    Text may be folded, to 24 characters or more.

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
    """A table for rich."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
    for heading, numeric in columns:
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        # Text(), unlike a string, does not interpret markup in the texts of plugins.
        table.add_row(*(Text(printable(text), style=style) for text, style in row))
    return table


def write_table(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Writes a table to stdout: by rich if it is installed and stdout is a terminal, else as plain text."""
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
