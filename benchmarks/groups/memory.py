"""Memory of a plugin and of a connection: starts a new interpreter for each sample."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.harness import Group, Ratio
from benchmarks.memory_probe import PROBES

__all__ = ["GROUP"]


def _kibibytes(what: str, _: float) -> float:
    command = [sys.executable, "-m", "benchmarks.memory_probe", what]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout)


GROUP = Group(
    name="memory",
    title="Memory per plugin, client or connection",
    unit="KiB",
    pinned=False,
    timing="resident memory, a mean of 200 to 400",
    sampler=_kibibytes,
    rounds=2,
    ratios=(
        Ratio(
            "memory of an idle HTTP connection vs urllib3's",
            "goplugins: an idle HTTP connection",
            "urllib3: an idle HTTP connection",
        ),
    ),
)


def _row(what: str) -> None:
    @GROUP.row(what)
    def _(_: object) -> Iterator[str]:
        yield what


for _what in PROBES:
    _row(_what)
