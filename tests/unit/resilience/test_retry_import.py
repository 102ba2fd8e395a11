"""The library behind the retries is imported by the first of them: what comes between may break that one only."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading

import pytest

from goplugins.resilience import retry

PROGRAM = """
import sys

from goplugins.errors import PluginConnectionError
from goplugins import RetryConfig
from goplugins.resilience import RetryPolicy
from tests.interrupts import interrupted_at

policy = RetryPolicy(RetryConfig(max_retries=1, initial_interval=0.001))


def retry():
    assert policy.run(PluginConnectionError(), lambda: 7) == 7


interrupted_at(int(sys.argv[1]), retry, ("tenacity/__init__.py", "threading.py"))
retry()
"""


def test_an_interrupt_in_the_first_retry_breaks_no_later_one() -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(number)], stderr=subprocess.PIPE, text=True)
        for number in (0, 1, 4, 16, 40)
    ]
    for program in running:
        _, said = program.communicate(timeout=30)
        assert program.returncode == 0, said


@pytest.fixture
def tenacity(monkeypatch):
    """As if it had not been imported yet."""
    module = importlib.import_module("tenacity")
    monkeypatch.delitem(sys.modules, "tenacity")
    return module


def test_the_import_is_made_once_and_on_a_thread_that_no_interrupt_reaches(tenacity, monkeypatch):
    found = []

    def noting(name):
        me = threading.current_thread()
        found.append((name, me is threading.main_thread(), me.daemon))
        sys.modules[name] = tenacity

    monkeypatch.setattr(importlib, "import_module", noting)
    for _ in range(2):
        assert retry._retrying() is tenacity.Retrying
    assert found == [("tenacity", False, True)]


def test_without_a_thread_to_be_had_the_import_is_made_here(tenacity, monkeypatch):
    def start(thread):
        sys.modules["tenacity"] = tenacity  # so that it is not really made anew
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert retry._retrying() is tenacity.Retrying
