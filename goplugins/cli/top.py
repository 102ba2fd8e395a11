"""Shows the state of plugins, live: of a file, or of a running process by its dashboard."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.cli._common import Column, Row, fitting, has_rich, make_table, manager_of, write_table
from goplugins.cli._figures import NONE, amount, duration, share, sparkline
from goplugins.errors import InvalidArgumentError, PluginConnectionError, redact_url
from goplugins.runtime.clock import SYSTEM_CLOCK, Event
from goplugins.runtime.text import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

Frame = Mapping[str, Any]
"""The state at one moment: ``summary`` and ``plugins``, as in a dashboard's ``/state``."""

_COLUMNS: tuple[Column, ...] = (
    ("", False),
    ("plugin", False),
    ("state", False),
    ("breaker", False),
    ("calls/s", True),
    ("5 min", False),
    ("errors", True),
    ("p50", True),
    ("p95", True),
    ("p99", True),
    ("in flight", True),
    ("limiter", True),
    ("why", False),
)

_SPARE = ("limiter", "5 min", "p99", "in flight", "p95", "breaker", "p50", "calls/s", "errors")
"""Columns that are left out in a narrow terminal, in this order."""

_SYMBOLS = {
    "down": ("■", "bold red"),
    "degraded": ("▲", "bold yellow"),
    "unknown": ("○", "dim"),
    "healthy": ("●", "green"),
    "off": ("-", "dim"),
}
_ORDER = tuple(_SYMBOLS)

