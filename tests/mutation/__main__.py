"""Mutation tests: changes the policies one line at a time and counts the changes that no test detects.

``make mutation`` runs all modules. For work on one module:

    python -m tests.mutation gate budget      # only these modules
    python -m tests.mutation --survivors gate # only the survivors of the last run, after a test was added
    python -m tests.mutation --resume         # continue an interrupted run; changed modules are run again
    python -m tests.mutation --report         # run nothing, print the last figures

It runs mutmut on a copy of the tree in build/mutation; its settings are in pyproject.toml. The surviving mutants are
listed in build/mutation/survivors.txt, each with its diff.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/mutation"
COPIED = ("goplugins", "tests", "setup.cfg", "pyproject.toml")

KILLED, TIMEOUT, SURVIVED, UNTESTED, OTHER = "killed", "timeout", "survived", "no tests", "other"
# Exit codes of the test run of a mutant, as stored by mutmut. A run that was killed as hanging counts as killed, too.
OUTCOMES = {1: KILLED, 3: KILLED, 0: SURVIVED, 5: UNTESTED, 33: UNTESTED} | dict.fromkeys(
    (-24, 24, 36, 152, 255, -9), TIMEOUT
)

# All in one process: `mutmut show` starts a new process for each.
DIFFS = """
import sys
from mutmut.mutation.diff_apply import find_mutant, get_diff_for_mutant
for name in sys.argv[1:]:
    print(name, get_diff_for_mutant(name, path=find_mutant(name).path), sep="\\n", end="\\n\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", help="names of modules, such as gate; all if none is given")
    parser.add_argument("--survivors", action="store_true", help="run the survivors of the last run again")
    parser.add_argument("--resume", action="store_true", help="run only mutants without a result and changed modules")
    parser.add_argument("--report", action="store_true", help="print the last figures only")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at once (default: one a core)")
    options = parser.parse_args()
    if not options.report:
        wanted = [f"goplugins.*{module}.x*" for module in options.modules]
        if options.survivors:
            wanted = [name for name, code in results().items() if outcome(code) != KILLED and matches(name, wanted)]
        elif not wanted and not options.resume:
            shutil.rmtree(WORK, ignore_errors=True)
        copy_tree()
        mutmut("run", "--max-children", str(options.jobs), *wanted)
    report()


def matches(name: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def outcome(code: int | None) -> str:
    return OTHER if code is None else OUTCOMES.get(code, OTHER)


def copy_tree() -> None:
    """Updates the copy; mutmut compares modification times to find changed modules."""
    WORK.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(WORK / "mutants/tests", ignore_errors=True)
    for name in COPIED:
        source, target = ROOT / name, WORK / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)


def mutmut(*arguments: str) -> None:
    # Few examples without randomness: results must be reproducible.
    environment = os.environ | {"HYPOTHESIS_PROFILE": "mutation"}
    program = Path(sys.executable).with_name("mutmut")
    if subprocess.run([program, *arguments], cwd=WORK, env=environment, check=False).returncode:
        sys.exit("mutmut failed; see its output above")


def results() -> dict[str, int | None]:
    """Exit code of the test run by mutant; None if the mutant has not been run."""
    found: dict[str, int | None] = {}
    for meta in sorted(WORK.glob("mutants/goplugins/**/*.meta")):
        found |= json.loads(meta.read_text())["exit_code_by_key"]
    return found


def report() -> None:
    counts: dict[str, Counter[str]] = {}
    for name, code in results().items():
        module = name.rpartition(".")[0].removeprefix("goplugins.")
        counts.setdefault(module, Counter())[outcome(code)] += 1
    total = sum(counts.values(), Counter())
    print(f"| {'Module':<28} | Mutants | Killed | by hanging | Survived | Share killed |")
    print("|---|---|---|---|---|---|")
    for module, count in [*sorted(counts.items()), ("total", total)]:
        noticed = count[KILLED] + count[TIMEOUT]
        share = noticed / max(1, count.total())
        row = f"{count.total():7} | {noticed:6} | {count[TIMEOUT]:10} | {count.total() - noticed:8} | {share:12.1%}"
        print(f"| {module:<28} | {row} |")
    survivors = [name for name, code in results().items() if outcome(code) in (SURVIVED, UNTESTED)]
    listing = WORK / "survivors.txt"
    with listing.open("w") as file:
        subprocess.run([sys.executable, "-c", DIFFS, *survivors], cwd=WORK, stdout=file, check=True)
    print(f"{len(survivors)} survivors are listed in {listing.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
