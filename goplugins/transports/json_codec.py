"""Typed values to JSON and back with cattrs, built once for each type and shared.

Stricter than cattrs alone: ``"false"`` is not a bool, ``"3"`` is not an integer and ``"abc"`` is not a list of strings:
the reply ``{"valid": "false"}`` of a login service must not be decoded as True. As in Go's encoding/json, bytes are
base64 and times RFC 3339. A datetime is encoded only with an offset: without one its meaning depends on the reader, and
Go rejects it. A reply's datetime without an offset stays naive.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Literal,
    NotRequired,
    Required,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import attrs
from cattrs import StructureHandlerNotFoundError
from cattrs.cols import is_namedtuple

from goplugins.errors import (
    InvalidArgumentError,
    PluginClosedError,
    ReplyTypeError,
    UnserializableRequestError,
)
from goplugins.runtime.call import Codec
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.text import cut
from goplugins.transports.conversion_limits import STEP, error_of, limits, new_state
from goplugins.transports.json_converter import MAX_TEXT, explain_mismatch, identity, json_converter
from goplugins.transports.protobuf_codec import ProtobufJSONCodec, is_message_type
from goplugins.transports.typed_values import PROMOTED, TypedValues, class_of


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
    parts = get_args(kind)
    for part in parts[:1] if origin is Annotated else parts:  # the others are not types
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
    elif is_typeddict(cls):
        _mark_keys(cls, hints)
    else:
        cls.__annotations__.update({name: hints[name] for name in cls.__annotations__})
    return list(hints.values())


def _mark_keys(cls: Any, hints: Mapping[str, Any]) -> None:
    """Sets which keys a TypedDict requires: where its annotations are texts, Python has not seen their markers."""
    required = {name for name, hint in hints.items() if get_origin(hint) is Required}
    optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    cls.__required_keys__ = frozenset((cls.__required_keys__ | required) - optional)
    cls.__optional_keys__ = frozenset((cls.__optional_keys__ | optional) - required)


def structurer_for(target: Any) -> Callable[[Any, Deadline | None], Any]:
    """A function that turns parsed JSON into ``target``, until a deadline.

    :func:`~goplugins.transports.conversion_limits.error_of` gives the meaning of what it raises.
    """
    hook, target = _structure_hook(target)

    def structure(data: Any, deadline: Deadline | None) -> Any:
        limits.state = new_state(deadline)
        return hook(data, target)

    return structure


def _structure_hook(target: Any) -> tuple[Callable[[Any, Any], Any], Any]:
    """The function that turns parsed JSON into ``target``, and its second argument."""
    if target is Any or target is object:
        return identity, target
    if target is None:
        target = type(None)
    _resolve_references(target, set())
    try:
        return json_converter().get_structure_hook(target), target
    except StructureHandlerNotFoundError as exc:
        raise InvalidArgumentError(
            f"{_name(target)} can't be decoded from JSON: {exc}. Use attrs classes, dataclasses, TypedDicts or builtins"
        ) from exc
    except TypeError as exc:
        if "disambiguate" not in str(exc):
            raise
        fix = "give each class a field of its own that has no default, or a literal of its own"
        raise InvalidArgumentError(f"{_name(target)} can't be decoded from JSON: {exc}: {fix}") from exc


def _unstructurer_for(source: Any) -> Callable[[Any], Any]:
    if source is Any or source is object:
        return json_converter().unstructure
    try:
        return json_converter().get_unstructure_hook(source)
    except NameError as exc:
        raise InvalidArgumentError(f"{_name(source)} can't be written as JSON: {exc}: import it at run time") from exc
    except RecursionError as exc:  # of named tuples; classes may
        raise InvalidArgumentError(f"{_name(source)} can't be written as JSON: it contains itself") from exc


def _plainer(value: Any) -> Any:
    """A plain value for one without a JSON form, if cattrs can convert it.

    Raises:
        TypeError: cattrs returned the value unchanged, which would recurse without end.
    """
    plain = json_converter().unstructure(value)
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
            raise UnserializableRequestError(
                f"the request can't be written as JSON: {cut(str(exc), MAX_TEXT)}"
            ) from exc

    def decode(self, data: Any, deadline: Deadline | None = None) -> Any:
        limits.state = [STEP, 0, False, deadline]  # new_state(), without a call
        try:
            return self._structure(data, self._target)
        except Exception as exc:  # noqa: BLE001 - raised below
            failure = exc
        try:  # not within the except block: an exception of the host keeps its own context
            raise error_of(failure) or self._mismatch(failure, data)
        finally:
            del failure  # its traceback holds this frame: no work for the collector

    def _mismatch(self, exc: Exception, data: Any) -> ReplyTypeError:
        wanted = _with_article(_name(self.response_type))
        error = ReplyTypeError(f"the reply is not {wanted}: {explain_mismatch(exc, data)}")
        error.__cause__ = exc
        return error


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
        read_request=lambda data: structurer_for(kind)(data, None),
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
