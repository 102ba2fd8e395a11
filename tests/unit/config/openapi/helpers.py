"""Small specifications, read."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from pathlib import Path
from typing import Any

from goplugins import ManagerConfig
from goplugins.config.openapi.importing import Imported, import_document
from goplugins.config.openapi.module_text import module_text

URL = "https://api.example.com/v1"
OK = {"200": {"description": "ok"}}
_number = itertools.count()


def spec(paths: Any, *, version: str = "3.0.3", **rest: Any) -> dict[str, Any]:
    return {
        "openapi": version,
        "info": {"title": "T", "version": "1"},
        "servers": [{"url": URL}],
        "paths": paths,
        **rest,
    }


def read(values: dict[str, Any], **options: Any) -> Imported:
    """The plugin of a specification, whose configuration is valid."""
    imported = import_document(values, "api", source="spec.yaml", **options)
    ManagerConfig.from_mapping({"plugins": [imported.plugin]})
    return imported


def operation(
    node: dict[str, Any], method: str = "get", path: str = "/items", *, options: Any = None, **rest: Any
) -> tuple[dict[str, Any], list[str]]:
    """The configuration of one operation, and what could not be expressed."""
    values = spec({path: {method: {"operationId": "op", "responses": OK, **node}}}, **rest)
    imported = read(values, **(options or {}))
    return imported.plugin["operations"].get("op", {}), [f"{where}: {what}" for where, what in imported.warnings]


def parameter(name: str, where: str = "query", **rest: Any) -> dict[str, Any]:
    return {"name": name, "in": where, "schema": {"type": "string"}, "required": where == "path", **rest}


def body(schema: Any, media_type: str = "application/json", **rest: Any) -> dict[str, Any]:
    return {"content": {media_type: {"schema": schema}}, "required": True, **rest}


def module(values: dict[str, Any], **options: Any) -> tuple[Any, list[str]]:
    """The module of types of a specification, imported, and what could not be expressed."""
    warnings: list[str] = []
    text = module_text(read(values, **options), lambda where, what: warnings.append(f"{where}: {what}"))
    made = types.ModuleType(f"types_of_spec_{next(_number)}")
    sys.modules[made.__name__] = made  # where the names in annotations are looked up
    exec(compile(text, made.__name__, "exec"), vars(made))
    made.__doc__ = text
    return made, warnings


def schemas(components: dict[str, Any], *, minor: int = 0) -> tuple[Any, list[str]]:
    """The module of types of schemas, each the reply of an operation."""
    paths = {
        f"/{name}": {
            "get": {
                "operationId": f"get {name}",
                "responses": {
                    "200": {
                        "description": "ok",
                        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
                    }
                },
            }
        }
        for name in components
    }
    return module(spec(paths, version=f"3.{minor}.0", components={"schemas": components}))


def binds(made: Any) -> dict[str, tuple[str, str]]:
    """Types of request and reply by operation, as the comments of the module write them."""
    found = {}
    for line in str(made.__doc__).splitlines():
        if line.startswith("# ") and " = manager.bind(" in line:
            arguments = line.partition('manager.bind("api", ')[2].removesuffix(")")
            pair, _, name = arguments.rpartition(", operation=")
            request, response = _split(pair)
            found[name.strip('"')] = (request, response)
    return found


def _split(pair: str) -> tuple[str, str]:
    depth = 0
    for index, letter in enumerate(pair):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            return pair[:index], pair[index + 2 :]
    raise AssertionError(pair)


def import_file(path: Path) -> Any:
    """The module of a file, which is imported anew."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_{next(_number)}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[made.__name__] = made
    spec.loader.exec_module(made)
    return made
