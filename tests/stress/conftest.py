"""Short versions of the tests for `make test`, full ones for `make stress`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture(autouse=True)
def threads_that_switch_often() -> Iterator[None]:
    """A thread loses the interpreter after 20 microseconds instead of 5 milliseconds: races show early."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def scaled() -> Callable[[float, float], float]:
    """Picks the first of two amounts for a short run, the second for `make stress`."""
    whole = os.environ.get("HYPOTHESIS_PROFILE") == "stress"
    return lambda short, full: full if whole else short
