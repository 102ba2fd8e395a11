"""``goplugins config``: checks, compares, shows and imports configurations."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from goplugins.cli import import_openapi, importing
from goplugins.cli._common import new_command
from goplugins.errors import ConfigError, ConfigFileError, UnresolvedVariableError

if TYPE_CHECKING:
    from goplugins.discovery import DiscoveryReport

_LINE = re.compile(r"\bline ([0-9]+)")
_WIDEST = 100


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``config`` with its four actions."""
    help_text = "check, compare, show or import a configuration"
    parser = commands.add_parser("config", help=help_text, description=f"Actions: {help_text}.")
    actions = parser.add_subparsers(metavar="action", required=True)

    check = new_command(actions, "check", "report all problems of a file", _check)
    check.add_argument("file", metavar="FILE")
    check.add_argument(
        "--elsewhere",
        action="store_true",
        help="skip what depends on the machine that will use the file: unset variables, certificate files, discovered "
        "plugins",
    )

    diff = new_command(actions, "diff", "show the differences of two files", _diff)
    diff.add_argument("old", metavar="A")
    diff.add_argument("new", metavar="B")

    show = new_command(actions, "show", "show all settings of a file, defaults included", _show)
    show.add_argument("file", metavar="FILE")
    show.add_argument("--origin", action="store_true", help="show the origin of each setting")
    importing.add_action(actions)
    import_openapi.add_action(actions)


def _check(arguments: argparse.Namespace) -> int:
    """Reports every problem of a configuration, with its line.

    Exit code: 0 for none, 1 for any, 2 if the file can't be read.
    """
    from goplugins.config import ManagerConfig
    from goplugins.config.problems import counted
    from goplugins.discovery.origins import load_with_origins
    from goplugins.manager.factories import check_by_built_in_factories

    name: str = arguments.file
    try:
        if arguments.elsewhere:
            config = ManagerConfig.from_file(name)
        else:
            config, origins = load_with_origins(name, check=check_by_built_in_factories())
            _warn(origins.report)
    except ConfigFileError:
        raise
    except ConfigError as exc:
        problems: Iterable[ConfigError] = exc.problems
        if arguments.elsewhere:
            problems = [problem for problem in problems if not isinstance(problem, UnresolvedVariableError)]
        lines = sorted(_problem_lines(name, problems))
        sys.stdout.write(
            "".join(f"{line}\n" for _, line in lines) or f"{name}: no problem once its variables are set\n"
        )
        return 1 if lines else 0
    groups = f", {counted(config.load_balancers, 'group')}" if config.load_balancers else ""
    sys.stdout.write(f"{name}: no problem, {counted(config.plugins, 'plugin')}{groups}\n")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    """Shows the differences of two configurations, with defaults filled in and secrets masked.

    Exit code, as of diff: 0 for none, 1 for any, 2 if a file is not valid. Discovery does not run.
    """
    from goplugins.config import ManagerConfig
    from goplugins.config.diff import PluginDiff

    diff = PluginDiff.between(ManagerConfig.from_file(arguments.old), ManagerConfig.from_file(arguments.new))
    sys.stdout.write(f"{diff}\n")
    return 1 if diff else 0


def _show(arguments: argparse.Namespace) -> int:
    """Shows every setting that applies, with secrets masked, and which of them are defaults."""
    from goplugins.discovery.origins import load_with_origins

    _, origins = load_with_origins(arguments.file)
    _warn(origins.report)
    rows = [(f"{path} = {json.dumps(value, ensure_ascii=False)}", path) for path, value in _plain(origins.shown)]
    width = min(_WIDEST, max(len(text) for text, _ in rows))
    for text, path in rows:
        origin = origins[path]
        note = f"# {origin}" if arguments.origin or origin == "default" else ""
        sys.stdout.write(f"{text:<{width}}  {note}".rstrip() + "\n")
    return 0


def _plain(shown: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    """Values that JSON can't hold, as texts."""
    for path, value in shown.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            value = f"<{type(value).__name__}>"  # noqa: PLW2901
        yield path, value


def _warn(report: DiscoveryReport | None) -> None:
    """Writes which plugins discovery left out."""
    for problem in report.problems if report is not None else ():
        sys.stderr.write(f"warning: left out: {problem}\n")


def _problem_lines(name: str, problems: Iterable[ConfigError]) -> Iterable[tuple[int, str]]:
    """Each problem as a text that starts with file and line, so that editors can jump to it, and the line."""
    from goplugins.config.line_numbers import line_at, lines_of
    from goplugins.config.problems import path_parts

    lines = lines_of(Path(name).read_bytes(), name)
    for problem in problems:
        of_file = problem.path in {"", name}
        found = _LINE.search(problem.message) if of_file else None
        line = int(found[1]) if found else line_at(lines, path_parts(problem.path))
        where = f"{name}:{line}" if line else name
        field = "" if of_file else f" {problem.path}:"
        fix = f" ({problem.fix})" if problem.fix else ""
        yield line, " ".join(f"{where}:{field} {problem.message}{fix} [{problem.code}]".split())
