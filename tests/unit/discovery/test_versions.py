"""Versions and version ranges."""

from __future__ import annotations

import pytest

from goplugins.discovery.versions import parse_range, parse_version, satisfies


def test_the_order_of_versions() -> None:
    ordered = [
        "0.9",
        "1.0.0-alpha",
        "1.0.0-alpha.2",
        "1.0.0-beta",
        "1.0.0rc1",
        "1.0",
        "1.0.post1",
        "1.0.1",
        "1.10",
        "2",
    ]
    shuffled = [*ordered[1::2], *ordered[::2]]
    assert sorted(shuffled, key=parse_version) == ordered


@pytest.mark.parametrize(
    ("one", "other"), [("1", "1.0.0"), ("v1.2", "1.2"), ("1.2+build7", "1.2"), ("1.0-rc1", "1.0rc1")]
)
def test_equal_versions(one: str, other: str) -> None:
    assert parse_version(one) == parse_version(other)


@pytest.mark.parametrize("text", ["", "x", "1..2", "1.2 3", "latest", "1" * 200])
def test_invalid_versions(text: str) -> None:
    with pytest.raises(ValueError, match="not a version"):
        parse_version(text)


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("1.2", ">=1.2", True),
        ("1.2", ">1.2", False),
        ("1.9.9", ">=1.2,<2", True),
        ("2.0", ">=1.2, <2", False),
        ("1.3", ">=1.2, !=1.3", False),
        ("1.3", "==1.3.0", True),
        ("1.3", "<=1.3", True),
        ("anything", "*", True),
        ("anything", "", True),
    ],
)
def test_ranges(version: str, wanted: str, fits: bool) -> None:
    assert satisfies(version, wanted) is fits


@pytest.mark.parametrize("text", ["1.2", "^1.2", ">=", ">=1.2 <2", ">=x", ","])
def test_invalid_ranges(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a version"):
        parse_range(text)
