"""The operations of a specification: how each is called, and its configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote

import attrs

from goplugins.config.openapi.bodies import Body, as_object, body_of
from goplugins.config.openapi.document import Node, printable
from goplugins.config.openapi.names import field_name, snake_case, unique
from goplugins.config.openapi.parameters import Field, expand, parameters_of
from goplugins.config.operations import BODILESS_METHODS, IDEMPOTENT_METHODS
from goplugins.errors import ConfigError

Warn = Callable[[str, str], None]
"""Takes the name of an operation, and what could not be expressed."""

_METHODS = ("get", "head", "post", "put", "patch", "delete", "options")
_NOT_CALLED = ("trace", "connect", "query")
_LONGEST_NAME = 128
_NO_WORD = re.compile(r"\W")
_SAFE = "/@!$&'()*+,;=:%~"
"""Characters of a path that stay as they are."""


@attrs.frozen(eq=False)
class Operation:
    """An operation of the specification.

    Attributes:
        name: as in the configuration.
        method: in upper case.
        path: template with the names of fields.
        fields: of path, query and headers.
        body: what is sent beside them.
        node: as in the specification.
        fixed: query parameters that the path has.
        absent: a 404 is the answer null.
        takes_key: the service takes the header Idempotency-Key.
    """

    name: str
    method: str
    path: str
    fields: tuple[Field, ...]
    body: Body
    node: Node
    fixed: Mapping[str, str] = attrs.field(factory=dict)
    absent: bool = False
    takes_key: bool = False

    def config(self) -> dict[str, Any]:
        """The configuration, without what is the rule."""
        values: dict[str, Any] = {"method": self.method, "path": self.path}
        listed = self.method not in BODILESS_METHODS or self.body.kind != "none"
        query = dict(self.fixed)
        query |= {
            field.wire: f"{{{field.name}}}"
            for field in self.fields
            if field.where == "query" and (listed or field.name != field.wire)
        }
        headers = {field.wire: f"{{{field.name}}}" for field in self.fields if field.where == "header"}
        headers.update(self.body.headers)
        if query:
            values["query"] = query
        if headers:
            values["headers"] = headers
        if self.body.kind != ("json" if self.method in {"POST", "PUT", "PATCH"} else "none"):
            values["body"] = self.body.kind
        if self.absent:
            values["expect"] = {404: None}
        if self.takes_key and self.method not in IDEMPOTENT_METHODS:
            values["idempotent"] = True
        return values


def _takes_key(*places: Node) -> bool:
    """Whether the service documents the header Idempotency-Key."""
    parameters = [each for place in places for each in place.items("parameters")]
    return any(each.text("in") == "header" and each.text("name").lower() == "idempotency-key" for each in parameters)


def operations_of(
    root: Node, servers: tuple[str, ...], warn: Warn, problems: list[ConfigError], *, expect_404: bool = False
) -> Iterator[Operation]:
    """All operations, in the order of the specification.

    Args:
        root: the document.
        servers: URLs of the server that is called, as they are written there.
        warn: takes what can't be expressed.
        problems: takes what is wrong in the specification.
        expect_404: a documented 404 of a GET is the answer null.
    """
    taken: set[str] = set()
    for path, item in root.table("paths").items():
        if path.startswith("x-"):
            continue
        try:
            methods = [each for each in (*_METHODS, *_NOT_CALLED) if each in item.expect_object().value]
        except ConfigError as exc:
            problems.extend(exc.problems)
            continue
        for method in methods:
            try:
                yield from _operations_at(path, item, method, taken, servers, warn, expect_404=expect_404)
            except ConfigError as exc:
                problems.extend(exc.problems)


def _operations_at(
    path: str, item: Node, method: str, taken: set[str], servers: tuple[str, ...], warn: Warn, *, expect_404: bool
) -> Iterator[Operation]:
    """The operation of a path and a method; nothing if it is left out."""
    node = item.document.resolve(item.value[method], (*item.path, method)).expect_object()
    name = _name_of(node, method, path, taken)
    taken.add(name)
    if method in _NOT_CALLED:
        warn(name, f"left out: method {method.upper()} is not called by this library")
    elif _elsewhere(item, node, servers):
        warn(name, "left out: it is served by another server; import it as a plugin of its own")
    else:
        yield from _operation(name, method.upper(), path, item, node, warn, expect_404=expect_404)


def _name_of(node: Node, method: str, path: str, taken: set[str]) -> str:
    """The operationId in snake_case; without one, method and path.

    Of FastAPI's own ids, such as ``get_book_books__book_id__get``, only the name of the function.
    """
    text = node.text("operationId")
    function = text.removesuffix(f"{_NO_WORD.sub('_', path)}_{method}")
    short = snake_case(function)[:_LONGEST_NAME]
    if function != text and short and short not in taken:
        return short
    name = snake_case(text) or snake_case(f"{method} {path}", method)
    return unique(name[: _LONGEST_NAME - 4], taken)


def _elsewhere(item: Node, node: Node, servers: tuple[str, ...]) -> bool:
    """Whether path or operation have servers of their own, none of which is the one that is called."""
    own = node.items("servers") or item.items("servers")
    return bool(own) and not any(server.text("url").rstrip("/") in servers for server in own)


def _operation(
    name: str, method: str, path: str, item: Node, node: Node, warn: Warn, *, expect_404: bool
) -> Iterator[Operation]:
    def note(text: str) -> None:
        warn(name, text)

    if node.get("callbacks") is not None:
        note("its callbacks are calls to you, which are not imported")
    body = body_of(node, method, note)
    parameters = parameters_of(item, node, path, note)
    if body.is_whole and parameters:
        sent = as_object(body)
        if sent is None:
            names = ", ".join(printable(each.text("name")) for each in parameters)
            note(f"left out: its body is no object, beside {names}: no request has fields for both")
            return
        note("its body is sent as an object only")
        body = sent
    fields: list[Field] = []
    taken = set(body.names)
    for parameter in parameters:
        for field in expand(parameter, note):
            named = attrs.evolve(field, name=_field_name(field, taken))
            taken.add(named.name)
            fields.append(named)
    plain, _, fixed = path.partition("?")
    if "#" in path:
        note("left out: its path has a fragment (#), which is never sent")
        return
    responses = node.table("responses")
    absent = expect_404 and method == "GET" and "404" in responses
    template = _template(plain, {field.wire: field for field in fields if field.where == "path"})
    key = _takes_key(item, node)
    yield Operation(name, method, template, tuple(fields), body, node, dict(parse_qsl(fixed)), absent, key)


def _field_name(field: Field, taken: set[str]) -> str:
    name = field_name(field.wire)
    return name if name not in taken else unique(f"{field.where}_{name}", taken)


def _template(path: str, fields: Mapping[str, Field]) -> str:
    """The path with the names of fields, in the style of each parameter."""
    text, rest = "", path
    while rest:
        before, brace, rest = rest.partition("{")
        text += quote(before, safe=_SAFE)
        if brace:
            wire, _, rest = rest.partition("}")
            text += fields[wire].template
    return text
