"""The JSON value within a message."""

from __future__ import annotations

import json
from typing import Any, NoReturn

__all__ = ["parse_value"]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_value(text: bytes) -> Any:
    """The one JSON value that ``text`` holds; None for an empty text.

    Raises:
        ValueError: it holds anything else. The message quotes none of it.

    >>> parse_value(b'[1, "a"]'), parse_value(b"")
    ([1, 'a'], None)
    """
    if not text:
        return None
    try:
        return _decoder.decode(text.decode("utf-8"))
    except json.JSONDecodeError as exc:
        raise ValueError(f"{exc.msg} at character {exc.pos}") from exc
    except UnicodeDecodeError as exc:
        raise ValueError(f"byte {exc.start} is not UTF-8") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
