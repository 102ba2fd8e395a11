"""Writes the results of a run into docs/performance.md, and its plot beside the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.groups import throughput
from benchmarks.groups.http import OURS
from benchmarks.harness import Result
from benchmarks.plot import Bars, Lines, as_svg
from benchmarks.report import heading, tables, targets

__all__ = ["PAGE", "write_page"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
_BEGIN, _END = "<!-- what follows is written by make bench -->\n", "<!-- up to here -->\n"


def write_page(about: dict[str, Any], results: Sequence[Result], page: Path = PAGE) -> None:
    """Replaces the results of the last run by those of this run.

    Raises:
        ValueError: the page lacks the two marks around the results.
    """
    before, begun, rest = page.read_text().partition(_BEGIN)
    _, ended, after = rest.partition(_END)
    if not (begun and ended):
        raise ValueError(f"{page} lacks the mark {_BEGIN.strip()} or {_END.strip()}")
    plot = page.with_suffix(".svg")
    plot.write_text(as_svg(_charts(results)))
    lines = [
        "",
        *heading(about),
        "",
        *targets(results),
        "",
        f"![One call beside its peers, and calls per second by threads]({plot.name})",
        *tables(results),
        "",
    ]
    page.write_text(before + _BEGIN + "\n".join(lines) + "\n" + _END + after)


def _charts(results: Sequence[Result]) -> list[Bars | Lines]:
    found = {result.group.name: result for result in results}
    charts: list[Bars | Lines] = []
    for name in ("http", "https", "unix", "exec", "grpc"):
        if name in found:
            result = found[name]
            values = {_short(row.name): row.median for row in result.rows.values()}
            charts.append(Bars(f"One call, {result.group.title}", result.group.unit, values))
    if "throughput" in found:
        charts.append(_throughput(found["throughput"]))
    return charts


def _short(name: str) -> str:
    return "goplugins, all policies on" if name == OURS else name


def _throughput(result: Result) -> Lines:
    values = {
        who: [result.rows[row].median for row in rows if row in result.rows] for who, rows in throughput.ROWS.items()
    }
    whole = {who: line for who, line in values.items() if len(line) == len(throughput.THREADS)}
    return Lines("Calls per second over HTTP, 64 bytes", throughput.THREADS, "threads", whole)