_CHUNK = 64 * 1024
_MOST_CHUNKS = 1024
_TIMEOUT = 5.0


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``top``."""
    parser = commands.add_parser("top", help="show the state of the plugins, live", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", "-c", metavar="FILE", help="plugins of this file: health only")
    where.add_argument("--url", metavar="URL", help="dashboard of a running process: health and calls")
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="between two updates (default: 1)"
    )
    parser.add_argument(
        "--once", action="store_true", help="write one table and exit; the default if stdout is not a terminal"
    )
    parser.add_argument("--operations", action="store_true", help="show the operations of each plugin, too")
    parser.set_defaults(execute=_execute)


def _execute(arguments: argparse.Namespace) -> int:
    """Shows the state of plugins until Ctrl-C."""
    if not arguments.interval >= 0.1:
        raise InvalidArgumentError(f"--interval: expected seconds of 0.1 or more, got {arguments.interval}")
    once = arguments.once or not sys.stdout.isatty()
    if not once and not has_rich():
        raise InvalidArgumentError("the live view needs rich: pip install goplugins[cli]; --once works without it")
    with ExitStack() as stack:
        next_frame = _by_url(arguments.url) if arguments.url else _by_config(arguments.config, stack)
        frame = next_frame()
        if once:
            sys.stdout.write(f"{_headline(frame)}\n")
            write_table(_COLUMNS, _rows(frame["plugins"], arguments.operations))
            return 0
        try:
            _live(next_frame, frame, arguments.interval, arguments.operations)
        except KeyboardInterrupt:
            return 0
    return 0


def _live(next_frame: Callable[[], Frame], frame: Frame, interval: float, operations: bool) -> None:
    from rich.live import Live

    never = Event()
    with Live(_drawn(frame, operations), screen=True, auto_refresh=False) as live:
        while True:
            SYSTEM_CLOCK.wait(never, interval)
            try:
                live.update(_drawn(next_frame(), operations), refresh=True)
            except PluginConnectionError as exc:
                warning = f"{exc.message}: the figures are not up to date"
                live.update(_drawn(frame, operations, warning), refresh=True)


# --- frames --------------------------------------------------------------------------------------------------------


def _by_config(name: str, stack: ExitStack) -> Callable[[], Frame]:
    """Frames of a manager of this process; the first has the health of all plugins, which is checked now."""
    from goplugins.contrib.dashboard._board import Board

    manager = stack.enter_context(manager_of(name))
    manager.health()
    board = Board(manager, always=True)
    board.request()

    def next_frame() -> Frame:
        snapshot = board.wait(_TIMEOUT)
        return {"summary": snapshot.summary, "plugins": list(snapshot.records.values())}

    return next_frame


def _by_url(url: str) -> Callable[[], Frame]:
    """Frames from a dashboard.

    Each of them may raise a PluginConnectionError.

    Raises:
        InvalidArgumentError: the URL is not that of a dashboard.
    """
    import requests

    shown = printable(redact_url(url))
    if not url.startswith(("http://", "https://")):
        raise InvalidArgumentError(f"--url: expected http:// or https://, got {shown}")
    session, state = requests.Session(), f"{url.rstrip('/')}/state"

    def next_frame() -> Frame:
        try:
            with session.get(state, timeout=_TIMEOUT, stream=True, allow_redirects=False) as reply:
                body = b"".join(islice(reply.iter_content(_CHUNK), _MOST_CHUNKS))
        except requests.RequestException as exc:
            raise PluginConnectionError(f"no answer from {shown}") from exc
        if reply.status_code != 200:
            raise PluginConnectionError(f"{shown} answered with HTTP status {reply.status_code}")
        try:
            frame = json.loads(body)
            _headline(frame)
            _rows(frame["plugins"], operations=True)
        except (ValueError, LookupError, TypeError, AttributeError) as exc:
            raise InvalidArgumentError(f"{shown} is not a dashboard of this version of goplugins") from exc
        return frame  # type: ignore[no-any-return]

    return next_frame


# --- output -----------------------------------------------------------------------------------------------------


def _headline(frame: Frame) -> str:
    summary = frame["summary"]
    states = ", ".join(f"{summary[each]} {each}" for each in _ORDER[:4] if summary[each] or each != "unknown")
    rates = f"{amount(summary['calls'])} calls/s, {amount(summary['errors'])} errors/s"
    return f"{states}; {rates}, p95 {duration(summary['p95'])}, {summary['inFlight']} in flight"


def _rows(records: Iterable[Mapping[str, Any]], operations: bool) -> Sequence[Row]:
    rows = []
    for record in sorted(records, key=lambda each: (_ORDER.index(each["severity"]), each["name"])):
        rows.append(_row(record))
        if operations:
            rows += [_operation_row(each) for each in record.get("operations", ())]
    return rows


def _operation_row(record: Mapping[str, Any]) -> Row:
    """An operation's row, below that of its plugin. Breaker and limits are the plugin's."""
    return [
        ("", ""),
        (f"  {record['name']}", ""),
        ("", ""),
        ("", ""),
        (amount(record["calls"]), ""),
        ("", ""),
        _failing(record, record["minute"]),
        *_times(record),
        ("", ""),
        ("", ""),
        (record["target"], "dim"),
    ]


def _failing(record: Mapping[str, Any], calls: float) -> tuple[str, str]:
    failing = record["failing"] or 0.0
    return share(failing) if calls else NONE, "bold red" if failing >= 0.1 else "yellow" if failing else "dim"


def _times(record: Mapping[str, Any]) -> Row:
    latency = record["latency"]
    return [(duration(latency[each]) if latency["recent"] else NONE, "") for each in ("p50", "p95", "p99")]


def _row(record: Mapping[str, Any]) -> Row:
    shape, style = _SYMBOLS[record["severity"]]
    strong = style if record["severity"] in {"down", "degraded"} else ""
    first = [(shape, style), (record["name"], "bold"), (record["word"], strong)]
    if record["kind"] == "off":
        return [*first, *([("", "")] * 9), (record["why"], "dim")]
    limiter = record["limiter"]
    return [
        *first,
        (_breaker(record), ""),
        (amount(record["calls"]), ""),
        (sparkline(record["spark"]["calls"]), "blue"),
        _failing(record, record["calls"]),
        *_times(record),
        (str(record["inFlight"]), "" if record["inFlight"] else "dim"),
        (f"{max(0, int(limiter['tokens']))}/{limiter['burst']}" if limiter else NONE, ""),
        (record["why"], ""),
    ]


def _breaker(record: Mapping[str, Any]) -> str:
    if record["breaker"] is not None:
        return str(record["breaker"]["state"])
    return " ".join(_SYMBOLS[each["severity"]][0] for each in (record["members"] or ())[:8]) or NONE


def _drawn(frame: Frame, operations: bool, warning: str = "") -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    head = Text(_headline(frame), style="bold")
    note = Text(f"{warning}  Ctrl-C ends" if warning else "Ctrl-C ends", style="bold red" if warning else "dim")
    return Group(head, _Table(_rows(frame["plugins"], operations)), note)


@attrs.frozen
class _Table:
    """The plugins, in the columns that fit the terminal, which may be resized."""

    rows: Sequence[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Table]:
        chosen = fitting(_COLUMNS, self.rows, options.max_width, _SPARE)
        yield make_table([_COLUMNS[each] for each in chosen], [[row[each] for each in chosen] for row in self.rows])
