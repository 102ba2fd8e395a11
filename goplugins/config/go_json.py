"""JSON written by the Go library: every field is present, and zero means "left out"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from goplugins.config.conversion import read
from goplugins.config.field_types import Duration, describe, rule_for
from goplugins.config.json_text import parse_json
from goplugins.config.problems import Problems, raise_for, untouched
from goplugins.config.schema import Field, fields_of
from goplugins.errors import InvalidConfigError

T = TypeVar("T")

_NANOSECONDS = 1_000_000_000
_TIME_WINDOW = "time_window"  # of a rate limit; ignored by the Go library, whose rates are those of a second


def structure_go_json(cls: type[T], text: str | bytes, source: str) -> T:
    """Reads the configuration class ``cls`` from the Go library's JSON.

    Raises:
        ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
    """
    problems = Problems()
    values = _section(parse_json(text, source), cls, problems)
    config, found = read(cls, values)
    places = [path for path, _ in problems.found]
    raise_for([*problems.found, *untouched(found, places)], source)
    assert config is not None  # noqa: S101 - no result without problems
    return config


def _section(values: Any, cls: type[Any], problems: Problems) -> Any:
    """The fields that are not left out, durations in seconds; wrong values stay, for the reader to report."""
    if not isinstance(values, Mapping):
        return values
    known = {field.name: field for field in fields_of(cls)}
    result: dict[Any, Any] = {}
    for name, value in values.items():
        field = known.get(name)
        if field is None:
            result[name] = value
        elif not _is_left_out(name, value, field):
            result[name] = _value(value, field, problems.below(name))
    return result


def ignored_windows(values: Any) -> Iterator[str]:
    """The paths of time windows other than a second in the plain values of a file; they are read as a second."""
    if not isinstance(values, Mapping):
        return
    plugins = values.get("plugins")
    limits = {"default_rate_limit": values.get("default_rate_limit")}
    for index, plugin in enumerate(plugins if isinstance(plugins, list) else ()):
        limits[f"plugins[{index}].rate_limit"] = plugin.get("rate_limit") if isinstance(plugin, Mapping) else None
    for path, limit in limits.items():
        if isinstance(limit, Mapping) and limit.get(_TIME_WINDOW) not in (None, 0, _NANOSECONDS):
            yield f"{path}.{_TIME_WINDOW}"


def _is_left_out(name: str, value: Any, field: Field) -> bool:
    if isinstance(value, Mapping) and field.section is not None:
        return all(_is_zero(item) for item in value.values())
    if isinstance(value, bool):
        return name == "keep_alive" and not value  # other switches may have been turned off on purpose
    return _is_zero(value)


def _is_zero(value: Any) -> bool:
    return not value if value is None or isinstance(value, bool | int | float | str | list | dict) else False


def _value(value: Any, field: Field, problems: Problems) -> Any:
    if field.section is not None:
        return _section(value, field.section, problems)
    if isinstance(value, list) and isinstance(field.item, type):
        return [_section(item, field.item, problems.below(index)) for index, item in enumerate(value)]
    if not isinstance(rule_for(field.kind), Duration):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return 1.0 if field.name == _TIME_WINDOW else value / _NANOSECONDS
    message = f"expected integer nanoseconds, got {describe(value)}"
    fix = "write nanoseconds, or read the text by from_json if its durations have units or are seconds"
    problems.add(InvalidConfigError, message, fix)
    return value
