"""Plain values to configuration classes: cattrs does the walking, the rules in the annotations judge each value."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import GenericAlias, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

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
from goplugins.config.manager import ManagerConfig
from goplugins.config.manager_sections import LoadBalancerMember
from goplugins.config.plugin import PluginConfig
from goplugins.config.problems import Path, Problem, path_text, raise_for
from goplugins.config.schema import as_mapping, fields_of
from goplugins.config.suggestions import short_form_fix, unknown_field_fix
from goplugins.config.transport_options import read_options
from goplugins.enums import AuthMethod, LoadBalancingStrategy, ReloadStrategy, TransportType
from goplugins.errors import ConfigError, InvalidConfigError

__all__ = ["check_types", "read", "structure", "type_problems"]

T = TypeVar("T")
_Hook = Callable[[Any, Any], Any]


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
    """The instance, or else the problems, with their paths.

    Args:
        text: values come from a file: text such as "30s" is a duration there.
    """
    try:
        return _converter(text).structure(value, cls), []
    except (ConfigError, ExceptionGroup) as exc:
        return None, list(_problems(exc, ()))


def type_problems(config: object) -> list[Problem]:
    """What is wrong with the fields of an instance made in code, where nothing was checked."""
    return read(type(config), config, text=False)[1]


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

    # The hook registered last is asked first.
    converter.register_structure_hook_factory(attrs.has, lambda cls: _class_hook(cls, converter, text))
    converter.register_structure_hook_factory(_is_list, lambda kind: _list_hook(kind, converter))
    converter.register_structure_hook_factory(_is_table, lambda kind: _table_hook(kind, converter))
    converter.register_structure_hook_factory(_is_optional, lambda kind: _optional_hook(kind, converter))
    converter.register_structure_hook_func(lambda kind: kind is Any, lambda value, _: _without_marks(value))
    converter.register_structure_hook_factory(is_single, single)
    converter.register_structure_hook_factory(
        lambda kind: kind is PluginConfig, lambda _: _plugin_hook(converter, text)
    )
    # cattrs has hooks of its own for these very types, which it asks before any predicate.
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
    """As cattrs does it, but looked up once and not for every value."""
    (inner,) = (part for part in get_args(kind) if part is not type(None))
    hook = converter.get_structure_hook(inner)
    return lambda value, _: None if value is None else hook(value, inner)


def _class_hook(cls: type[Any], converter: Converter, text: bool) -> _Hook:
    build = make_dict_structure_fn(cls, converter)
    fields = _field_reader(cls, text)
    return lambda value, _: build(fields(value), cls)


def _plugin_hook(converter: Converter, text: bool) -> _Hook:
    build = make_dict_structure_fn(PluginConfig, converter)
    read_fields = _field_reader(PluginConfig, text)

    def hook(value: Any, _: Any) -> Any:
        fields = read_fields(value)
        errors: list[ConfigError] = []
        if "options" in fields:
            fields, errors = read_options(fields, text=text)
        try:
            plugin = build(fields, PluginConfig)
        except ClassValidationError as exc:
            raise ExceptionGroup("plugin", [*errors, exc]) from None
        if errors:
            raise ExceptionGroup("plugin", errors)
        return plugin

    return hook


def _field_reader(cls: type[Any], text: bool) -> Callable[[Any], Mapping[str, Any]]:
    """Makes the function that takes a value of ``cls``, or a table for one, apart into its fields."""
    # null, and a key without a value in YAML, mean "left out" in every field whose value can't itself be null.
    optional = {field.name for field in fields_of(cls) if field.kind is not Any}

    def fields(value: Any) -> Mapping[str, Any]:
        if type(value) is not dict:
            if isinstance(value, cls):
                return as_mapping(value)
            if isinstance(value, str) and cls is LoadBalancerMember:
                return {"name": value}
        if not text or not isinstance(value, Mapping):
            raise _no_table(value, cls, text)
        if None in value.values():
            return {k: v for k, v in value.items() if v is not None or k not in optional}
        return value

    return fields


def _no_table(value: Any, cls: type[Any], text: bool) -> InvalidConfigError:
    if not text:
        fix = f"make it with {cls.__name__}(...), or read all of it by from_mapping"
        return InvalidConfigError(f"expected a {cls.__name__}, got {kind_of(value)}", fix=fix)
    if cls is ManagerConfig and value is None:
        return InvalidConfigError("is empty", fix="write plugins: and the list of plugins below it")
    if cls is ManagerConfig and isinstance(value, list | tuple):
        return InvalidConfigError("expected a table, got a list", fix="put it under plugins:")
    return InvalidConfigError(f"expected a table, got {kind_of(value)}", fix=short_form_fix(value, cls))


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
    """A free value with plain strings for expanded ones, at any depth."""
    if isinstance(value, ExpandedText):
        return str(value)
    if type(value) is dict:
        return {key: _without_marks(item) for key, item in value.items()}
    if type(value) is list:
        return [_without_marks(item) for item in value]
    return value


def _problems(exc: BaseException, path: Path) -> Iterator[Problem]:
    """The leaves of a cattrs error, each as a problem with its path."""
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
