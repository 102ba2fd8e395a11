"""Durations: text such as ``"1m30s"`` to seconds, and seconds to the text that Go's ``Duration.String`` writes."""

from __future__ import annotations

import re

from goplugins.errors import InvalidArgumentError

# Both spellings of the micro sign (U+00B5 and the Greek mu, U+03BC), as Go takes them.
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_WHOLE = re.compile(rf"[-+]?(?:{_PART.pattern})+")
_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+")
_MAX_NANOSECONDS = 2**63 - 1
_MAX_DIGITS = 40  # more than any duration needs; int() takes quadratic time for long texts


def parse_duration(text: str) -> float:
    """Seconds of a duration in Go's notation: numbers with units h, m, s, ms, us (or µs) and ns.

    Raises:
        InvalidArgumentError: the text is not a duration. The error is a :class:`ValueError`, too.

    >>> parse_duration("1m30s"), parse_duration("100ms"), parse_duration("1.5h"), parse_duration("-1us")
    (90.0, 0.1, 5400.0, -1e-06)
    """
    if text in {"0", "+0", "-0"}:
        return 0.0
    if len(text) > _MAX_DIGITS or not _WHOLE.fullmatch(text):
        if len(text) <= _MAX_DIGITS and _NUMBER.fullmatch(text):
            raise InvalidArgumentError(f'{text!r} has no unit: write "{text}s" for seconds, or {text} without quotes')
        raise InvalidArgumentError(
            f'{text[:_MAX_DIGITS]!r} is not a duration: write one such as "30s", "1m30s" or "100ms"'
        )
    total = 0
    for number, unit in _PART.findall(text):
        whole, _, fraction = number.partition(".")
        scale = _UNITS[unit]
        total += int(whole or 0) * scale
        if fraction:
            total += int(fraction) * scale // 10 ** len(fraction)
    if total > _MAX_NANOSECONDS:
        raise InvalidArgumentError(f"{text!r} is too long: the longest duration is {format_go_duration(1e10)}")
    # One exact integer and one correctly rounded division: "0.1s" and "100ms" are the same float.
    return (-total if text[0] == "-" else total) / 1_000_000_000


def format_go_duration(seconds: float) -> str:
    """The text that Go's ``Duration.String`` returns for this duration, rounded to nanoseconds.

    A duration longer than Go's limit of 292 years, such as infinity, becomes that limit.

    Raises:
        InvalidArgumentError: ``seconds`` is not a number.

    >>> format_go_duration(1.5), format_go_duration(90), format_go_duration(0.1), format_go_duration(0)
    ('1.5s', '1m30s', '100ms', '0s')
    """
    # Hot path: every attempt sends its timeout. The two common ranges need one format() and no other call.
    # Their upper ends exclude values that would be rounded up to the next unit.
    if 1.0 <= seconds < 59.999:
        text = f"{seconds:.9f}".rstrip("0")
        return text + "s" if text[-1] != "." else text[:-1] + "s"
    if 0.001 <= seconds < 0.999:
        text = f"{seconds * 1e3:.6f}".rstrip("0")
        return text + "ms" if text[-1] != "." else text[:-1] + "ms"
    return _format_any(seconds)


def _format_any(seconds: float) -> str:
    if seconds != seconds:  # noqa: PLR0124 - NaN is the only number that is not equal to itself
        raise InvalidArgumentError("a duration can't be NaN")
    if abs(seconds) >= _MAX_NANOSECONDS / 1e9:
        nanoseconds = _MAX_NANOSECONDS if seconds > 0 else -_MAX_NANOSECONDS
    else:
        # With integers: from 50 days on, the product of two floats may be wrong by a nanosecond.
        numerator, denominator = seconds.as_integer_ratio()
        nanoseconds = (2 * numerator * 10**9 + denominator) // (2 * denominator)
    if nanoseconds == 0:
        return "0s"
    sign, nanoseconds = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if nanoseconds < 1_000:
        return f"{sign}{nanoseconds}ns"
    if nanoseconds < 1_000_000:
        return f"{sign}{_decimal(nanoseconds, 3)}\u00b5s"
    if nanoseconds < 1_000_000_000:
        return f"{sign}{_decimal(nanoseconds, 6)}ms"
    minutes, nanoseconds = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_decimal(nanoseconds, 9)}s"


def _decimal(number: int, digits: int) -> str:
    whole, rest = divmod(number, 10**digits)
    return f"{whole}.{rest:0{digits}d}".rstrip("0") if rest else str(whole)
