"""The values of an OpenAPI document, with their places, and its references followed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import unquote

import attrs

from goplugins.config.field_types import near_name
from goplugins.errors import ConfigError, ConfigSyntaxError, InvalidConfigError

Path = tuple[str | int, ...]

_VERSION = re.compile(r"3\.([0-9]+)(\.[0-9]+.*)?")
_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
_LONGEST_CHAIN = 100


def place(path: Path) -> str:
    """The path as text, as in ``paths./pets/{id}.get.parameters[0]``.

    >>> place(("paths", "/pets", "get", "parameters", 0))
    'paths./pets.get.parameters[0]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{printable(part)}"
    return text


def printable(text: str) -> str:
    r"""The text without characters that a terminal would act on.

    >>> printable("a\x1b[31m")
    'a?[31m'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def refuse(path: Path, message: str, fix: str) -> NoReturn:
    """Raises for the value at ``path``."""
    raise InvalidConfigError(message, path=place(path), fix=fix)


@attrs.frozen(eq=False)
class Node:
    """A value of the document.

    Attributes:
        document: the whole document.
        value: the value, with a reference followed.
        path: where the value is defined.
        beside: what stands beside the reference that was followed, such as a description.
    """

    document: Document
    value: Any
    path: Path
    beside: Mapping[str, Any] = attrs.field(factory=dict)

    def get(self, key: str) -> Node | None:
        """The value of a key, None if it is missing."""
        if not isinstance(self.value, dict) or key not in self.value:
            return None
        return self.document.resolve(self.value[key], (*self.path, key))

    def expect_object(self) -> Node:
        """The node itself.

        Raises:
            InvalidConfigError: it is no object.
        """
        if not isinstance(self.value, dict):
            refuse(self.path, f"expected an object, got {kind_of(self.value)}", "write an object there")
        return self

    def table(self, key: str = "") -> dict[str, Node]:
        """The values of the object at ``key`` (or of this one) by their keys; none if it is missing.

        Raises:
            InvalidConfigError: it is no object.
        """
        node = self.get(key) if key else self
        if node is None:
            return {}
        node.expect_object()
        return {name: self.document.resolve(value, (*node.path, name)) for name, value in node.value.items()}

    def items(self, key: str) -> list[Node]:
        """The elements of the list at ``key``; none if it is missing.

        Raises:
            InvalidConfigError: it is no list.
        """
        node = self.get(key)
        if node is None:
            return []
        if not isinstance(node.value, list):
            refuse(node.path, f"expected a list, got {kind_of(node.value)}", "write a list there")
        return [self.document.resolve(value, (*node.path, index)) for index, value in enumerate(node.value)]

    def text(self, key: str, default: str = "") -> str:
        """The string at ``key``; ``default`` if it is missing.

        Raises:
            InvalidConfigError: it is no string.
        """
        node = self.get(key)
        if node is None:
            return default
        if not isinstance(node.value, str):
            refuse(node.path, f"expected a string, got {kind_of(node.value)}", "write a string there")
        return node.value

    def flag(self, key: str, default: bool = False) -> bool:
        """Whether the value at ``key`` is true."""
        node = self.get(key)
        return default if node is None else node.value is True


@attrs.frozen(eq=False)
class Document:
    """An OpenAPI document.

    Attributes:
        values: the whole document.
        minor: 0 for OpenAPI 3.0, 1 for 3.1.
    """

    values: dict[str, Any]
    minor: int

    @property
    def root(self) -> Node:
        return Node(self, self.values, ())

    def resolve(self, value: Any, path: Path) -> Node:
        """The value at ``path``, or what its ``$ref`` refers to.

        Raises:
            InvalidConfigError: the reference can't be followed.
        """
        beside: dict[str, Any] = {}
        for _ in range(_LONGEST_CHAIN):
            if not isinstance(value, dict) or not isinstance(value.get("$ref"), str):
                return Node(self, value, path, beside)
            beside = {**{key: item for key, item in value.items() if key != "$ref"}, **beside}
            value, path = self._target(value["$ref"], (*path, "$ref"))
        refuse((*path, "$ref"), "the reference leads back to itself", "refer to a definition")

    def _target(self, reference: str, path: Path) -> tuple[Any, Path]:
        shown = printable(reference)
        if not reference.startswith("#"):
            fix = "bundle the documents into one first, for example by `npx @redocly/cli bundle`"
            refuse(path, f"{shown!r} refers to another document, which is not read", fix)
        pointer = unquote(reference[1:])
        if pointer and not pointer.startswith("/"):
            refuse(path, f"{shown!r} is not a JSON Pointer", "write '#/components/schemas/NAME'")
        value: Any = self.values
        found: list[str | int] = []
        for raw in pointer.split("/")[1:]:
            step = raw.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
                found.append(int(step))
                continue
            if not isinstance(value, dict) or step not in value:
                known = [key for key in value if isinstance(key, str)] if isinstance(value, dict) else []
                near = near_name(step, known)
                where = f" of {place(tuple(found))}" if found else ""
                fix = f"did you mean {near!r}?" if near else "define it, or correct the reference"
                refuse(path, f"{shown!r} does not exist: {printable(step)!r} is no key{where}", fix)
            value = value[step]
            found.append(step)
        return value, tuple(found)


def kind_of(value: Any) -> str:
    """The kind of a JSON value, with its article."""
    return _KINDS.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def open_document(values: Any) -> tuple[Document, Iterator[str]]:
    """The document of parsed JSON or YAML, and warnings.

    Raises:
        ConfigError: it is no OpenAPI document of version 3.
    """
    _check_texts(values)
    if not isinstance(values, dict):
        raise InvalidConfigError(
            f"expected an OpenAPI document, got {kind_of(values)}", fix="pass the file that begins with `openapi: 3...`"
        )
    version = values.get("openapi")
    if version is None and "swagger" in values:
        refuse(
            ("swagger",),
            f"Swagger {printable(str(values['swagger']))} is not read, only OpenAPI 3.0 and 3.1",
            "convert it first, for example by `npx swagger2openapi FILE`",
        )
    if version is None:
        raise InvalidConfigError(
            "has no key 'openapi': it is no OpenAPI document", fix="pass the file that begins with `openapi: 3...`"
        )
    match = _VERSION.fullmatch(str(version))
    if match is None:
        refuse(("openapi",), f"version {printable(str(version))} is not read", "convert it to OpenAPI 3.0 or 3.1")
    minor = int(match[1])
    newer = [f"OpenAPI {printable(str(version))} is read as 3.1: what is new in it is not imported"]
    return Document(values, min(minor, 1)), iter(newer if minor > 1 else ())


def _check_texts(values: Any) -> None:
    """Refuses texts that no file can hold: JSON can escape half of a surrogate pair."""
    todo: list[tuple[Any, Path]] = [(values, ())]
    while todo:
        value, path = todo.pop()
        if isinstance(value, dict):
            todo += [(item, (*path, key)) for key, item in value.items()]
            todo += [(key, (*path, key)) for key in value if not key.isascii()]
        elif isinstance(value, list):
            todo += [(item, (*path, index)) for index, item in enumerate(value)]
        elif isinstance(value, str) and not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
            refuse(path, "has a lone surrogate, which is no character", "correct the escape sequence (\\u...)")


def parse_document(data: bytes, source: str) -> Any:
    """The values of a document in JSON or YAML.

    Raises:
        ConfigSyntaxError: it is neither.
        ConfigFileError: it is YAML, and PyYAML is not installed.
    """
    from goplugins.config.json_text import decode_text, parse_json

    text = decode_text(data, source)
    if not text.strip():
        raise ConfigSyntaxError("the file is empty", path=source, fix="pass an OpenAPI document in JSON or YAML")
    if text.lstrip().startswith(("{", "[")):
        return parse_json(data, source)
    return _parse_yaml(text, source)


def _parse_yaml(text: str, source: str) -> Any:
    try:
        from goplugins.config.openapi.yaml_1_2 import parse_yaml_1_2
    except ImportError as exc:
        from goplugins.errors import ConfigFileError

        fix = "pip install goplugins[yaml], or pass the document as JSON"
        raise ConfigFileError("YAML needs PyYAML", path=source, fix=fix) from exc
    try:
        return parse_yaml_1_2(text, source)
    except (AttributeError, LookupError, ValueError) as exc:  # of PyYAML itself, such as a KeyError for !!bool maybe
        if isinstance(exc, ConfigError):
            raise
        fix = "write the value without a tag (!!...)"
        raise ConfigSyntaxError("a value has not the form of its tag", path=source, fix=fix) from None
