"""The types of each operation's requests and replies."""

from __future__ import annotations

import attrs

from goplugins.config.openapi.bodies import is_json
from goplugins.config.openapi.document import Node, printable
from goplugins.config.openapi.operations import Operation
from goplugins.config.openapi.schemas import is_read_only, shape_of
from goplugins.config.openapi.types import Types, Warn
from goplugins.config.openapi.unions import ANY, NULL, Atom, ClassField, ClassType, Type, combine

_TEXT: Type = (Atom("str", "str"),)
_BYTES: Type = (Atom("str", "bytes"),)
_STREAM = "text/event-stream"


@attrs.define(eq=False)
class Typed:
    """An operation with its types.

    Attributes:
        operation: as in the configuration.
        request: the type of its requests.
        response: the type of its replies.
        own: the class of its requests, if it has one of its own.
    """

    operation: Operation
    request: Type
    response: Type
    own: ClassType | None = None


def typed_operations(operations: tuple[Operation, ...], types: Types, warn: Warn) -> list[Typed]:
    """The operations with their types, all classes completed."""
    found = [_typed(each, types, warn) for each in operations]
    own = [each.own for each in found if each.own is not None]
    types.finish([*(each.request for each in found), *(field.kind for cls in own for field in cls.fields)], own)
    for each in found:
        each.request = types.settled(each.request, each.operation.name)
        each.response = types.settled(each.response, each.operation.name)
    return found


def _typed(operation: Operation, types: Types, warn: Warn) -> Typed:
    response = _response(operation, types, warn)
    body = operation.body
    files = body.kind == "multipart"
    whole = _whole(operation, types)
    if whole is not None:
        return Typed(operation, whole, response)
    name = types.name(f"{operation.name}_request")
    text = operation.node.text("summary") or operation.node.text("description")
    own = ClassType(name, description=text)
    for field in operation.fields:
        kind = _TEXT if field.text else types.of(field.schema, f"{name}_{field.name}")
        own.fields.append(ClassField(field.name, field.name, kind, field.required))
    if body.kind == "raw":
        own.fields.append(ClassField("content", "content", _content(body.media_type), required=True))
    elif body.schema is not None and body.shape is not None:
        first = len(own.fields)
        types.fill(own, body.schema, files=files, request=True)
        for added in own.fields[first:]:
            added.required = added.required and body.required
            added.omitted = body.kind == "json" and not added.required
    return Typed(operation, (Atom("class", own.name, cls=own),), response, own)


def _whole(operation: Operation, types: Types) -> Type | None:
    """The type of requests that need no class of their own; None if they do."""
    body = operation.body
    hint = f"{operation.name}_body"
    if body.kind == "none":
        return None
    if body.kind == "raw":
        return None if operation.fields else _content(body.media_type)
    if body.shape is None:
        # Beside the parameters, any fields: a mapping has room for both.
        return (Atom("dict", items=ANY),) if operation.fields else types.of(body.schema, hint)
    if operation.fields or body.schema is None or _has_read_only(body.schema):
        return None
    kind = types.of(body.schema, hint, files=body.kind == "multipart")
    return kind if len(kind) == 1 and kind[0].cls is not None else None


def _has_read_only(schema: Node) -> bool:
    return any(map(is_read_only, shape_of(schema).properties.values()))


def _content(media_type: str) -> Type:
    return _TEXT if media_type.startswith("text/") or media_type.endswith(("/xml", "+xml")) else _BYTES


def _response(operation: Operation, types: Types, warn: Warn) -> Type:
    """The type of the replies that are no errors."""
    responses = operation.node.table("responses")
    good = [node for status, node in responses.items() if status.startswith("2")]
    good = good or [node for status, node in responses.items() if status == "default"]
    found: list[Atom] = []
    for response in good:
        content = response.table("content") if isinstance(response.value, dict) else {}
        found += _content_type(operation.name, content, types, warn)
    if not good:
        warn(operation.name, "has no reply that is no error: its type is typing.Any")
        return ANY
    return combine([*found, NULL] if operation.absent else found)


def _content_type(name: str, content: dict[str, Node], types: Types, warn: Warn) -> Type:
    if not content:
        return (NULL,)
    media_types = {each.partition(";")[0].strip().lower(): node for each, node in content.items()}
    for media_type, node in media_types.items():
        if is_json(media_type) or media_type == "*/*":
            return types.of(node.get("schema"), f"{name}_reply")
    if _STREAM in media_types:
        warn(name, f"its replies are a stream ({_STREAM}): they are read whole, as a text")
        return _TEXT
    media_type = next(iter(media_types))
    if len(media_types) > 1:
        warn(name, f"its replies are read as {printable(media_type)}")
    return _content(media_type)
