"""Each fault in docs/known-faults.md has an existing test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = re.findall(
    r"^\| (?!\*\*|What |---)(.+?) \| .+? \| (.+?) \|$", (ROOT / "docs/known-faults.md").read_text(), re.MULTILINE
)


@pytest.fixture(scope="module")
def tests() -> set[str]:
    files = (ROOT / "tests").glob("**/test_*.py")
    return {
        name for file in files for name in re.findall(r"^ *def (test_known_fault\w+)\(", file.read_text(), re.MULTILINE)
    }


def test_the_page_has_rows() -> None:
    assert len(ROWS) >= 40


@pytest.mark.parametrize(("fault", "named"), ROWS, ids=[fault[:60] for fault, _ in ROWS])
def test_each_fault_has_a_test_named_after_it(tests: set[str], fault: str, named: str) -> None:
    names = re.findall(r"`(\w+)`", named)
    assert names, f"no test for: {fault}"
    assert set(names) <= tests
