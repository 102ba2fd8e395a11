"""The converter between plain JSON values and typed ones, and the explanation of what does not fit.

Built on cattrs, and stricter: see :mod:`goplugins.transports.json_codec`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import decimal
import enum
import functools
import uuid
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence, Set as AbstractSet
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import attrs
from cattrs import (
    BaseValidationError,
    Converter,
    IterableValidationError,
    IterableValidationNote,
    transform_error,
)
from cattrs.cols import is_namedtuple, namedtuple_structure_factory
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.json import make_converter
from cattrs.v import format_exception

from goplugins.json_text import shown_key
from goplugins.models.file import File
from goplugins.models.json_fields import fields_in_json
from goplugins.runtime.text import cut
from goplugins.transports.conversion_limits import (
    MAX_FAULTS,
    STEP,
    EnoughError,
    add_fault,
    check,
    count,
    counted,
    limits,
)
from goplugins.transports.json_unions import is_mixed_union, mixed_union_factory


class _MismatchError(TypeError):
    """A value of another kind; the message names both kinds, where cattrs names only the field's type."""

    def __init__(self, expected: str, value: Any) -> None:
        super().__init__(f"expected {expected}, got {_KINDS.get(type(value), type(value).__name__)}")


_KINDS = {
    bool: "a boolean",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a string",
    type(None): "null",
}


def _strict(kind: type, name: str, accepted: tuple[type, ...] | None = None) -> Callable[[Any, Any], Any]:
    types = accepted or (kind,)

    def structure(value: Any, target: Any) -> Any:
        if type(value) not in types:
            raise _MismatchError(name, value)
        return value if type(value) is target else target(value)  # the target may be a subclass, such as an IntEnum

    return structure


def _from_null(value: Any, _: Any) -> None:
    if value is not None:
        raise _MismatchError("null", value)


def _from_base64(value: Any, _: Any) -> bytes:
    if not isinstance(value, str):
        raise _MismatchError("a base64 string", value)
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as exc:
        raise ValueError(f"expected base64: {exc}") from exc


def _from_text(kind: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, str):
            raise _MismatchError(f"a string with a {kind.__name__}", value)
        return kind(value)

    return structure


def _no_json(_: File) -> NoReturn:
    raise ValueError("a File has no JSON form: it is for REST operations with body: multipart or raw")


def _to_rfc3339(value: datetime.datetime) -> str:
    if value.utcoffset() is None:
        raise ValueError("a datetime has no time zone: give it one, as datetime.now(UTC) or value.astimezone() do")
    return value.isoformat()


_CONTAINERS: dict[Any, Callable[[list[Any]], Any]] = {
    list: list,
    Sequence: list,
    MutableSequence: list,
    set: set,
    AbstractSet: frozenset,
    frozenset: frozenset,
    tuple: tuple,
}


def _is_collection(target: Any) -> bool:
    origin = get_origin(target) or target
    return not _is_fixed_tuple(target) and isinstance(origin, type) and origin in _CONTAINERS


