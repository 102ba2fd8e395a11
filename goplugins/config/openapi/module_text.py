"""The text of a Python file with the classes of a specification."""

from __future__ import annotations

import re

from goplugins.config.openapi.document import Node, printable
from goplugins.config.openapi.importing import Imported
from goplugins.config.openapi.names import field_name
from goplugins.config.openapi.requests import Typed, typed_operations
from goplugins.config.openapi.types import Alias, Types, Warn
from goplugins.config.openapi.unions import NULL, ClassField, ClassType, quoted, text_of

_WIDTH = 100
_MODULE = re.compile(r"\b(attrs|datetime|decimal|goplugins|typing|uuid)\.")
_SENTENCE = re.compile(r"(?<=[.!?])\s")


def module_text(imported: Imported, warn: Warn) -> str:
    """A module with a class for each object, and one for the requests of each operation.

    Args:
        imported: the specification.
        warn: takes a place, and what could not be expressed.
    """
    name = str(imported.plugin["name"])
    types = Types(imported.root, warn)
    operations = typed_operations(imported.operations, types, warn)
    own = [each.own for each in operations if each.own is not None]
    parts = [_alias(each) for each in types.aliases]
    parts += [_class(each) for each in [*types.classes, *own]]
    code = "\n\n\n".join(parts)
    modules = sorted({*_MODULE.findall(code), *_MODULE.findall(_binds(name, operations))} - {"goplugins", "attrs"})
    imports = "".join(f"import {module}\n" for module in modules)
    imports += "\n" * bool(imports) + "".join(f"import {each}\n" for each in ("attrs",) if f"@{each}." in code)
    needs = "import goplugins\n" if "goplugins." in code else ""
    imports += "\n" * bool(needs and imports) + needs
    head = f"{_docstring(_title(imported.root), name)}\n\n# ruff: noqa: E501, N815, N816\n\n"
    return f"{head}from __future__ import annotations\n\n{imports}\n\n{code}\n\n\n{_binds(name, operations)}"


def _title(root: Node) -> str:
    info = root.get("info")
    if info is None or not isinstance(info.value, dict):
        return "the service"
    return f"{_line(str(info.value.get('title', 'the service')))} {_line(str(info.value.get('version', '')))}".strip()


def _docstring(title: str, name: str) -> str:
    return f'"""Requests and replies of {title}: written by `goplugins config import-openapi --name {_line(name)}`."""'


def _line(text: str) -> str:
    """A description as one line of a docstring."""
    text = printable(" ".join(text.split())).replace("\\", "/").replace('"""', "'''").strip()
    return f"{text}." if text.endswith('"') else text


def _summary(text: str) -> str:
    first = _SENTENCE.split(_line(text), maxsplit=1)[0]
    return first if len(first) <= _WIDTH else f"{first[: _WIDTH - 3].rstrip()}..."


def _alias(alias: Alias) -> str:
    text = f"{alias.name}: typing.TypeAlias = {alias.values.text}"
    if len(text) <= _WIDTH:
        return text
    values = "".join(f"    {quoted(value)},\n" for value in alias.values.values)
    return f"{alias.name}: typing.TypeAlias = typing.Literal[\n{values}]"


def _class(cls: ClassType) -> str:
    # Fields without a default come first, as readers expect; the order has no effect, since all are keywords.
    fields = sorted(cls.fields, key=lambda field: not field.required)
    names = {field.name: field.wire for field in fields if field.name != field.wire}
    arguments = ["{" + ", ".join(f"{quoted(name)}: {quoted(wire)}" for name, wire in names.items()) + "}"] * bool(names)
    omitted = [field.name for field in fields if field.omitted]
    if omitted and len(omitted) == sum(not field.required for field in fields):
        arguments.append("omit_none=True")
    elif omitted:
        arguments.append(f"omit_none=[{', '.join(map(quoted, omitted))}]")
    lines = [f"@goplugins.json_fields({', '.join(arguments)})"] if arguments else []
    lines += ["@attrs.frozen(kw_only=True)", f"class {cls.name}:"]
    body = [f'    """{_summary(cls.description)}"""'] if cls.description.strip() else []
    body += [f"    {_field(field)}" for field in fields]
    if len(body) > 1 and cls.description.strip():
        body.insert(1, "")
    return "\n".join(lines + (body or ['    """No fields."""']))


def _field(field: ClassField) -> str:
    kind = field.kind if field.required or NULL in field.kind or field.kind[0].kind == "any" else (*field.kind, NULL)
    return f"{field.name}: {text_of(kind)}{'' if field.required else ' = None'}"


def _binds(name: str, operations: list[Typed]) -> str:
    """Comments with the line that makes each bound plugin."""
    lines = ["# Bound plugins, to copy:"]
    for each in operations:
        types = f"{text_of(each.request)}, {text_of(each.response)}"
        operation = each.operation.name
        lines.append(
            f"# {field_name(operation)} = manager.bind({quoted(name)}, {types}, operation={quoted(operation)})"
        )
    return "\n".join(lines) + "\n"
