"""Settings and fixtures of every test run."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# HYPOTHESIS_PROFILE selects how many histories are tried; `make stress` and `make mutation` set it.
# No deadline: on a shared machine slowness says nothing about the code.
_COMMON = settings(deadline=None, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("test", _COMMON, max_examples=100)
settings.register_profile("stress", _COMMON, max_examples=1000)
# `make mutation` runs each test some hundreds of times: few examples, and always the same ones.
settings.register_profile("mutation", _COMMON, max_examples=40, stateful_step_count=30, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))

_MAPPING = Path(__file__).resolve().parents[1] / "docs/go-mapping.md"


# A shell starts background jobs with SIGINT ignored, and programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Skips files that are not named test_*: applications, workers and scripts, which other processes import."""
    return (collection_path.suffix == ".py" and not collection_path.name.startswith("test_")) or None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With GOPLUGINS_REQUIRE_TOOLS a test that is skipped because a tool or package is missing fails.

    Such a skip says so: its reason begins with "needs", or it comes from pytest.importorskip().
    """
    report = yield
    if os.environ.get("GOPLUGINS_REQUIRE_TOOLS") and report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if reason.startswith(("needs ", "could not import ")):
            report.outcome, report.longrepr = "failed", f"GOPLUGINS_REQUIRE_TOOLS is set, and this test {reason}"
    return report


@pytest.fixture(autouse=True)
def own_log_level() -> Iterator[None]:
    """Restores the level of the package's logger: a configuration sets it, and it would outlive the test."""
    logger = logging.getLogger("goplugins")
    before = logger.level
    yield
    logger.setLevel(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Adds how many symbols of the Go library have a counterpart: each change should lower the second number."""
    if _MAPPING.exists():
        rows = [line for line in _MAPPING.read_text().splitlines() if line.startswith("| `")]
        planned = sum("| planned |" in line for line in rows)
        terminalreporter.write_line(f"go-mapping: {len(rows) - planned} symbols done, {planned} rows say planned")
