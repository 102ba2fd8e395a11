"""JSON text to plain values and back, stricter than the standard library's."""

from __future__ import annotations

import json
import math
from typing import Any

from goplugins.config.problems import Problems, raise_for
from goplugins.config.schema import shown
from goplugins.errors import ConfigSyntaxError, InvalidConfigError
from goplugins.json_text import EMPTY, NotJSONError, read_json


def decode_text(data: str | bytes, source: str) -> str:
    """The text of UTF-8 bytes, without a byte order mark.

    Raises:
        ConfigSyntaxError: the bytes are not UTF-8.
    """
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        message = f"not UTF-8: byte {exc.start} can't be read"
        raise ConfigSyntaxError(message, path=source, fix="save the text as UTF-8") from None


def parse_json(data: str | bytes, source: str) -> Any:
    """The value of a JSON text.

    Raises:
        ConfigSyntaxError: the text is not JSON, contains NaN, infinity or a number out of range, or has a duplicate
            key; with line and column where they are known.
    """
    try:
        return read_json(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    except NotJSONError as exc:
        line, column = exc.place or (0, 0)
        where = f"line {line}, column {column}: " if line else ""
        fix = 'write {"plugins": [...]}' if exc.reason == EMPTY else "correct the JSON there"
        raise ConfigSyntaxError(f"{where}{exc.reason}", path=source, fix=fix) from None


def dump_json(config: object, *, include_secrets: bool) -> str:
    """A configuration as JSON text, indented by two spaces, without fields that are left out.

    Raises:
        InvalidConfigError: a value can't be written as JSON.
    """
    values = shown(config, secrets=include_secrets)
    found = Problems()
    _check(values, found)
    raise_for(found.found, "configuration")
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)


def _check(value: object, problems: Problems) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check(item, problems.below(key if isinstance(key, str) else repr(key)))
            if not isinstance(key, str):
                problems.add(InvalidConfigError, f"the key {key!r} is not a string", "use strings as keys")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, problems.below(index))
    elif isinstance(value, float) and not math.isfinite(value):
        problems.add(InvalidConfigError, "is a number that JSON can't hold", "write a finite number")
    elif not (value is None or isinstance(value, str | int | float)):
        message = f"a value of type {type(value).__name__} can't be written as JSON"
        problems.add(InvalidConfigError, message, "leave it out, or set it in code only")
