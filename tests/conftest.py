"""What every test run says besides passed and failed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read by type checkers (tests/typing/test_api.py runs them), never imported: its calls would be real ones.
collect_ignore = ["typing/api.py"]

_MAPPING = Path(__file__).resolve().parents[1] / "docs/go-mapping.md"


@pytest.fixture(autouse=True)
def own_log_level() -> Iterator[None]:
    """A configuration sets the level of the package's logger, which outlives its manager and would outlive the test."""
    logger = logging.getLogger("goplugins")
    before = logger.level
    yield
    logger.setLevel(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How far the counterpart of the Go library has come: each change should lower the second number."""
    if _MAPPING.exists():
        rows = [line for line in _MAPPING.read_text().splitlines() if line.startswith("| `")]
        planned = sum("| planned |" in line for line in rows)
        terminalreporter.write_line(f"go-mapping: {len(rows) - planned} symbols done, {planned} rows say planned")
