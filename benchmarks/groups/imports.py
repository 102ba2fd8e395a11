"""Cost of an import at the start of a program: starts a new interpreter for each sample."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

from benchmarks.harness import Group, Ratio

__all__ = ["GROUP"]

_BARE = "bare interpreter"
_OURS = "import goplugins"
_MANAGER = "from goplugins import Manager; Manager()"
_REQUESTS = "import requests"


def _milliseconds(code: str, _: float) -> float:
    """CPU time of one interpreter, from start to exit; less disturbed by other processes than wall time."""
    started = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"{code!r} failed after {time.perf_counter() - started:.1f} s")
    return (usage.ru_utime + usage.ru_stime) * 1e3


GROUP = Group(
    name="imports",
    title="Start of a program",
    unit="ms",
    timing="CPU time of the process",
    sampler=_milliseconds,
    ratios=(
        Ratio("`import goplugins` vs `import requests`, over bare interpreter", _OURS, _REQUESTS, 0.5, _BARE),
        Ratio(
            "`Manager()` with its import vs `import requests`, over bare interpreter", _MANAGER, _REQUESTS, None, _BARE
        ),
    ),
)


@GROUP.row(_BARE)
def _(_: object) -> Iterator[str]:
    yield "pass"


@GROUP.row(_OURS)
def _(_: object) -> Iterator[str]:
    yield _OURS


@GROUP.row(_MANAGER)
def _(_: object) -> Iterator[str]:
    yield _MANAGER


@GROUP.row(_REQUESTS)
def _(_: object) -> Iterator[str]:
    yield _REQUESTS
