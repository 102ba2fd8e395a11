"""What every test run says besides passed and failed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How many histories are tried: HYPOTHESIS_PROFILE says so. `make stress` and `make mutation` set it.
# Times are a shared machine's: slowness says nothing about the code.
_COMMON = settings(deadline=None, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("test", _COMMON, max_examples=100)
settings.register_profile("stress", _COMMON, max_examples=1000)
# Some hundreds of runs of each: few examples, and always the same ones.
settings.register_profile("mutation", _COMMON, max_examples=40, stateful_step_count=30, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))

_MAPPING = Path(__file__).resolve().parents[1] / "docs/go-mapping.md"


# A shell starts what runs in the background with SIGINT ignored, and programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Only what is named a test: the rest are applications, workers and scripts, which other processes import."""
    return (collection_path.suffix == ".py" and not collection_path.name.startswith("test_")) or None


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
