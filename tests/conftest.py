"""What every test run says besides passed and failed."""

from __future__ import annotations

from pathlib import Path

import pytest

# Read by type checkers (tests/typing/test_api.py runs them), never imported: its calls would be real ones.
collect_ignore = ["typing/api.py"]

_MAPPING = Path(__file__).resolve().parents[1] / "docs/go-mapping.md"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How far the counterpart of the Go library has come: each change should lower the second number."""
    if _MAPPING.exists():
        rows = [line for line in _MAPPING.read_text().splitlines() if line.startswith("| `")]
        planned = sum("| planned |" in line for line in rows)
        terminalreporter.write_line(f"go-mapping: {len(rows) - planned} symbols done, {planned} rows say planned")
