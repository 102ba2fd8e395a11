"""The Retry-After header, in both of its forms (RFC 9110, 10.2.3)."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["parse_retry_after"]

_LONGEST = 10.0 * 365 * 86400


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait, or None if the header is missing or can't be read. A date in the past means 0.

    Args:
        text: the header's value.
        now: seconds since the Unix epoch.

    >>> parse_retry_after("120", 0.0)
    120.0
    >>> parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 15.0)
    45.0
    >>> parse_retry_after("soon", 0.0) is None
    True
    """
    text = (text or "").strip()
    if not text or len(text) > 64:
        return None
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST)
    try:
        moment = parsedate_to_datetime(text)
        # HTTP dates are UTC; "-0000", which some send, would be read as local time.
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST)
