"""JSON from outside (replies, requests, configuration files), read more strictly than by the standard library.

What readers of JSON understand differently is refused by name: a key that an object has twice, a number beyond the
range of a float, NaN and Infinity. A byte order mark at the beginning is skipped, as RFC 8259 (8.1) allows.
"""

from __future__ import annotations

import codecs
import encodings.utf_8_sig  # noqa: F401 - a call must not import the codec
import json
import math
import re
from collections import Counter
from json.scanner import make_scanner
from typing import Any, NoReturn

EMPTY = "the text is empty"
"""The reason for a text without any value."""

_SHOWN = 40
"""Characters of a number in a message."""
_KEY_END = re.compile(r"[\s:=]")
_LONGEST_KEY = 40


def shown_key(key: str) -> str:
    """A key for a message, without what follows a space, colon or equals sign: it may be a secret value.

    >>> shown_key("token"), shown_key("token:secret")
    ('token', 'token...')
    """
    name = _KEY_END.split(key, maxsplit=1)[0][:_LONGEST_KEY]
    return key if name == key else f"{name}..."


class NotJSONError(ValueError):
    """The text is not one JSON value; the message quotes at most a key or a number of it.

    No cause and no context: a JSONDecodeError holds the whole text, which may be large and may have secrets.

    Attributes:
        reason: without the place.
        place: line and column, each from 1; None if the place is not known.
        ended: whether the text ends within a value.
    """

    def __init__(
        self, reason: str, *, at: int | None = None, place: tuple[int, int] | None = None, ended: bool = False
    ) -> None:
        super().__init__(reason if at is None else f"{reason} at character {at}")
        self.reason = reason
        self.place = place
        self.ended = ended


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    key = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    raise NotJSONError(f"the key {shown_key(key)!r} occurs more than once in an object")


def _number(text: str) -> float:
    value = float(text)
    if -math.inf < value < math.inf:
        return value
    raise NotJSONError(f"the number {text[:_SHOWN]} is beyond the range of numbers (1.8e308)")


def _refuse_constant(name: str) -> NoReturn:
    raise NotJSONError(f"{name} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_refuse_constant)
_scan = make_scanner(_decoder)  # type: ignore[arg-type]  # decode() calls it between two regular expressions


def read_json(body: bytes) -> Any:
    r"""The one JSON value in ``body``.

    Raises:
        NotJSONError: the text is something else.

    >>> read_json(b'\xef\xbb\xbf[1, "a"]')
    [1, 'a']
    """
    try:
        text = body.decode()
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except NotJSONError:
        raise
    except (StopIteration, ValueError, RecursionError):
        pass
    return _read_slowly(body)


def _read_slowly(body: bytes) -> Any:
    """As :func:`read_json`, also with white space or a mark around the value; raises the error for a malformed text."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise NotJSONError("not UTF-8, but UTF-16")
    facts: dict[str, Any] = {}
    try:
        return _decoder.decode(body.removeprefix(codecs.BOM_UTF8).decode())
    except NotJSONError:
        raise
    except json.JSONDecodeError as exc:
        reason = exc.msg if exc.doc.strip() else EMPTY
        facts["at"] = exc.pos if exc.doc.strip() else None
        facts["place"] = (exc.lineno, exc.colno)
        facts["ended"] = exc.pos >= len(exc.doc.rstrip()) or reason.startswith("Unterminated string")
    except UnicodeDecodeError as exc:
        reason = f"not UTF-8: byte {exc.start} can't be read"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as exc:  # an integer of more than 4300 digits
        reason = str(exc)
    raise NotJSONError(reason, **facts)
