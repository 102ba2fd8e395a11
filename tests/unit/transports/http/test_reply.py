"""Parts of the meaning of an HTTP reply."""

from __future__ import annotations

import pytest

from goplugins.transports.http.engine import HTTPReply
from goplugins.transports.http.reply import parse_retry_after, status_error


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("-5", None),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.5.5", None),
        ("1e3", None),
        ("7, 7", 7.0),
        ("1, 2.5", 2.5),
        ("soon", None),
        ("7, soon", 7.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT, Thu, 01 Jan 1970 00:03:00 GMT", 80.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT, 5", 20.0),
        ("Thu Jan  1 00:02:00 1970", 20.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thursday, 01-Jan-70 00:02:00 GMT", 20.0),
        ("9" * 60, 315360000.0),
        ("x" * 1000, None),
        ("Thu, 01 Jan 1970 00:02:00 -0000", 20.0),
        ("Thu, 01 Jan 1970 01:02:00 +0100", 20.0),
        ("Thu, 99 Jan 1970 00:02:00 GMT", None),
        ("Thu, 01 Jan 99999 00:02:00 GMT", None),
        ("Thu, 01 Jan 1970 00:02:00 +99999999999999999999", None),
        ("nan", None),
        ("\u0662", None),
    ],
)
def test_retry_after(text, seconds):
    assert parse_retry_after(text, 100.0) == seconds


@pytest.mark.parametrize(
    ("date", "seconds"),
    [("Thu, 01 Jan 1970 00:01:50 GMT", 10.0), ("Fri, 02 Jan 1970 00:00:00 GMT", 0.0), ("today", 20.0), (None, 20.0)],
)
def test_a_date_is_one_of_the_clock_of_the_reply(date, seconds):
    """The clocks of two machines differ."""
    headers = {"retry-after": "Thu, 01 Jan 1970 00:02:00 GMT"} | ({"date": date} if date else {})
    error = status_error(HTTPReply(503, headers, b"", True), 100.0, str)
    assert error.retry_after == seconds
