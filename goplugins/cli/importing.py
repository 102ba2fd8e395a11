"""``goplugins config import-go``: converts a file of the Go library."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goplugins.cli._common import new_command
from goplugins.errors import ConfigError, ConfigFileError

if TYPE_CHECKING:
    from goplugins.config import ManagerConfig

_WITHOUT_EFFECT = ("has no effect", "is not used", "unknown option")
"""Problems of settings that the Go library accepts and ignores."""

_NO_NAME = re.compile(r"[^A-Z0-9]+")


def add_action(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``import-go``."""
    parser = new_command(actions, "import-go", "convert a file of the Go library", _import)
    parser.add_argument("file", metavar="FILE", help="JSON file of the Go library")
    parser.add_argument(
        "--format", choices=("yaml", "json"), default="yaml", help="format of the result (default: yaml)"
    )
    parser.add_argument(
        "--include-secrets", action="store_true", help="write the secrets themselves instead of variables"
    )


def _import(arguments: argparse.Namespace) -> int:
    """Reads a JSON file of the Go library, and writes a file for this library to stdout; warnings go to stderr.

    In the file of the Go library, durations are nanoseconds, and zero means left out. Secrets become ${VARIABLES}.
    Settings without effect in this library are left out.

    Exit code: 0 for a file that `config check` accepts once the variables are set, 1 for one that has to be corrected
    first, 2 if there is none.
    """
    dump = dumper(arguments.format)
    config = _read(arguments.file)
    values, variables = _portable(config, include_secrets=arguments.include_secrets)
    sys.stdout.write(dump(values))
    for variable, path in variables.items():
        warn(f"{path}: is a secret; set the variable {variable} to it where the manager runs")
    problems = unfinished(config)
    for problem in problems:
        warn(f"{problem.path}: {problem.message}{f' ({problem.fix})' if problem.fix else ''}")
    return 1 if problems else 0


def warn(text: str) -> None:
    sys.stderr.write(f"warning: {' '.join(text.split())}\n")


def dumper(kind: str) -> Callable[[Any], str]:
    if kind == "json":
        return lambda values: json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    try:
        import yaml
    except ImportError as exc:
        raise ConfigFileError("YAML needs PyYAML", fix="pip install goplugins[yaml], or --format json") from exc
    return lambda values: str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _read(name: str) -> ManagerConfig:
    """The configuration; settings without effect are dropped with a warning, values that can't be read raised."""
    from goplugins.config import ManagerConfig
    from goplugins.config.go_json import ignored_windows
    from goplugins.config.json_text import parse_json
    from goplugins.config.problems import path_parts

    try:
        data = Path(name).read_bytes()
    except OSError as exc:
        raise ConfigFileError(f"can't be read: {exc.strerror}", path=name) from exc
    values = parse_json(data, name)
    for path in ignored_windows(values):
        warn(f"{path}: is ignored by the Go library, where a rate is that of a second; written as 1 s")
    while True:
        try:
            config = ManagerConfig.from_go_json(json.dumps(values), source=name)
            problems = [problem for problem in unfinished(config) if problem.message.startswith(_WITHOUT_EFFECT)]
        except ConfigError as exc:
            problems = [problem for problem in exc.problems if problem.message == "unknown field"]
            if len(problems) < len(exc.problems):
                raise
        dropped = [problem for problem in problems if _drop(values, path_parts(problem.path))]
        if not dropped:
            return ManagerConfig.from_go_json(json.dumps(values), source=name)
        for problem in dropped:
            reason = "has no counterpart in this library" if problem.message == "unknown field" else problem.message
            warn(f"{problem.path}: {reason}, left out")


def _drop(values: Any, path: tuple[str | int, ...]) -> bool:
    """Removes the value at ``path``; False if there is none."""
    *parents, last = path
    try:
        for step in parents:
            values = values[step]
        del values[last]
    except (KeyError, IndexError, TypeError):
        return False
    return True


def unfinished(config: ManagerConfig) -> list[ConfigError]:
    """The problems that the configuration would have when it is loaded."""
    from goplugins.config.manager import semantic_problems
    from goplugins.manager.factories import check_by_built_in_factories

    resolved = config.with_defaults()
    found = [error for _, error in semantic_problems(config, resolved)]
    places = {error.path for error in found}
    suspect = {index for index in range(len(config.plugins)) if any(p.startswith(f"plugins[{index}]") for p in places)}
    return found + [error for error in check_by_built_in_factories()(resolved, suspect) if error.path not in places]


# --- values ----------------------------------------------------------------------------------------------------


def _portable(config: ManagerConfig, *, include_secrets: bool) -> tuple[Any, dict[str, str]]:
    """Plain values for a file, and the variables in place of secrets, with the paths of their fields."""
    from goplugins.config.problems import path_text
    from goplugins.config.schema import shown

    variables: dict[str, str] = {}
    full = shown(config, secrets=True)
    masked = full if include_secrets else shown(config)
    names = [item.get("name", "") for item in full.get("plugins", ())]

    def merged(value: Any, safe: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, Mapping):
            return {key: merged(item, safe[key], (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [merged(item, safe[index], (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        if value == safe:
            return value.replace("${", "$${")  # in the Go library's files it is no variable
        return secret(value, str(safe), path)

    def secret(value: str, safe: str, path: tuple[str | int, ...]) -> str:
        """A text with a variable in place of a secret; in NAME=secret, of the secret only."""
        name, equals, _ = value.partition("=")
        before = f"{name}=" if equals and safe == f"{name}=***" else ""
        steps = [names[step] if place == 1 and isinstance(step, int) else step for place, step in enumerate(path)]
        label = [*steps[1:-1], name] if before else steps[1:]
        variable = base = _NO_NAME.sub("_", "_".join(map(str, label)).upper()).strip("_")
        if base[:1].isdigit():
            variable = base = f"_{base}"  # no variable begins with a digit
        number = 2
        while variable in variables:
            variable, number = f"{base}_{number}", number + 1
        variables[variable] = path_text(path)
        return f"{before.replace('${', '$${')}${{{variable}}}"

    return merged(full, masked, ()), variables