def _collection_factory(target: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Like cattrs' own, but only a JSON array will do: cattrs takes any iterable, a string included."""
    arguments = get_args(target)
    element = arguments[0] if arguments else Any
    hook = _hook_of(element, converter)
    build = _CONTAINERS[get_origin(target) or target]

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise _MismatchError("a list", value)
        count(len(value) if len(value) < STEP else 1)
        found: list[Any] = []
        faults: list[Exception] = []
        for item in value if len(value) < STEP else counted(value):
            try:
                found.append(hook(item, element))
            except Exception as exc:  # noqa: BLE001 - raised below, in a group
                faults.append(_at(exc, len(found) + len(faults), element))
                if add_fault():
                    break
        if faults:
            raise IterableValidationError("While structuring a list", faults, target)  # pyright: ignore[reportCallIssue]
        return found if build is list else build(found)

    return structure


def _table_factory(target: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """As :func:`_collection_factory`, for JSON objects whose keys are data."""
    key_type, item_type = get_args(target) or (Any, Any)
    key_hook, hook = _hook_of(key_type, converter), _hook_of(item_type, converter)

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not dict:
            raise _MismatchError("an object", value)
        count(len(value) if len(value) < STEP else 1)
        found: dict[Any, Any] = {}
        faults: list[Exception] = []
        for key, item in value.items() if len(value) < STEP else counted(value.items()):
            try:
                found[key_hook(key, key_type)] = hook(item, item_type)
            except Exception as exc:  # noqa: BLE001 - raised below, in a group
                faults.append(_at(exc, shown_key(key), item_type))
                if add_fault():
                    break
        if faults:
            raise IterableValidationError("While structuring an object", faults, target)  # pyright: ignore[reportCallIssue]
        return found

    return structure


def _hook_of(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """The hook for the elements of a container."""
    if kind is Any:
        return identity
    hook: Callable[[Any, Any], Any] = converter.structure
    return hook if isinstance(kind, TypeVar) else converter.get_structure_hook(kind)


def _at(exc: Exception, index: int | str, kind: Any) -> Exception:
    """The exception, with its place for :func:`explain_mismatch`."""
    exc.add_note(IterableValidationNote("", index, kind))
    return exc


def _is_fixed_tuple(target: Any) -> bool:
    arguments = get_args(target)
    return get_origin(target) is tuple and bool(arguments) and arguments[-1] is not Ellipsis


def _is_class(target: Any) -> bool:
    origin = get_origin(target) or target
    return isinstance(origin, type) and (attrs.has(origin) or dataclasses.is_dataclass(origin))


def _is_literal(target: Any) -> bool:
    return get_origin(target) is Literal


def _literal_factory(target: Any) -> Callable[[Any, Any], Any]:
    """Like cattrs' own, but true is not 1: Python takes both for equal."""
    members = {_plain_key(each): each for each in get_args(target)}

    def structure(value: Any, _: Any) -> Any:
        try:
            return members[type(value), value]
        except (KeyError, TypeError):  # the latter for a list or a table
            raise ValueError(f"{value} not in literal {target}") from None

    return structure


def _plain_key(member: Any) -> tuple[type, Any]:
    value = member.value if isinstance(member, enum.Enum) else member
    return type(value), value


def _is_renamed(target: Any) -> bool:
    """Whether :func:`goplugins.json_fields` says something of a class."""
    return _is_class(target) and fields_in_json(get_origin(target) or target) is not None


def _class_hook(target: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    if not _is_renamed(target):
        return converter.gen_structure_attrs_fromdict(target)
    return make_dict_structure_fn(
        target, converter, _cattrs_detailed_validation=converter.detailed_validation, **_overrides(target)
    )


def _write_renamed(target: Any, converter: Converter) -> Callable[[Any], dict[str, Any]]:
    return make_dict_unstructure_fn(target, converter, **_overrides(target))


def _overrides(target: Any) -> dict[str, Any]:
    """Names and defaults of the fields as cattrs takes them."""
    cls = get_origin(target) or target
    marked = fields_in_json(cls)
    assert marked is not None  # noqa: S101 - for mypy: _is_renamed() is true
    fields = attrs.fields(attrs.resolve_types(cls, include_extras=True)) if attrs.has(cls) else dataclasses.fields(cls)
    return {
        field.name: override(rename=marked.names.get(field.name), omit_if_default=field.name in marked.omit_none)
        for field in fields
    }


def _is_table(target: Any) -> bool:
    return (get_origin(target) or target) in (dict, Mapping, MutableMapping)


def _only(kind: type, name: str, make: Callable[[Any], Any]) -> Callable[[Any], Callable[[Any, Any], Any]]:
    """A hook factory whose hooks take JSON values of one kind.

    cattrs' own would read an empty list, or "", as an object without fields, and make a class of its defaults.
    """

    def factory(target: Any) -> Callable[[Any, Any], Any]:
        build = make(target)

        def structure(value: Any, target: Any) -> Any:
            if type(value) is not kind:
                raise _MismatchError(name, value)
            state = limits.state
            state[0] -= 1
            if state[0] < 0:
                check(state)
            try:
                return build(value, target)
            except Exception:
                add_fault()
                raise

        structure.overrides = getattr(build, "overrides", {})  # type: ignore[attr-defined]  # names, for cattrs' unions
        return structure

    return factory


@functools.cache
def json_converter() -> Converter:
    converter = make_converter()
    converter.register_unstructure_hook(File, _no_json)
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode("ascii"))
    converter.register_structure_hook(bytes, _from_base64)
    converter.register_structure_hook(bool, _strict(bool, "a boolean"))
    converter.register_structure_hook(int, _strict(int, "an integer"))
    converter.register_structure_hook(float, _strict(float, "a number", (float, int)))
    converter.register_structure_hook(str, _strict(str, "a string"))
    converter.register_structure_hook(type(None), _from_null)
    converter.register_unstructure_hook(datetime.datetime, _to_rfc3339)
    for text in (uuid.UUID, decimal.Decimal):
        converter.register_unstructure_hook(text, str)
        converter.register_structure_hook(text, _from_text(text))
    converter.register_structure_hook_factory(_is_collection, _collection_factory)
    converter.register_structure_hook_factory(_is_table, _table_factory)
    converter.register_structure_hook_factory(_is_literal, _literal_factory)
    converter.register_structure_hook_factory(is_mixed_union, lambda target: mixed_union_factory(target, converter))
    converter.register_unstructure_hook_factory(_is_renamed, lambda target: _write_renamed(target, converter))
    for is_one, kind, name, make in (
        (_is_class, dict, "an object", lambda target: _class_hook(target, converter)),
        (_is_fixed_tuple, list, "a list", lambda _: converter._structure_tuple),
        (is_namedtuple, list, "a list", lambda target: namedtuple_structure_factory(target, converter)),
    ):
        converter.register_structure_hook_factory(is_one, _only(kind, name, make))
    return converter


def identity(value: Any, _: Any) -> Any:
    return value


MAX_TEXT = 2000
"""Characters of the faults in an error."""

_ENDED = "ended"
_MORE = "; there may be further faults"


def _explain(exc: BaseException, kind: type | None) -> str:
    if isinstance(exc, EnoughError):
        return _ENDED
    return str(exc) if isinstance(exc, _MismatchError) else format_exception(exc, kind)


def explain_mismatch(exc: Exception, data: Any) -> str:
    """The text of an exception that decoding ``data`` raised, with the path of each field."""
    if isinstance(exc, BaseValidationError):
        found = [text for text in transform_error(exc, "data", _explain) if not text.startswith(_ENDED)]
        text = "; ".join(found[:MAX_FAULTS])
        return cut(text, MAX_TEXT) + (_MORE if len(found) >= MAX_FAULTS or len(text) > MAX_TEXT else "")
    if data is None:
        return "data is missing or null"
    if isinstance(exc, _MismatchError):
        return f"{exc} @ data"
    return f"{exc} @ data (a JSON {type(data).__name__})"
