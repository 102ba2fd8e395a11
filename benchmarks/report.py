"""The results of a run as Markdown and as JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Group, Ratio, Result, compare, quantile

if TYPE_CHECKING:
    from cProfile import Profile

__all__ = ["as_json", "as_markdown", "by_library", "heading", "load", "machine", "tables", "targets"]

_PACKAGES = (
    "requests",
    "urllib3",
    "httptools",
    "httpx",
    "elastic-transport",
    "pycurl",
    "grpcio",
    "attrs",
    "cattrs",
    "tenacity",
    "pybreaker",
    "limits",
    "orjson",
    "msgspec",
)


def machine() -> dict[str, Any]:
    """Date, machine, commit and package versions of this run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": load(),
        "commit": _commit(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor()


def load() -> float | None:
    """Load of the last minute; above 0 before a run, other processes disturb the measurement."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _commit() -> str:
    """The commit, with a + if files differ from it; empty outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- Markdown ------------------------------------------------------------------------------------------------------


def as_markdown(about: dict[str, Any], results: Sequence[Result], failed: dict[str, str]) -> str:
    """The report of a run: ratios and targets first, then the rows of each group."""
    return "\n".join([*heading(about), "", *targets(results), *_failures(failed), *tables(results)]) + "\n"


def heading(about: dict[str, Any]) -> Iterator[str]:
    """Date, machine and versions, in one sentence."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    yield (
        f"{about['date']}, {about['python']} on {about['system']}, {about['cpus']} x {about['processor']}, "
        f"load {about['load']} before the run and {about['load_after']} after it; "
        f"commit {about['commit'] or 'unknown'}; {packages}. The whole run took {about['seconds']:.0f} s."
    )


def targets(results: Sequence[Result]) -> Iterator[str]:
    """The ratios, each with its target if it has one."""
    yield "| What | Ratio | 10 % to 90 % of rounds | Target | |"
    yield "|---|---|---|---|---|"
    for result in results:
        for ratio in result.group.ratios:
            found = compare(result, ratio)
            if found is None:
                yield f"| {ratio.what} | not measured | | {_target(ratio)} | |"
            else:
                value, low, high = found
                numbers = f"{value:.2f} | {low:.2f} to {high:.2f}"
                yield f"| {ratio.what} | {numbers} | {_target(ratio)} | {_met(value, ratio)} |"


def _target(ratio: Ratio) -> str:
    return "" if ratio.target is None else f"{'>=' if ratio.at_least else '<='} {ratio.target:g}"


def _met(value: float, ratio: Ratio) -> str:
    if ratio.target is None:
        return ""
    return "met" if (value >= ratio.target if ratio.at_least else value <= ratio.target) else "**missed**"


def _failures(failed: dict[str, str]) -> Iterator[str]:
    for name, reason in failed.items():
        yield ""
        yield f"Group `{name}` was not measured: {reason}"


def tables(results: Sequence[Result]) -> Iterator[str]:
    """The rows of each group."""
    for result in results:
        group = result.group
        yield ""
        yield f"### {group.title}"
        yield ""
        yield f"| | Median, {group.unit} | 10 % | 90 % | Rounds |"
        yield "|---|---|---|---|---|"
        for row in result.rows.values():
            low, high = quantile(row.samples, 0.1), quantile(row.samples, 0.9)
            numbers = " | ".join(_number(value) for value in (row.median, low, high))
            yield f"| {row.name} | {numbers} | {len(row.samples)} |"
        for name, reason in result.missing.items():
            yield f"| {name} | not measured: {reason} | | | |"
        yield ""
        yield _circumstances(result)
        if group.notes is not None:
            yield ""
            yield from group.notes()


def _circumstances(result: Result) -> str:
    group = result.group
    where = "pinned to one CPU" if group.pinned and hasattr(os, "sched_setaffinity") else "not pinned"
    noise = "" if result.noise is None else f"; noise of the machine: ±{result.noise:.0%}"
    return f"{group.timing}, {where}{noise}; took {result.seconds:.1f} s."


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 10 else f"{value:.1f}"


# --- profiles ------------------------------------------------------------------------------------------------------


def by_library(profile: Profile) -> list[tuple[str, float]]:
    """The share of the profiled time by library, largest first; each C function is an entry of its own."""
    times: defaultdict[str, float] = defaultdict(float)
    for entry in profile.getstats():
        code = entry.code
        times[f"C: {code.strip('<>')}" if isinstance(code, str) else _library(code.co_filename)] += entry.inlinetime
    total = sum(times.values())
    return [(name, seconds / total) for name, seconds in sorted(times.items(), key=lambda item: -item[1])[:14]]


def _library(file: str) -> str:
    if file.startswith("<"):  # code generated by attrs and cattrs
        return file.strip("<>").partition(" ")[0] + " (generated)"
    parts = Path(file).with_suffix("").parts
    for marker in ("site-packages", "goplugins", f"python{sys.version_info[0]}.{sys.version_info[1]}"):
        if marker in parts:
            index = len(parts) - 1 - parts[::-1].index(marker)
            return ".".join(parts[index : index + 2] if marker == "goplugins" else parts[index + 1 : index + 2])
    return parts[-1]


# --- JSON ----------------------------------------------------------------------------------------------------------


def as_json(about: dict[str, Any], results: Sequence[Result], failed: dict[str, str]) -> dict[str, Any]:
    """The results of a run, with every sample."""
    return {"about": about, "failed": failed, "groups": [_group(result.group, result) for result in results]}


def _group(group: Group, result: Result) -> dict[str, Any]:
    return {
        "name": group.name,
        "title": group.title,
        "unit": group.unit,
        "pinned": group.pinned,
        "timing": group.timing,
        "noise": result.noise,
        "seconds": result.seconds,
        "missing": result.missing,
        "rows": [
            {"name": row.name, "median": row.median, "samples": list(row.samples)} for row in result.rows.values()
        ],
        "ratios": [_ratio(result, ratio) for ratio in group.ratios],
    }


def _ratio(result: Result, ratio: Ratio) -> dict[str, Any]:
    found = compare(result, ratio)
    value, low, high = found or (None, None, None)
    return {
        "what": ratio.what,
        "of": ratio.of,
        "to": ratio.to,
        "over": ratio.over,
        "value": value,
        "low": low,
        "high": high,
        "target": ratio.target,
        "at_least": ratio.at_least,
    }
