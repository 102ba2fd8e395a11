"""JSON engines: their cost, and which values they read and write correctly."""

from __future__ import annotations

import datetime
import importlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.harness import Call, Group, Ratio
from benchmarks.messages import question_of

__all__ = ["GROUP"]

_SMALL = {"user_id": "user123", "token": question_of(64).token}
_RECORDS = [
    {
        "id": number,
        "name": f"user {number}",
        "email": f"user{number}@example.com",
        "score": number * 1.37,
        "tags": ["a", "b"],
        "active": True,
        "note": None,
    }
    for number in range(560)
]
_PAYLOADS: dict[str, Any] = {"64 bytes": _SMALL, "64 KiB of records": _RECORDS}

_Pair = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


def _ours() -> _Pair:
    """The JSON codec of goplugins, for a value already unstructured by cattrs."""
    from goplugins.transports.envelope import parse_value
    from goplugins.transports.json_codec import _json_chunks

    return lambda value: "".join(_json_chunks(value, 0)).encode("ascii"), parse_value


def _plain() -> _Pair:
    return lambda value: json.dumps(value, separators=(",", ":"), allow_nan=False).encode(), json.loads


def _orjson() -> _Pair:
    orjson = importlib.import_module("orjson")
    return orjson.dumps, orjson.loads


def _msgspec() -> _Pair:
    msgspec = importlib.import_module("msgspec")
    return msgspec.json.encode, msgspec.json.decode


_ENGINES: dict[str, Callable[[], _Pair]] = {
    "goplugins (json's own C)": _ours,
    "json.dumps, json.loads": _plain,
    "orjson": _orjson,
    "msgspec": _msgspec,
}


def _name(what: str, engine: str, payload: str) -> str:
    return f"{what}, {payload}: {engine}"


# --- correctness of values -----------------------------------------------------------------------------------------

_REFUSED = "refused"

_READ: Sequence[tuple[str, bytes, Any]] = (
    ("2^64", b"18446744073709551616", 2**64),
    ("1e400", b"1e400", math.inf),
    ("0.1", b"0.1", 0.1),
    ("5e-324", b"5e-324", 5e-324),
    ("NaN", b"NaN", _REFUSED),
    ("a pair of surrogates", b'"\\ud83d\\ude00"', "\U0001f600"),
    ("a lone surrogate", b'"\\ud800"', "\ud800"),
    ("invalid UTF-8", b'"\xff"', _REFUSED),
    ("a control character", b'"\x01"', _REFUSED),
)
_WRITTEN: Sequence[tuple[str, Any, Any]] = (
    ("2^64", 2**64, 2**64),
    ("1e22", 1e22, 1e22),
    ("NaN", math.nan, _REFUSED),
    ("infinity", math.inf, _REFUSED),
    ("a lone surrogate", "\ud800", "\ud800"),
    ("a number as a key", {1: 2}, {"1": 2}),
    ("a datetime without a zone", datetime.datetime(2026, 11, 1), _REFUSED),  # noqa: DTZ001
)


def _verdict(work: Callable[[], Any], expected: Any) -> str:
    try:
        found = work()
    except Exception:  # noqa: BLE001 - each engine has its own errors
        return "right" if expected is _REFUSED else "refuses it"
    if expected is not _REFUSED and type(found) is type(expected) and found == expected:
        return "right"
    return f"**{found!r}**"


def _values() -> Iterator[str]:
    """Table of values and engines: ``right`` where the result is the one that goplugins requires."""
    engines: dict[str, _Pair] = {}
    for name, make in _ENGINES.items():
        try:
            engines[name] = make()
        except ImportError:
            continue
    yield f"| | {' | '.join(engines)} |"
    yield "|---|" + "---|" * len(engines)
    for what, text, expected in _READ:
        found = [_verdict(partial(read, text), expected) for _, read in engines.values()]
        yield f"| reads {what} | {' | '.join(found)} |"
    for what, value, expected in _WRITTEN:
        found = [
            _verdict(partial(lambda write, value: json.loads(write(value)), write, value), expected)
            for write, _ in engines.values()
        ]
        yield f"| writes {what} | {' | '.join(found)} |"


GROUP = Group(
    name="codec",
    title="JSON engines",
    clock=time.thread_time,
    timing="CPU time of the thread",
    notes=_values,
    ratios=tuple(
        Ratio(
            f"JSON: {what}, {payload}: goplugins vs {engine}",
            _name(what, "goplugins (json's own C)", payload),
            _name(what, engine, payload),
        )
        for payload in _PAYLOADS
        for what in ("write", "read")
        for engine in ("orjson", "msgspec")
    ),
)


def _add(engine: str, make: Callable[[], _Pair], payload: str, value: Any) -> None:
    @GROUP.row(_name("write", engine, payload))
    def _(_: object) -> Iterator[Call]:
        write, _read = make()
        yield lambda: write(value)

    @GROUP.row(_name("read", engine, payload))
    def _(_: object) -> Iterator[Call]:
        _write, read = make()
        text = json.dumps(value, separators=(",", ":")).encode()
        yield lambda: read(text)


for _payload, _value in _PAYLOADS.items():
    for _engine, _make in _ENGINES.items():
        _add(_engine, _make, _payload, _value)
