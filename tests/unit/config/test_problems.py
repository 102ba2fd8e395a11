"""Problems: their paths, and those that follow from other problems."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.config.helpers import plugin_messages


@pytest.mark.parametrize(
    ("plugin", "path"),
    [
        ({"endpoint": "", "endpoints": "http://host", "balancing": {"strategy": "p2c"}}, "endpoints"),
        ({"endpoint": "", "endpoints": [5]}, "endpoints[0]"),
        ({"transport": "unix", "endpoint": "", "endpoints": 5}, "endpoints"),
        ({"options": {"resolve": "yes", "resolve_interval": 3}, "balancing": {"strategy": "p2c"}}, "options.resolve"),
        ({"options": 5, "balancing": {"strategy": "p2c"}}, "options"),
        ({"retry": {"initial_interval": 9, "max_interval": "x"}}, "retry.max_interval"),
        ({"retry": {"initial_interval": "x", "max_interval": 0.01}}, "retry.initial_interval"),
        ({"bulkhead": {"max_concurrent": 5, "adaptive": "yes", "min_concurrent": 3}}, "bulkhead.adaptive"),
        ({"bulkhead": {"max_concurrent": 5, "max_waiting": "x", "max_wait": 3}}, "bulkhead.max_waiting"),
        ({"chaos": {"enabled": True, "reset": 0.1, "error": "x", "status": 503}}, "chaos.error"),
        ({"chaos": {"enabled": True, "reset": 0.1, "latency": "x", "delay": 1}}, "chaos.latency"),
    ],
)
def test_problems_that_follow_from_an_unreadable_field_are_not_reported(plugin: dict[str, Any], path: str) -> None:
    assert list(plugin_messages(**plugin)) == [path]


def test_an_invalid_endpoint_is_reported_beside_an_unreadable_field() -> None:
    assert set(plugin_messages(endpoint="ftp://x", endpoints=5)) == {"endpoint", "endpoints"}
