"""Text from outside: one line, nothing unprintable, bounded length."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import goplugins
from goplugins.runtime.text import CUT, cut, from_outside, one_line, printable


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
    found = from_outside(text, 20)
    assert (len(found), found[-1]) == (20, CUT)


@pytest.mark.parametrize("text", ["é" * 20, ("é" * 20).encode(), "\N{GRINNING FACE}" * 20, "x" * 20 + " " * 1000])
def test_a_text_that_fits_has_no_mark(text: str | bytes) -> None:
    assert CUT not in from_outside(text, 20)


@pytest.mark.parametrize("character", ["x", "é", "\u20ac", "\N{GRINNING FACE}"])
@pytest.mark.parametrize("before", ["", "x", "é", "x€"])
def test_bytes_are_cut_between_characters(character: str, before: str) -> None:
    text = before + character * 50
    assert from_outside(text.encode(), 20) == from_outside(text, 20) == text[:19] + CUT


def test_cut() -> None:
    assert [cut("word", limit) for limit in (5, 4, 3, 1)] == ["word", "word", "wo…", "…"]


def test_messages_of_transports_cut_texts_by_cut_only() -> None:
    """A slice leaves no mark, by which a credential that it cuts in two would be recognised."""
    found = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in (Path(goplugins.__file__).parent / "transports").rglob("*.py")
        if path.name != "credential_rotation.py"  # which masks
        for text in ast.walk(ast.parse(path.read_text()))
        if isinstance(text, ast.JoinedStr)
        for node in ast.walk(text)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and node.slice.upper is not None
    ]
    assert [each for each in found if "[:1]" not in each and ": list(" not in each] == []


NOUNS = "calls|members|plugins|failures|checks|problems|attempts|workers|tasks|events|connections|threads|settings"
PLURALS = re.compile(rf" ?(?:[a-z]+ )?(?:{NOUNS})\b")
NEVER_ONE = {
    "attempts in": "only with more than one attempt",
    "problems": "a single problem is raised itself",
    "connections have a call in flight": "a constant",
    "calls wait for one": "a constant",
    "calls/s": "a rate",
    "calls ": "a verb, before a name",
    "members can": "with one member it is another text",
    "members are": "with one member it is another text",
    "workers are busy": "with one worker it is another text",
    "threads were": "with one thread it is another text",
    "workers": "the doctor warns of several workers",
    "threads wait for the clock": "an argument of the test",
}


def holds(text: str, allowed: str) -> bool:
    return text == f" {allowed}" if allowed.endswith(" ") else f" {allowed}" in text


def test_counts_in_messages_have_a_singular() -> None:
    found = set()
    for path in Path(goplugins.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            texts = []
            if isinstance(node, ast.JoinedStr):
                texts = [
                    str(text.value)
                    for value, text in pairwise(node.values)
                    if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)
                ]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts = node.value.split("%d")[1:]
            found |= {f"{path.name}:{node.lineno}:{text}" for text in texts if text[:1] == " " and PLURALS.match(text)}
    wrong = [each for each in found if not any(holds(each.split(":", 2)[2], allowed) for allowed in NEVER_ONE)]
    assert sorted(wrong) == []
