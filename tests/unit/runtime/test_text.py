"""Text from outside: one line, nothing unprintable, bounded length."""

from __future__ import annotations

import pytest

from goplugins.runtime.text import from_outside, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("né à Paris", "né à Paris"),
        ("refused\nWARNING all is well", "refused\\nWARNING all is well"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        ("separated\u2028lines", "separated\\u2028lines"),
        ("right-to-left \u202e override", "right-to-left \\u202e override"),
        ('it\'s "quoted"\0', 'it\'s "quoted"\\x00'),
    ],
)
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert from_outside(text, 100) == shown
    shown.encode()


def test_white_space_collapses_for_terminals() -> None:
    assert printable("a\n  b\tc\x07") == "a b c\\x07"
    assert printable(ValueError("two\nlines")) == "two lines"


def test_bytes_that_are_no_utf_8_are_escaped() -> None:
    assert from_outside(b"caf\xc3\xa9 \xff", 100) == "café \\xff"


def test_tabs_stay_and_trailing_white_space_goes() -> None:
    assert from_outside("a\tb\0\r\n", 100) == "a\tb\\x00"


@pytest.mark.parametrize("text", ["x" * 50, "\0" * 50, b"x" * 50, b"\xff" * 50])
def test_the_length_is_bounded(text: str | bytes) -> None:
    assert len(from_outside(text, 20)) == 20
