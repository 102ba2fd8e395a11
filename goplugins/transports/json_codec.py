"""Typed values to JSON and back with cattrs, built once for each type and shared.

Stricter than cattrs alone: ``"false"`` is not a bool, ``"3"`` is not an integer and ``"abc"`` is not a list of strings:
the reply ``{"valid": "false"}`` of a login service must not be decoded as True. As in Go's encoding/json, bytes are
base64 and times RFC 3339. A datetime is encoded only with an offset: without one its meaning depends on the reader, and
Go rejects it. A reply's datetime without an offset stays naive.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import decimal
import functools
import json
import sys
import uuid
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence, Set as AbstractSet
from typing import Any, ForwardRef, Literal, get_args, get_origin, get_type_hints, is_typeddict

import attrs
from cattrs import BaseValidationError, Converter, StructureHandlerNotFoundError, transform_error
from cattrs.cols import is_namedtuple, list_structure_factory, namedtuple_structure_factory
from cattrs.gen import make_mapping_structure_fn
from cattrs.preconf.json import make_converter
from cattrs.v import format_exception

from goplugins.errors import InvalidArgumentError, PluginClosedError, ReplyTypeError, UnserializableRequestError
from goplugins.runtime.call import Codec
from goplugins.transports.protobuf_codec import ProtobufJSONCodec, is_message_type
from goplugins.transports.typed_values import PROMOTED, TypedValues, class_of


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
    inner = list_structure_factory(list[element], converter)  # type: ignore[valid-type]
    build = _CONTAINERS[get_origin(target) or target]

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise _MismatchError("a list", value)
        return build(inner(value, list[element]))  # type: ignore[valid-type]

    return structure


def _is_fixed_tuple(target: Any) -> bool:
    arguments = get_args(target)
    return get_origin(target) is tuple and bool(arguments) and arguments[-1] is not Ellipsis


def _is_class(target: Any) -> bool:
    origin = get_origin(target) or target
    return isinstance(origin, type) and (attrs.has(origin) or dataclasses.is_dataclass(origin))


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
            return build(value, target)

        return structure

    return factory


@functools.cache
def _converter() -> Converter:
    converter = make_converter()
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
    for is_one, kind, name, make in (
        (_is_class, dict, "an object", converter.gen_structure_attrs_fromdict),
        (_is_table, dict, "an object", lambda target: make_mapping_structure_fn(target, converter, dict)),
        (_is_fixed_tuple, list, "a list", lambda _: converter._structure_tuple),
        (is_namedtuple, list, "a list", lambda target: namedtuple_structure_factory(target, converter)),
    ):
        converter.register_structure_hook_factory(is_one, _only(kind, name, make))
    return converter


def _resolve_references(kind: Any, seen: set[Any]) -> None:
    """Replaces names by classes in the annotations of ``kind`` and of the types in its fields.

    cattrs does so for an annotation that is a text as a whole; it would resolve the name within ``Optional["Node"]``
    only when there is data for it.

    Raises:
        InvalidArgumentError: a name that is not defined at run time.
    """
    if isinstance(kind, str | ForwardRef):
        raise InvalidArgumentError(f"{kind!r} is only a name: pass the class itself")
    origin = get_origin(kind) or kind
    if origin is Literal:
        return
    for part in get_args(kind):
        _resolve_references(part, seen)
    if not isinstance(origin, type) or origin in seen:
        return
    seen.add(origin)
    for hint in _resolved_hints(origin):
        _resolve_references(hint, seen)


def _resolved_hints(cls: type) -> list[Any]:
    """The annotations of a class's fields, with names replaced by classes in the class itself."""
    typed = attrs.has(cls) or dataclasses.is_dataclass(cls) or is_typeddict(cls) or is_namedtuple(cls)
    if not typed:
        return []
    try:
        if attrs.has(cls):
            attrs.resolve_types(cls, include_extras=True)
            return [field.type for field in attrs.fields(cls)]
        hints = get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as exc:
        fix = "import the types of its annotations at run time, and define them at the top level of a module"
        raise InvalidArgumentError(f"{_name(cls)} can't be decoded from JSON: {exc}: {fix}") from exc
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            field.type = hints[field.name]
    elif not is_typeddict(cls):
        cls.__annotations__.update({name: hints[name] for name in cls.__annotations__})
    return list(hints.values())


def structurer_for(target: Any) -> Callable[[Any], Any]:
    """A function that turns parsed JSON into ``target``; :func:`explain_mismatch` explains what it raises."""
    hook, target = _structure_hook(target)
    return lambda data: hook(data, target)


def _structure_hook(target: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    """The function that turns parsed JSON into ``target``, and its second argument."""
    if target is Any or target is object:
        return _identity, target
    if target is None:
        target = type(None)
    _resolve_references(target, set())
    try:
        return _converter().get_structure_hook(target), target
    except StructureHandlerNotFoundError as exc:
        raise InvalidArgumentError(
            f"{_name(target)} can't be decoded from JSON: {exc}. Use attrs classes, dataclasses, TypedDicts or builtins"
        ) from exc


def _identity(value: Any, _: Any) -> Any:
    return value


def _unstructurer_for(source: Any) -> Callable[[Any], Any]:
    if source is Any or source is object:
        return _converter().unstructure
    try:
        return _converter().get_unstructure_hook(source)
    except NameError as exc:
        raise InvalidArgumentError(f"{_name(source)} can't be written as JSON: {exc}: import it at run time") from exc
    except RecursionError as exc:  # of named tuples; classes may
        raise InvalidArgumentError(f"{_name(source)} can't be written as JSON: it contains itself") from exc


def _plainer(value: Any) -> Any:
    """A plain value for one without a JSON form, if cattrs can convert it.

    Raises:
        TypeError: cattrs returned the value unchanged, which would recurse without end.
    """
    plain = _converter().unstructure(value)
    if plain is value:
        raise TypeError(f"a {type(value).__name__} has no JSON form")
    return plain


_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plainer)


