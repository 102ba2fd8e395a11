from __future__ import annotations

import math

import pytest

from goplugins.config import format_go_duration, parse_duration
from goplugins.errors import InvalidArgumentError

# What Go's Duration.String writes, as recorded from the real library's envelope.
RECORDED = [
    (0, "0s"),
    (1, "1ns"),
    (1500, "1.5µs"),
    (100_000_000, "100ms"),
    (1_500_000_000, "1.5s"),
    (30_000_000_000, "30s"),
    (90_000_000_000, "1m30s"),
    (3_600_000_000_000, "1h0m0s"),
    (3_661_000_000_000, "1h1m1s"),
    (7_200_500_000_000, "2h0m0.5s"),
    (-5_000_000_000, "-5s"),
    (1_234_567_890, "1.23456789s"),
]


@pytest.mark.parametrize(("nanoseconds", "text"), RECORDED)
def test_writes_and_reads_the_texts_of_go(nanoseconds: int, text: str) -> None:
    assert format_go_duration(nanoseconds / 1_000_000_000) == text
    assert parse_duration(text) == nanoseconds / 1_000_000_000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.999999999, "999.999999ms"),
        (0.9999999999, "1s"),  # rounds up into the next unit
        (59.9999999999, "1m0s"),
        (0.0009999999999, "1ms"),
        (60, "1m0s"),
        (1, "1s"),
        (0.25, "250ms"),
        (2**63, "2562047h47m16.854775807s"),
        (math.inf, "2562047h47m16.854775807s"),
        (-math.inf, "-2562047h47m16.854775807s"),
    ],
)
def test_the_edges_of_units_and_of_go_s_range(seconds: float, text: str) -> None:
    assert format_go_duration(seconds) == text


def test_nan_is_not_a_duration() -> None:
    with pytest.raises(InvalidArgumentError, match="NaN"):
        format_go_duration(math.nan)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("+5s", 5.0),
        ("-1.5h", -5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("1h2m3s4ms5us6ns", 3723.004005006),
        ("1µs", 1e-6),
        ("1\u03bcs", 1e-6),
        ("0.1s", 0.1),
    ],
)
def test_reads_go_s_notation(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", ".", ".s", "1e3s", "1 s", " 1s", "1d", "--1s", "1s-1s", "٣s", "9" * 60 + "s"]
)
def test_rejects_texts_that_go_rejects(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="write one such as"):
        parse_duration(text)


def test_a_number_without_unit_gets_a_fix() -> None:
    with pytest.raises(InvalidArgumentError, match=r'write "30s" for seconds, or 30 without quotes'):
        parse_duration("30")


def test_a_duration_longer_than_go_can_hold_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="too long"):
        parse_duration("2562048h")
