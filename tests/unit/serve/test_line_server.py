"""Requests and replies as lines, whatever the descriptor."""

from __future__ import annotations

import json
from typing import Any

import pytest

from goplugins import serve
from goplugins.serve._line_server import LineReader, LineService


@serve.plugin(name="echo", request=Any, response=Any)
def echo(request: Any) -> Any:
    return request


def test_lines_are_split_whatever_chunks_they_come_in() -> None:
    reader = LineReader(limit=100)
    assert [reader.feed(piece) for piece in (b"on", b"e\ntw", b"o\n\nth")] == [[], [b"one"], [b"two", b""]]
    assert reader.mid_line
    assert reader.feed(b"ree\n") == [b"three"]
    assert not reader.mid_line
    assert not reader.ended


@pytest.mark.parametrize("long", [b"x" * 11, b"x" * 11 + b"\nnext\n", b"x" * 100_000])
def test_a_line_that_is_too_long_is_the_last_one(long: bytes) -> None:
    reader = LineReader(limit=10)
    lines = reader.feed(b"first\n" + long)
    assert lines == [b"first", long.partition(b"\n")[0]]
    assert reader.ended


def test_a_line_of_the_largest_size_is_no_last_one() -> None:
    reader = LineReader(limit=10)
    assert reader.feed(b"x" * 10 + b"\nnext\n") == [b"x" * 10, b"next"]
    assert not reader.ended


def test_the_refusal_of_a_line_that_is_too_long_has_its_request_id() -> None:
    service = LineService(echo, auth=None, max_request_bytes=100)
    line = b'{"type":"execute","request_id":"r7","data":"' + b"x" * 200
    reply = json.loads(service.answer(line, 0.0, "here"))
    assert (reply["success"], reply["error_kind"], reply["request_id"]) == (False, "invalid", "r7")
    assert reply["error"] == "the request is larger than 100 bytes"
