"""Plain values to configuration classes: cattrs descends into them, the rules of the annotations read each value.

Two attributes of a class change how its fields are read: ``_short_form`` names the field that a plain string sets, and
``_read_fields`` is a function that reads fields before cattrs does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import GenericAlias, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import attrs
from cattrs import Converter
from cattrs.cols import list_structure_factory
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
)
from cattrs.gen import make_dict_structure_fn, make_mapping_structure_fn

from goplugins.config.field_types import ExpandedText, kind_of, rule_for
from goplugins.config.problems import Path, Problem, path_text, raise_for
from goplugins.config.schema import as_mapping, fields_of
from goplugins.config.suggestions import not_a_table, unknown_field_fix
from goplugins.enums import AuthMethod, LoadBalancingStrategy, ReloadStrategy, TransportType
from goplugins.errors import ConfigError, InvalidConfigError

T = TypeVar("T")
_Hook = Callable[[Any, Any], Any]
_FieldHook = Callable[..., tuple[Mapping[str, Any], list[ConfigError]]]


def structure(cls: type[T], value: object, *, source: str) -> T:
    """Reads one configuration class from plain values.

    Raises:
        ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
    """
    result, problems = read(cls, value)
    raise_for(problems, source)
    assert result is not None  # noqa: S101 - no result without problems
    return result


def read(cls: type[T], value: object, *, text: bool = True) -> tuple[T | None, list[Problem]]:
    """Returns the instance, or None and the problems with their paths.

    Args:
        cls: the configuration class.
        value: plain values, or an instance.
        text: the values come from a file, where a text such as "30s" is a duration.
    """
    try:
        return _converter(text).structure(value, cls), []
    except (ConfigError, ExceptionGroup) as exc:
        return None, list(_problems(exc, ()))


def type_problems(config: object) -> list[Problem]:
    """Problems in the fields of an instance: the constructors of configuration classes check nothing."""
    return read(type(config), config, text=False)[1]


def read_without(cls: type[T], values: Any, wrong: Sequence[Path]) -> T | None:
    """Reads ``values`` without the fields at the paths ``wrong``; None if nothing is left to read."""
    return read(cls, _without(values, wrong))[0]


def check_types(config: object, *, source: str = "configuration") -> None:
    """Raises for what :func:`type_problems` finds."""
    raise_for(type_problems(config), source)


@functools.cache
def _converter(text: bool) -> Converter:
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)

    def is_single(kind: Any) -> bool:
        return rule_for(kind) is not None

    def single(kind: Any) -> _Hook:
        rule = rule_for(kind)
        assert rule is not None  # noqa: S101 - is_single() said so
        return lambda value, _: rule.read(value, text=text)

    # The hook that was registered last is tried first.
    converter.register_structure_hook_factory(attrs.has, lambda cls: _class_hook(cls, converter, text))
    converter.register_structure_hook_factory(_is_list, lambda kind: _list_hook(kind, converter))
    converter.register_structure_hook_factory(_is_table, lambda kind: _table_hook(kind, converter))
    converter.register_structure_hook_factory(_is_optional, lambda kind: _optional_hook(kind, converter))
    converter.register_structure_hook_func(lambda kind: kind is Any, lambda value, _: _without_marks(value))
    converter.register_structure_hook_factory(is_single, single)
    # cattrs has hooks of its own for these types, which take precedence over all predicates.
    for kind in (bool, int, float, str, AuthMethod, TransportType, LoadBalancingStrategy, ReloadStrategy):
        converter.register_structure_hook(kind, single(kind))
    return converter


def _is_list(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is tuple


def _is_table(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Mapping


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) in {Union, UnionType} and len(get_args(kind)) == 2 and type(None) in get_args(kind)


def _optional_hook(kind: Any, converter: Converter) -> _Hook:
    """As in cattrs, but the hook of the inner type is looked up once and not for every value."""
    (inner,) = (part for part in get_args(kind) if part is not type(None))
    hook = converter.get_structure_hook(inner)
    return lambda value, _: None if value is None else hook(value, inner)


def _class_hook(cls: type[Any], converter: Converter, text: bool) -> _Hook:
    build = make_dict_structure_fn(cls, converter)
    fields_of_value = _field_reader(cls, text)
    read_fields: _FieldHook | None = getattr(cls, "_read_fields", None)
    if read_fields is None:
        return lambda value, _: build(fields_of_value(value), cls)

    def hook(value: Any, _: Any) -> Any:
        fields, errors = read_fields(fields_of_value(value), text=text)
        try:
            instance = build(fields, cls)
        except ClassValidationError as exc:
            raise ExceptionGroup(cls.__name__, [*errors, exc]) from None
        if errors:
            raise ExceptionGroup(cls.__name__, errors)
        return instance

    return hook


def _field_reader(cls: type[Any], text: bool) -> Callable[[Any], Mapping[str, Any]]:
    """A function that returns the fields of a value: of an instance of ``cls``, or of a table for one."""
    # null, or a key without a value in YAML, means "left out", except in fields whose value may be null.
    optional = {field.name for field in fields_of(cls) if field.kind is not Any}
    short_form: str | None = getattr(cls, "_short_form", None)

    def fields(value: Any) -> Mapping[str, Any]:
        if type(value) is not dict:
            if isinstance(value, cls):
                return as_mapping(value)
            if isinstance(value, str) and short_form is not None:
                return {short_form: value}
        if not text or not isinstance(value, Mapping):
            raise _not_a_table(value, cls, text)
        if None in value.values():
            return {k: v for k, v in value.items() if v is not None or k not in optional}
        return value

    return fields


def _not_a_table(value: Any, cls: type[Any], text: bool) -> InvalidConfigError:
    if text:
        message, fix = not_a_table(value, cls)
        return InvalidConfigError(message, fix=fix)
    fix = f"create it by {cls.__name__}(...), or read the whole configuration by from_mapping"
    return InvalidConfigError(f"expected a {cls.__name__}, got {kind_of(value)}", fix=fix)


def _list_hook(kind: Any, converter: Converter) -> _Hook:
    item = get_args(kind)[0]
    listed: Any = GenericAlias(list, (item,))
    build = list_structure_factory(listed, converter)

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            fix = "put the value in a list" if isinstance(value, str) else "write a list"
            raise InvalidConfigError(f"expected a list, got {kind_of(value)}", fix=fix)
        return tuple(build(value, listed))

    return hook


def _table_hook(kind: Any, converter: Converter) -> _Hook:
    build = make_mapping_structure_fn(kind, converter, dict)

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise InvalidConfigError(f"expected a table, got {kind_of(value)}", fix="write a table of names and values")
        return build(value, kind)

    return hook


def _without_marks(value: Any) -> Any:
    """A value of any type, with plain strings in place of :class:`ExpandedText`, at any depth."""
    if isinstance(value, ExpandedText):
        return str(value)
    if type(value) is dict:
        return {key: _without_marks(item) for key, item in value.items()}
    if type(value) is list:
        return [_without_marks(item) for item in value]
    return value


def _problems(exc: BaseException, path: Path) -> Iterator[Problem]:
    """The single errors in a cattrs error, each as a problem with its path."""
    if isinstance(exc, ClassValidationError | IterableValidationError):
        placed, rest = exc.group_exceptions()
        for inner, note in placed:
            step = note.name if isinstance(note, AttributeValidationNote) else note.index
            yield from _problems(inner, (*path, step))
        for inner in rest:
            yield from _problems(inner, path)
    elif isinstance(exc, ExceptionGroup):
        for inner in exc.exceptions:
            yield from _problems(inner, path)
    else:
        yield from _leaf(exc, path)


def _leaf(exc: BaseException, path: Path) -> Iterator[Problem]:
    if isinstance(exc, ForbiddenExtraKeysError):
        for name in sorted(exc.extra_fields, key=str):
            yield _unknown(name, exc.cl, path)
    elif isinstance(exc, ConfigError):
        where = (*path, *exc.path.split(".", 1)) if exc.path else path  # read_options() sets "options.<name>"
        yield where, type(exc)(exc.message, path=path_text(where), fix=exc.fix)
    else:
        raise exc


def _unknown(name: Any, cls: type[Any], path: Path) -> Problem:
    where = (*path, name if isinstance(name, str | int) else str(name))
    return where, InvalidConfigError("unknown field", path=path_text(where), fix=unknown_field_fix(str(name), cls))


# --- values without some fields ------------------------------------------------------------------------------------


def _without(values: Any, paths: Sequence[Path]) -> Any:
    """The values without the fields at ``paths``. A list with a wrong item is removed: indexes must stay."""
    if not isinstance(values, Mapping) or () in paths:
        return {}
    result = dict(values)
    for name, below in _by_first(paths).items():
        value = values.get(cast(str, name))
        kept = None if () in below else _without_below(value, below)
        if kept is None:
            result.pop(cast(str, name), None)
        else:
            result[cast(str, name)] = kept
    return result


def _without_below(value: Any, paths: Sequence[Path]) -> Any:
    if isinstance(value, Mapping):
        return _without(value, paths)
    if not isinstance(value, list) or any(len(path) < 2 for path in paths):
        return None
    result = list(value)
    for index, below in _by_first(paths).items():
        if not isinstance(index, int) or not isinstance(value[index], Mapping):
            return None
        result[index] = _without(value[index], below)
    return result


def _by_first(paths: Sequence[Path]) -> dict[str | int, list[Path]]:
    result: dict[str | int, list[Path]] = {}
    for first, *rest in paths:
        result.setdefault(first, []).append(tuple(rest))
    return result