def _json_writer() -> Callable[[Any, int], Sequence[str]]:
    """``_encoder.encode`` without its set-up for each value, which takes longer than encoding a small one."""
    make = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    if make is None:  # an interpreter without it
        return lambda value, _: (_encoder.encode(value),)
    # Markers for circular values (None: the recursion limit applies), default, strings, indent, separators, sort_keys,
    # skipkeys, allow_nan.
    chunks: Callable[[Any, int], Sequence[str]] = make(
        None, _plainer, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
    )
    return chunks


_json_chunks = _json_writer()


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)


def _accepted(kind: Any) -> tuple[type, ...]:
    """Classes for isinstance() checks of a request of type ``kind``; ``object`` if it can't be checked."""
    if kind is None:
        return (type(None),)
    if kind is Any or not isinstance(kind, type) or is_typeddict(kind) or getattr(kind, "_is_protocol", False):
        return (object,)
    return PROMOTED.get(kind, (kind,))


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiouAEIO" else f"a {name}"


def _another_type(expected: Any, request: Any) -> UnserializableRequestError:
    wanted, got = _name(expected), type(request).__name__
    if wanted == got:
        wanted, got = (f"{kind.__module__}.{kind.__qualname__}" for kind in (expected, type(request)))
    wanted, got = _with_article(wanted), _with_article(got)
    return UnserializableRequestError(f"the request has the wrong type: expected {wanted}, got {got}")


def _explain(exc: BaseException, kind: type | None) -> str:
    return str(exc) if isinstance(exc, _MismatchError) else format_exception(exc, kind)


def explain_mismatch(exc: Exception, data: Any) -> str:
    """The text of an exception that decoding ``data`` raised, with the path of each field."""
    if isinstance(exc, BaseValidationError):
        return "; ".join(transform_error(exc, "data", _explain))
    if data is None:
        return "data is missing or null"
    if isinstance(exc, _MismatchError):
        return f"{exc} @ data"
    return f"{exc} @ data (a JSON {type(data).__name__})"


class JSONCodec:
    """Encodes requests of one type and decodes responses of another.

    >>> JSONCodec(int, list[str]).encode(7)
    b'7'
    >>> JSONCodec(int, list[str]).decode(["a"])
    ['a']
    """

    __slots__ = (
        "_accepted",
        "_class",
        "_structure",
        "_target",
        "_unstructure",
        "answer_class",
        "request_class",
        "request_type",
        "response_type",
        "typed",
    )

    def __init__(self, request_type: Any = Any, response_type: Any = Any) -> None:
        self.request_type = request_type
        self.response_type = response_type
        self._accepted = _accepted(request_type)
        self._class = self._accepted[0]
        self._unstructure = _unstructurer_for(request_type)
        self._structure, self._target = _structure_hook(response_type)
        self.request_class, self.answer_class = class_of(request_type), class_of(response_type)
        self.typed = _typed(self)

    def encode(self, request: Any) -> bytes:
        # isinstance() and not only the class: subclasses are accepted, and proxies such as Django's lazy objects.
        if type(request) is not self._class and not isinstance(request, self._accepted):
            raise _another_type(self.request_type, request)
        try:
            return "".join(_json_chunks(self._unstructure(request), 0)).encode("ascii")
        except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as exc:
            raise UnserializableRequestError(f"the request can't be written as JSON: {exc}") from exc

    def decode(self, data: Any) -> Any:
        try:
            return self._structure(data, self._target)
        except Exception as exc:
            wanted = _with_article(_name(self.response_type))
            raise ReplyTypeError(f"the reply is not {wanted}: {explain_mismatch(exc, data)}") from exc


def _typed(codec: JSONCodec | ProtobufJSONCodec) -> TypedValues:
    return typed_values(codec, codec.encode)


def typed_values(codec: Codec, write_request: Callable[[Any], bytes]) -> TypedValues:
    """Admits values of a codec's types.

    Args:
        codec: has the types.
        write_request: writes a request that is no instance of its type as JSON, or refuses it.
    """
    kind = codec.request_type
    return TypedValues(
        kind,
        codec.response_type,
        write=lambda value: codec_for().encode(value),
        write_request=write_request,
        read_request=lambda data: structurer_for(kind)(data),  # noqa: PLW0108 - made when it is needed
        read_answer=codec.decode,
        explain=explain_mismatch,
    )


def _make(request_type: Any, response_type: Any) -> Codec:
    messages = is_message_type(request_type), is_message_type(response_type)
    codec = JSONCodec(Any if messages[0] else request_type, Any if messages[1] else response_type)
    if not any(messages):
        return codec
    of_messages = ProtobufJSONCodec(request_type, response_type, codec)
    of_messages.typed = _typed(of_messages)
    return of_messages


_cached = functools.lru_cache(maxsize=1024)(_make)


def codec_for(request_type: Any = Any, response_type: Any = Any) -> Codec:
    """The codec for a pair of types, made once and shared.

    Raises:
        InvalidArgumentError: a type that can't be encoded or decoded.
    """
    try:
        return _cached(request_type, response_type)
    except TypeError:  # a type form that is not hashable
        return _make(request_type, response_type)
    except ImportError as exc:
        if not sys.is_finalizing():
            raise
        raise PluginClosedError(
            "the interpreter is exiting, and can't import what the first call of a type needs"
        ) from exc
