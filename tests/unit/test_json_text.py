"""JSON from outside means the same to every reader, or is refused by name: on each way in."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.config import ManagerConfig
from goplugins.errors import BadReplyError, ConfigSyntaxError, InvalidArgumentError, TruncatedReplyError
from goplugins.json_text import NotJSONError, read_json
from goplugins.serve._dispatch import parse_request
from goplugins.transports.envelope import parse_object

MARK = b"\xef\xbb\xbf"

REFUSED = {
    "twice": (b'{"data": 1, "data": 2}', "the key 'data' occurs more than once"),
    "twice within": (b'{"data": [{"a": {"valid": false, "valid": true}}]}', "the key 'valid' occurs more than once"),
    "twice, escaped": (b'{"a": 1, "\\u0061": 2}', "the key 'a' occurs more than once"),
    "long key": (b'{"%b": 1, "%b": 2}' % ((b"k" * 9000,) * 2), "the key 'kkkk"),
    "too large": (b'{"data": 1e400}', "the number 1e400 is beyond the range"),
    "too small": (b'{"data": [-1e400]}', "the number -1e400 is beyond the range"),
    "many digits": (b'{"data": %b.5}' % (b"9" * 400), "beyond the range"),
    "many digits of an integer": (b'{"data": %b}' % (b"9" * 5000), "4300"),
    "NaN": (b'{"data": NaN}', "NaN is not JSON"),
    "infinity": (b'{"data": -Infinity}', "-Infinity is not JSON"),
    "UTF-16": ('{"data": 1}'.encode("utf-16"), "UTF-16"),
    "Latin-1": (b'{"data": "\xe9"}', "not UTF-8"),
    "deep": (b'{"a":' * 100_000, "nested too deeply"),
    "comment": (b'{"data": 1} // x', "Extra data"),
    "octal": (b'{"data": 030}', "at character"),
    "two marks": (MARK * 2 + b"{}", "at character"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name_on_each_way_in(name):
    body, reason = REFUSED[name]
    ways: list[tuple[Any, type[Exception]]] = [
        (read_json, NotJSONError),
        (parse_object, BadReplyError),
        (parse_request, InvalidArgumentError),
        (ManagerConfig.from_json, ConfigSyntaxError),
    ]
    for read, error in ways:
        with pytest.raises(error) as caught:
            read(body)
        text = str(caught.value)
        assert reason in text or (reason == "at character" and error is ConfigSyntaxError and "column" in text)
        assert len(text) < 400
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "body", [b'{"data": 1}', MARK + b'{"data": 1}', MARK + b' \r\n{"data": 1}\n', b'\t{"data": 1} ']
)
def test_a_mark_and_white_space_around_a_value_are_skipped(body):
    assert read_json(body) == parse_object(body) == parse_request(body) == {"data": 1}


@pytest.mark.parametrize("body", [b"1e308", b"-1.7976931348623157e308", b"1e-400", b"9" * 4000])
def test_numbers_in_range_are_read(body):
    assert read_json(body) is not None


@pytest.mark.parametrize("body", [b"", b" ", MARK, MARK + b"\n"])
def test_an_empty_reply_is_called_empty(body):
    with pytest.raises(TruncatedReplyError, match="the reply is empty"):
        parse_object(body)
