"""JSON text to plain values and back, stricter than the standard library's."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from goplugins.config.problems import Problems, raise_for, shown_key
from goplugins.config.schema import shown
from goplugins.errors import ConfigSyntaxError, InvalidConfigError


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

    No message repeats the text, which may contain secrets. The errors have no cause, since a JSONDecodeError contains
    the whole text.

    Raises:
        ConfigSyntaxError: the text is not JSON, contains NaN or infinity, or has a duplicate key; with line
            and column.
    """
    text = decode_text(data, source)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as exc:
        message = f"line {exc.lineno}, column {exc.colno}: {exc.msg if text.strip() else 'the text is empty'}"
        fix = "correct the JSON there" if text.strip() else 'write {"plugins": [...]}'
        raise ConfigSyntaxError(message, path=source, fix=fix) from None
    except RecursionError:
        raise ConfigSyntaxError("nested too deeply", path=source, fix="flatten the JSON") from None
    except _NotPlainJSONError as exc:
        raise ConfigSyntaxError(str(exc), path=source, fix=exc.fix) from None


class _NotPlainJSONError(ValueError):
    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise _NotPlainJSONError(
            f"the key {shown_key(twice[0])!r} occurs more than once in an object", "keep one of them"
        )
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise _NotPlainJSONError(f"{name} is not JSON", "write a finite number")


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
