"""The library behind the retries is imported by the first of them: what comes between may break that one only."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from types import SimpleNamespace

from goplugins.errors import PluginConnectionError
from goplugins.resilience import RetryPolicy
from tests.interrupts import interrupted_at

policy = RetryPolicy(SimpleNamespace(max_retries=1, initial_interval=0.001))


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
