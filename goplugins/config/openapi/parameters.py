"""Parameters of operations, and the fields of a request that stand for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

import attrs

from goplugins.config.openapi.document import Node, printable, refuse
from goplugins.config.openapi.schemas import Shape, is_object, schema_of, shape_of, types_of

Note = Callable[[str], None]
"""Takes what can't be expressed of one operation."""

_IN_PATH = re.compile(r"\{([^{}]*)\}")
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BY_THE_LIBRARY = {
    "accept": "the library sets it",
    "authorization": "the plugin's auth section sets it",
    "content-length": "the library sets it",
    "content-type": "the kind of body sets it",
    "host": "the endpoint sets it",
    "idempotency-key": "",
    "x-request-id": "each call has one: the request id of its context",
}
_JOINED = {"form": "commas", "spaceDelimited": "spaces", "pipeDelimited": "|", "simple": "commas"}
_STYLES = {"path": "simple", "query": "form", "header": "simple", "cookie": "form"}


@attrs.frozen(eq=False)
class Field:
    """A field of the request that is no part of its body.

    Attributes:
        wire: the parameter's name in the specification; of objects, that of one property.
        where: path, query or header.
        required: it is always sent.
        schema: of its values; None if the specification has none.
        text: the value is a text, whatever the schema says.
        style: of path parameters: simple, label or matrix.
        name: the field's name.
        description: of the parameter.
    """

    wire: str
    where: str
    required: bool
    schema: Node | None
    text: bool = False
    style: str = "simple"
    name: str = ""
    description: str = ""

    @property
    def template(self) -> str:
        """The field in a path."""
        prefix = {"label": ".", "matrix": f";{quote(self.wire)}="}.get(self.style, "")
        return f"{prefix}{{{self.name}}}"


def parameters_of(item: Node, node: Node, path: str, note: Note) -> list[Node]:
    """The parameters of a path and of its operation, which overrides them, and of the path that are not declared.

    Raises:
        InvalidConfigError: one of them has no name or place.
    """
    found: dict[tuple[str, str], Node] = {}
    in_path = _IN_PATH.findall(path)
    for parameter in (*item.items("parameters"), *node.items("parameters")):
        name, where = parameter.text("name"), parameter.text("in")
        if not name or where not in _STYLES:
            refuse(
                parameter.path,
                "has no name, or not one of the places path, query, header, cookie",
                "write {name: NAME, in: query}",
            )
        if where == "path" and name not in in_path:
            note(f"parameter {printable(name)!r} left out: the path has no {{{printable(name)}}}")
        else:
            found[where, name] = parameter
    for name in in_path:
        if ("path", name) not in found:
            note(f"{{{printable(name)}}} of the path is no declared parameter: taken as a text")
            found["path", name] = Node(node.document, {"name": name, "in": "path", "required": True}, node.path)
    return [each for each in found.values() if _is_sent(each, note)]


def _is_sent(parameter: Node, note: Note) -> bool:
    name, where = parameter.text("name"), parameter.text("in")
    if where == "cookie":
        note(f"cookie {printable(name)!r} left out: send it by the call's headers or auth.headers, as Cookie")
        return False
    if where != "header":
        return True
    reason = _BY_THE_LIBRARY.get(name.lower())
    if reason:
        note(f"header {printable(name)} left out: {reason}")
    elif reason is None and not _HEADER.fullmatch(name):
        note(f"header {printable(name)!r} left out: no header can have this name")
        return False
    return reason is None


def expand(parameter: Node, note: Note) -> Iterator[Field]:
    """The fields of a parameter: one, except for an object that is written as a parameter for each property."""
    name, where = parameter.text("name"), parameter.text("in")
    style = parameter.text("style", _STYLES[where])
    explode = parameter.flag("explode", style == "form")
    schema = schema_of(parameter.get("schema"))
    field = Field(
        wire=name,
        where=where,
        required=where == "path" or parameter.flag("required"),
        schema=schema,
        style=style if where == "path" else "simple",
        description=parameter.text("description"),
    )
    shown = f"parameter {printable(name)!r}"
    if parameter.get("content") is not None:
        note(f"{shown} is a text: encode its value as {', '.join(map(printable, parameter.table('content')))}")
        yield attrs.evolve(field, schema=None, text=True)
    elif is_object(schema):
        assert schema is not None  # noqa: S101 - for mypy
        yield from _of_object(field, shape_of(schema), style, note, explode=explode)
    elif schema is not None and "array" in types_of(schema) and not _is_list(where, style, explode=explode):
        note(f"{shown} is a text: join its values by {_JOINED.get(style, 'commas')}")
        yield attrs.evolve(field, schema=None, text=True)
    else:
        yield field


def _is_list(where: str, style: str, *, explode: bool) -> bool:
    """Whether a list is sent as the library sends it: a query parameter repeated, values of a header after commas."""
    return where == "header" or (where == "query" and style == "form" and explode)


def _of_object(field: Field, shape: Shape, style: str, note: Note, *, explode: bool) -> Iterator[Field]:
    in_query = field.where == "query" and (style == "deepObject" or (style == "form" and explode))
    shown = f"parameter {printable(field.wire)!r}"
    if not in_query or not shape.properties:
        reason = "an object without known properties" if in_query else f"an object in style {printable(style)}"
        note(f"{shown} is a text: {reason} can't be written")
        yield attrs.evolve(field, schema=None, text=True)
        return
    if shape.further is not None:
        note(f"{shown}: only its known properties can be sent")
    for name, schema in shape.properties.items():
        wire = f"{field.wire}[{name}]" if style == "deepObject" else name
        if is_object(schema):
            note(f"parameter {printable(wire)!r} left out: an object within an object can't be written")
            continue
        required = field.required and name in shape.required
        yield attrs.evolve(field, wire=wire, schema=schema_of(schema), required=required, description="")
