"""Parts of the meaning of an HTTP reply."""

from __future__ import annotations

import pytest

from goplugins.transports.http.reply import parse_retry_after


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("-5", None),
        ("1.5", None),
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
