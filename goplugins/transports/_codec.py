"""Typed values to JSON and back with cattrs, built once for each type and shared.

Stricter than cattrs alone: ``"false"`` is no bool, ``"3"`` is no integer and ``"abc"`` is no list of strings. A
login service whose answer says ``{"valid": "false"}`` must not come out as True. Like Go's encoding/json, bytes
travel as base64 and times as RFC 3339.
"""

from __future__ import annotations

import base64
import binascii
import decimal
import functools
import json
import uuid
from collections.abc import Callable, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, get_args, get_origin

from cattrs import BaseValidationError, Converter, StructureHandlerNotFoundError, transform_error
from cattrs.cols import list_structure_factory
from cattrs.preconf.json import make_converter

from goplugins.errors import InvalidArgumentError, ReplyTypeError, UnserializableRequestError

__all__ = ["JSONCodec", "codec_for", "explain_mismatch", "structurer_for"]


def _strict(kind: type, name: str, accepted: tuple[type, ...] | None = None) -> Callable[[Any, Any], Any]:
    types = accepted or (kind,)

    def structure(value: Any, target: Any) -> Any:
        if type(value) not in types:
            raise TypeError(f"expected {name}")
        return value if type(value) is target else target(value)  # the target may be a subclass, such as an IntEnum

    return structure


def _from_base64(value: Any, _: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("expected a base64 string")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error as exc:
        raise ValueError(f"expected base64: {exc}") from exc


def _from_text(kind: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, str):
            raise TypeError(f"expected a string with a {kind.__name__}")
        return kind(value)

    return structure


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
    if origin is tuple:
        arguments = get_args(target)
        return not arguments or arguments[-1] is Ellipsis
    return origin in _CONTAINERS if isinstance(origin, type) else False


def _collection_factory(target: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """Like cattrs' own, but only a JSON array will do: cattrs takes any iterable, a string included."""
    arguments = get_args(target)
    element = arguments[0] if arguments else Any
    inner = list_structure_factory(list[element], converter)  # type: ignore[valid-type]
    build = _CONTAINERS[get_origin(target) or target]

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise TypeError("expected a list")
        return build(inner(value, list[element]))  # type: ignore[valid-type]

    return structure


@functools.cache
def _converter() -> Converter:
    converter = make_converter()
    converter.register_unstructure_hook(bytes, lambda value: base64.b64encode(value).decode("ascii"))
    converter.register_structure_hook(bytes, _from_base64)
    converter.register_structure_hook(bool, _strict(bool, "a boolean"))
    converter.register_structure_hook(int, _strict(int, "an integer"))
    converter.register_structure_hook(float, _strict(float, "a number", (float, int)))
    converter.register_structure_hook(str, _strict(str, "a string"))
    for text in (uuid.UUID, decimal.Decimal):
        converter.register_unstructure_hook(text, str)
        converter.register_structure_hook(text, _from_text(text))
    converter.register_structure_hook_factory(_is_collection, _collection_factory)
    return converter


def structurer_for(target: Any) -> Callable[[Any], Any]:
    """A function that turns parsed JSON into ``target``; raises what :func:`cattrs.transform_error` explains."""
    if target is Any or target is object:
        return _identity
    if target is type(None):
        target = None  # as annotations mean it
    try:
        hook = _converter().get_structure_hook(target)
    except StructureHandlerNotFoundError as exc:
        raise InvalidArgumentError(
            f"{_name(target)} can't be made from JSON: {exc}. Use attrs classes, dataclasses, TypedDicts or builtins"
        ) from exc
    return lambda data: hook(data, target)


def _identity(value: Any) -> Any:
    return value


def _unstructurer_for(source: Any) -> Callable[[Any], Any]:
    if source is Any or source is object:
        return _converter().unstructure
    return _converter().get_unstructure_hook(source)


_encode_json = json.JSONEncoder(
    separators=(",", ":"), allow_nan=False, default=lambda value: _converter().unstructure(_refuse_plain(value))
).encode


def _refuse_plain(value: Any) -> Any:
    """Only types that cattrs knows may pass; anything else would come back unchanged, for ever."""
    if _converter().unstructure(value) is value:
        raise TypeError(f"a {type(value).__name__} has no JSON form")
    return value


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)


def explain_mismatch(exc: Exception, data: Any) -> str:
    """What a structurer's exception says about ``data``, with the path of each field."""
    if isinstance(exc, BaseValidationError):
        return "; ".join(transform_error(exc, path="data"))
    if data is None:
        return "data is missing or null"
    return f"{exc} @ data (a JSON {type(data).__name__})"


class JSONCodec:
    """Encodes requests of one type and decodes responses of another.

    >>> JSONCodec(int, list[str]).encode(7)
    b'7'
    >>> JSONCodec(int, list[str]).decode(["a"])
    ['a']
    """

    __slots__ = ("_structure", "_unstructure", "request_type", "response_type")

    def __init__(self, request_type: Any = Any, response_type: Any = Any) -> None:
        self.request_type = request_type
        self.response_type = response_type
        self._unstructure = _unstructurer_for(request_type)
        self._structure = structurer_for(response_type)

    def encode(self, request: Any) -> bytes:
        try:
            return _encode_json(self._unstructure(request)).encode("ascii")
        except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as exc:
            expected, got = _name(self.request_type), type(request).__name__
            hint = "" if expected in (got, "Any", "object") else f" (expected a {expected}, got a {got})"
            raise UnserializableRequestError(f"the request can't be written as JSON: {exc}{hint}") from exc

    def decode(self, data: Any) -> Any:
        try:
            return self._structure(data)
        except Exception as exc:
            raise ReplyTypeError(f"the reply is no {_name(self.response_type)}: {explain_mismatch(exc, data)}") from exc


@functools.lru_cache(maxsize=1024)
def _cached(request_type: Any, response_type: Any) -> JSONCodec:
    return JSONCodec(request_type, response_type)


def codec_for(request_type: Any = Any, response_type: Any = Any) -> JSONCodec:
    """The codec for a pair of types, made once and shared."""
    try:
        return _cached(request_type, response_type)
    except TypeError:  # an unhashable type form
        return JSONCodec(request_type, response_type)
