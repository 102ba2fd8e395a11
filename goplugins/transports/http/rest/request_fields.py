"""The fields of a request: as JSON values for paths, parameters and bodies, and as they are for files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import attrs

from goplugins.config.field_types import near_name
from goplugins.config.templates import Template
from goplugins.errors import InvalidArgumentError
from goplugins.json_text import read_json
from goplugins.models.file import File
from goplugins.models.json_fields import fields_in_json
from goplugins.runtime.call import Call
from goplugins.transports.json_codec import codec_for

_DECODINGS = 4
"""Times that percent-encoding is removed from a segment: by proxies and a server, one after the other."""

_SUSPICIOUS = frozenset("./\\%")
"""Without these characters, a value can't leave its place."""

_SHOWN = 10
"""Names of fields in a message."""


def json_fields(call: Call, where: str) -> dict[str, Any]:
    """The fields of the call's request as JSON values, by name; none for a request that is None.

    Raises:
        InvalidArgumentError: the request has no fields.
        UnserializableRequestError: the request does not fit its type, or has a value that JSON can't express.
    """
    found = read_json(call.codec.encode(call.request))
    if type(found) is dict:
        return found
    if found is None:
        return {}
    raise InvalidArgumentError(f"{where}: the request is a JSON {type(found).__name__}, expected one with fields")


def object_fields(call: Call, where: str) -> dict[str, Any]:
    """The fields of the call's request: bytes and files as they are, everything else as JSON values.

    Raises:
        InvalidArgumentError: the request has no fields.
        UnserializableRequestError: the request does not fit its type, or a value has no JSON form.
    """
    request = call.codec.typed.admit_request(call.request)
    if request is None:
        return {}
    cls = type(request)
    if isinstance(request, Mapping):
        fields = dict(request)
    elif attrs.has(cls) or dataclasses.is_dataclass(request):
        marked = fields_in_json(cls)
        names = marked.names if marked else {}
        found: tuple[Any, ...] = attrs.fields(cls) if attrs.has(cls) else dataclasses.fields(request)
        fields = {names.get(each.name, each.name): getattr(request, each.name) for each in found}
    else:
        raise InvalidArgumentError(f"{where}: the request is a {type(request).__name__}, expected one with fields")
    return {name: _shallow(value) for name, value in fields.items()}


def _shallow(value: Any) -> Any:
    if value is None or isinstance(value, bytes | bytearray | memoryview | File):
        return value
    if isinstance(value, list | tuple):
        return [_shallow(each) for each in value]
    return read_json(codec_for().encode(value))


def scalar_text(value: Any) -> str | None:
    """A JSON value as the text of a path, a parameter or a header; None if it has none, as tables and lists.

    >>> scalar_text(True), scalar_text(1.5), scalar_text("a"), scalar_text([1])
    ('true', '1.5', 'a', None)
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else None


def path_of(template: Template, fields: Mapping[str, Any], where: str, *, slashes: bool = False) -> str:
    """The path, with each value percent-encoded as one piece of a segment.

    Args:
        template: of the path.
        fields: of the request, as JSON values.
        where: the beginning of messages.
        slashes: whether a value may contain slashes, which are percent-encoded. Many servers decode a path before they
            split it, so that ``1/delete`` as an id would be another resource.

    Raises:
        InvalidArgumentError: a field is missing, empty, no text or number, or would lead out of its place.
    """
    suspicious = False

    def value_of(name: str) -> str:
        nonlocal suspicious
        value = field_of(fields, name, where, f"its path {template.text}")
        text = scalar_text(value)
        if text is None:
            raise InvalidArgumentError(f"{where}: {name} is {_kind(value)}, and a path needs a text or a number")
        if not text:
            raise InvalidArgumentError(f"{where}: {name} is empty, and the path {template.text} needs it")
        if text.isascii() and text.isalnum():
            return text  # the usual case: nothing to encode
        if not _SUSPICIOUS.isdisjoint(text):
            suspicious = True
            if not slashes and _has_slash(text):
                message = f"{where}: {name} contains a slash, which could lead to another path of the service"
                raise InvalidArgumentError(f"{message}; if it does not decode paths: options.encoded_slashes")
        return quote(text, safe="")

    path = template.fill(value_of)
    if suspicious and any(_leads_out(segment) for segment in path.split("/") if segment):
        names = ", ".join(template.fields)
        found = "a segment . or .., or slashes only, which could leave the path"
        raise InvalidArgumentError(f"{where}: a value of {names} has {found}")
    return path


def _has_slash(value: str) -> bool:
    for _ in range(_DECODINGS):
        if "/" in value or "\\" in value:
            return True
        value = unquote(value)
    return False


def _leads_out(segment: str) -> bool:
    """Whether a server could leave the segment's place by it.

    As one that decodes it before it splits the path, a proxy that does so once more, or one that ignores parameters
    (``..;a``).
    """
    for _ in range(_DECODINGS):
        pieces = segment.replace("\\", "/").split("/")
        if not any(pieces) or any(each.partition(";")[0] in {".", ".."} for each in pieces):
            return True
        segment = unquote(segment)
    return False


def texts_of(template: Template, fields: Mapping[str, Any], where: str, what: str) -> list[str]:
    """The values of a parameter or header: several for a list, none for None.

    Raises:
        InvalidArgumentError: a field is missing or is a table.
    """
    if template.is_field:
        return value_texts(field_of(fields, template.fields[0], where, what), where, template.fields[0])
    values = {name: field_of(fields, name, where, what) for name in template.fields}
    if any(value is None for value in values.values()):
        return []
    for name, value in values.items():
        if scalar_text(value) is None:
            raise InvalidArgumentError(f"{where}: {name} is {_kind(value)}, and {what} needs a text or a number")
    return [template.fill(lambda name: scalar_text(values[name]) or "")]


def value_texts(value: Any, where: str, name: str) -> list[str]:
    """A JSON value as the values of a parameter: several for a list, none for None.

    Raises:
        InvalidArgumentError: the value is a table, or a list of tables or lists.
    """
    if value is None:
        return []
    found = []
    for each in value if isinstance(value, list) else [value]:
        text = scalar_text(each)
        if text is not None:
            found.append(text)
        elif each is not None:
            raise InvalidArgumentError(
                f"{where}: {name} is {_kind(value)}, which no parameter can carry: send it in a body, or as a text"
            )
    return found


def field_of(fields: Mapping[str, Any], name: str, where: str, what: str) -> Any:
    """A field that a template needs.

    Raises:
        InvalidArgumentError: the request has no such field.
    """
    try:
        return fields[name]
    except KeyError:
        near = near_name(name, fields)
        known = f"did you mean {near!r}?" if near else f"it has {', '.join(list(fields)[:_SHOWN]) or 'none'}"
        raise InvalidArgumentError(f"{where}: the request has no field {name!r}, which {what} needs; {known}") from None


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {dict: "a table", list: "a list", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")
