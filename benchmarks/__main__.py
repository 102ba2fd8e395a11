"""``python -m benchmarks``: measures, prints tables and ratios, writes JSON. A missed target is no failure."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.groups import GROUPS
from benchmarks.harness import Group, Plan, Result, pinned
from benchmarks.page import write_page
from benchmarks.report import as_json, as_markdown, by_library, load, machine

_RESULTS = Path(__file__).with_name("results.json")
_GROUP_SECONDS, _QUICK_SECONDS = 15.0, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="group", help=f"default: {' '.join(g.name for g in GROUPS)}")
    parser.add_argument(
        "--quick", action="store_true", help="2 s instead of 15 s per group: fewer rounds, less precise"
    )
    parser.add_argument("--json", type=Path, default=_RESULTS, metavar="FILE", help="default: benchmarks/results.json")
    parser.add_argument("--seed", type=int, default=None, help="seed of the random order of rows within a round")
    parser.add_argument("--docs", action="store_true", help="also write the tables and the plot of docs/performance.md")
    parser.add_argument(
        "--profile", metavar="ROW", help="profile the rows whose name contains ROW instead of measuring"
    )
    arguments = parser.parse_args()
    chosen = [group for group in GROUPS if not arguments.groups or group.name in arguments.groups]
    if not chosen:
        parser.error(f"unknown group; available: {', '.join(group.name for group in GROUPS)}")
    if arguments.profile:
        for group in chosen:
            _profile(group, arguments.profile)
        return
    seconds = _QUICK_SECONDS if arguments.quick else _GROUP_SECONDS
    plan = Plan(group=seconds, batch=0.005 if arguments.quick else 0.01)
    about, results = _measure(chosen, plan, random.Random(arguments.seed), arguments.json)
    if arguments.docs:
        write_page(about, results)


def _measure(groups: list[Group], plan: Plan, rng: random.Random, path: Path) -> tuple[dict[str, Any], list[Result]]:
    """Measures the groups, prints the report and writes the JSON file; returns what the page is made from."""
    about = {**machine(), "plan": {"group": plan.group, "batch": plan.batch}}
    started = time.perf_counter()
    results: list[Result] = []
    failed: dict[str, str] = {}
    for group in groups:
        sys.stderr.write(f"{group.name} ...\n")
        try:
            results.append(group.measure(plan, rng))
        except Exception as exc:  # noqa: BLE001 - the other groups are still measured
            failed[group.name] = f"{type(exc).__name__}: {exc}"
    about["load_after"] = load()
    about["seconds"] = round(time.perf_counter() - started, 1)
    sys.stdout.write(as_markdown(about, results, failed))
    try:
        path.write_text(json.dumps(as_json(about, results, failed), indent=1) + "\n")
    except OSError as exc:
        sys.stderr.write(f"{path} could not be written: {exc}\n")
    return about, results


def _profile(group: Group, wanted: str) -> None:
    """Prints a profile of each matching row; the profiler's overhead inflates code made of many small calls."""
    import cProfile
    import pstats

    with pinned(), group.environment() as environment:
        for name, make in group.rows.items():
            if wanted not in name or group.sampler is not None:
                continue
            with make(environment) as call:
                for _ in range(1000):
                    call()
                profile = cProfile.Profile()
                profile.enable()
                for _ in range(5000):
                    call()
                profile.disable()
            sys.stdout.write(f"{name}: 5000 calls\n\n")
            for library, share in by_library(profile):
                sys.stdout.write(f"  {share:4.0%} {library}\n")
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
