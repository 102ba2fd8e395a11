"""Bodies of requests: their kind, and the fields that they are made of."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from goplugins.config.openapi.document import Node
from goplugins.config.openapi.names import field_name
from goplugins.config.openapi.parameters import Note
from goplugins.config.openapi.schemas import Shape, is_object, is_read_only, schema_of, shape_of, variants_of

_FORM = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
_JSON = "application/json"


@attrs.frozen(eq=False)
class Body:
    """The body of an operation's requests.

    Attributes:
        kind: json, form, multipart, raw or none.
        schema: None for none, and for one that admits everything.
        shape: the fields, if the body is an object.
        headers: to send with it.
        required: it is always sent.
        media_type: as in the specification.
    """

    kind: str = "none"
    schema: Node | None = None
    shape: Shape | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    required: bool = True
    media_type: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether the request itself is the body: nothing can be beside it."""
        return (
            self.kind not in {"none", "raw"}
            and self.shape is None
            and not (self.schema is None or is_object(self.schema))
        )

    @property
    def names(self) -> list[str]:
        """Names of the fields of the body, without those that only the service sets."""
        if self.kind == "raw":
            return ["content"]
        found: list[str] = []
        for name, node in self.shape.properties.items() if self.shape else ():
            if not is_read_only(node):
                found.append(field_name(name, found))
        return found


def as_object(body: Body) -> Body | None:
    """The body as an object only, for one that can be something else, too; None if it can't be an object."""
    variants = variants_of(body.schema) if body.schema is not None else []
    if body.schema is None or not any(is_object(each) for each in variants):
        return None
    shape = shape_of(body.schema)
    return attrs.evolve(body, shape=shape) if shape.properties else None


def is_json(media_type: str) -> bool:
    """Whether a media type is JSON.

    >>> is_json("application/json; charset=utf-8"), is_json("application/hal+json"), is_json("application/xml")
    (True, True, False)
    """
    plain = media_type.partition(";")[0].strip().lower()
    return plain == _JSON or plain.endswith("+json") or plain == "text/json"


def body_of(node: Node, method: str, note: Note) -> Body:
    """The body of an operation's requests: JSON if there is a choice."""
    request = node.get("requestBody")
    if request is None:
        return Body()
    content = request.table("content")
    if method in {"GET", "HEAD"}:
        note(f"its body left out: {method} has none")
        return Body()
    if not content:
        return Body()
    media_type = min(content, key=_preference)
    required = request.flag("required")
    schema = schema_of(content[media_type].get("schema"))
    plain = media_type.partition(";")[0].strip().lower()
    if is_json(media_type):
        headers = {} if plain == _JSON else {"Content-Type": plain}
        return _typed("json", media_type, schema, headers, required=required)
    if plain in {_FORM, _MULTIPART}:
        return _typed("form" if plain == _FORM else "multipart", media_type, schema, {}, required=required)
    headers = {"Content-Type": plain} if "*" not in plain else {}
    return Body("raw", schema, None, headers, required, media_type)


def _typed(kind: str, media_type: str, schema: Node | None, headers: Mapping[str, str], *, required: bool) -> Body:
    shape = shape_of(schema) if schema is not None and is_object(schema) else None
    if shape is not None and not shape.properties:
        shape = None
    return Body(kind, schema, shape, headers, required, media_type)


def _preference(media_type: str) -> int:
    plain = media_type.partition(";")[0].strip().lower()
    if plain == _JSON:
        return 0
    if plain == _MULTIPART:
        return 2
    if plain == _FORM:
        return 3
    return 1 if is_json(plain) else 4
