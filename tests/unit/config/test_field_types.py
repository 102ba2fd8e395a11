"""Rules of fields: durations that are probably nanoseconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.config.helpers import messages, plugin_messages


@pytest.mark.parametrize(("number", "seconds"), [(5_000_000_000, "5"), (1_500_000_000, "1.5"), (100_000_000, "0.1")])
def test_durations_in_nanoseconds_are_recognised(number: int, seconds: str) -> None:
    text = plugin_messages(connection={"request_timeout": number})["connection.request_timeout"]
    assert text.startswith(f"expected a duration of a year at most, got {number} (write {seconds} if ")
    assert "from_go_json" in text
    assert "goplugins config import-go" in text


@pytest.mark.parametrize("value", [1e30, 10**400, float("inf"), "9000h"])
def test_durations_of_more_than_a_year(value: object) -> None:
    text = plugin_messages(connection={"request_timeout": value})["connection.request_timeout"]
    assert text.startswith("expected a duration of a year at most, got ")
    assert text.endswith("(write at most 31622400 seconds)")


def test_each_duration_of_a_go_file_gets_the_fix() -> None:
    path = Path(__file__).parents[2] / "data" / "go-v1.0.0-config.json"
    values = json.loads(path.read_text())
    found = messages(values)
    assert all(
        "import-go" in found[f"default_connection.{name}"]
        for name in ("idle_timeout", "connection_timeout", "request_timeout")
    )
