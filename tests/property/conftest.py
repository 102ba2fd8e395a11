"""How many histories are tried: HYPOTHESIS_PROFILE says so. `make stress` and `make mutation` set it."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Times are a shared machine's: slowness says nothing about the code.
_COMMON = settings(deadline=None, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("test", _COMMON, max_examples=100)
settings.register_profile("stress", _COMMON, max_examples=1000)
# Some hundreds of runs of each: few examples, and always the same ones.
settings.register_profile("mutation", _COMMON, max_examples=40, stateful_step_count=30, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first: a mutant that one of them notices needs no history."""
    if os.environ.get("HYPOTHESIS_PROFILE") == "mutation":
        items.sort(key=lambda item: "property" in item.nodeid)
