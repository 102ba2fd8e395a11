"""``goplugins config import-openapi``: converts an OpenAPI specification."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from goplugins.cli._common import new_command
from goplugins.cli.importing import dumper, unfinished, warn
from goplugins.errors import ConfigError, ConfigFileError, ConfigSyntaxError

_STDIN = "-"
_VARIABLE = re.compile(r"\$\{[^}:]*(?::([^}]*))?\}")


def add_action(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``import-openapi``."""
    parser = new_command(actions, "import-openapi", "convert an OpenAPI specification", _import)
    parser.add_argument("spec", metavar="SPEC", help="OpenAPI 3.0 or 3.1, in JSON or YAML; - for stdin")
    parser.add_argument("--name", required=True, help="name of the plugin")
    parser.add_argument("--output", metavar="FILE", help="file for the configuration (default: stdout)")
    parser.add_argument("--format", choices=("yaml", "json"), help="format of the configuration (default: yaml)")
    parser.add_argument("--types", metavar="FILE", help="Python file for the classes of requests and replies")
    parser.add_argument("--endpoint", metavar="URL", default="", help="URL of the service (default: the first server)")
    parser.add_argument(
        "--expect-404", action="store_true", help="a documented 404 of a GET is the answer null, not an error"
    )


def _import(arguments: argparse.Namespace) -> int:
    """Reads an OpenAPI specification, and writes the configuration of a plugin with its operations.

    Credentials become ${VARIABLES}. What can't be expressed is listed on stderr, with the operation and the reason.

    Exit code: 0 for a configuration that `config check` accepts once the variables are set, 1 for one that has to be
    corrected first, 2 if there is none.
    """
    source = "stdin" if arguments.spec == _STDIN else arguments.spec
    kind = arguments.format or ("json" if (arguments.output or "").lower().endswith(".json") else "yaml")
    dump = dumper(kind)
    try:
        plugin, types, warnings = _converted(arguments, source)
    except RecursionError:
        fix = "give nested schemas names in components.schemas, and refer to them"
        raise ConfigSyntaxError("its schemas are nested too deeply", path=source, fix=fix) from None
    problems = _problems(plugin)
    if arguments.types:
        _write(arguments.types, types)
    _write(arguments.output, dump({"plugins": [plugin]}))
    for where, what in dict.fromkeys(warnings):
        warn(f"{where}: {what}")
    for problem in problems:
        warn(f"{problem.path}: {problem.message}{f' ({problem.fix})' if problem.fix else ''}")
    return 1 if problems else 0


def _converted(arguments: argparse.Namespace, source: str) -> tuple[dict[str, Any], str, list[tuple[str, str]]]:
    """The plugin's configuration, the text of the file of types if one is wanted, and what can't be expressed."""
    from goplugins.config.openapi.document import parse_document
    from goplugins.config.openapi.importing import import_document
    from goplugins.config.openapi.module_text import module_text

    imported = import_document(
        parse_document(_read(arguments.spec), source),
        arguments.name,
        source=source,
        endpoint=arguments.endpoint,
        expect_404=arguments.expect_404,
    )
    warnings = list(imported.warnings)
    if not arguments.types:
        return imported.plugin, "", warnings
    try:
        text = module_text(imported, lambda where, what: warnings.append((where, what)))
    except ConfigError as exc:
        exc.source = exc.source or source
        raise
    return imported.plugin, text, warnings


def _read(name: str) -> bytes:
    if name == _STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as exc:
        fix = "pass the path of a specification; - reads stdin"
        raise ConfigFileError(f"can't be read: {exc.strerror}", path=name, fix=fix) from exc


def _write(name: str | None, text: str) -> None:
    if name is None:
        sys.stdout.write(text)
        return
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as exc:
        fix = "pass the path of a file in a folder that exists"
        raise ConfigFileError(f"can't be written: {exc.strerror}", path=name, fix=fix) from exc


def _problems(plugin: dict[str, Any]) -> list[ConfigError]:
    """What `config check` would report once the variables are set."""
    from goplugins.config import ManagerConfig

    endpoint = _VARIABLE.sub(lambda match: match[1] or f"{plugin['transport']}://service.example", plugin["endpoint"])
    try:
        return unfinished(ManagerConfig.from_mapping({"plugins": [{**plugin, "endpoint": endpoint}]}))
    except ConfigError as exc:
        return list(exc.problems)
