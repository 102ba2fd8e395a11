"""Checks, compares, explains and imports configurations."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from goplugins.errors import ConfigError, ConfigFileError, UnresolvedVariableError

if TYPE_CHECKING:
    from goplugins.config import ManagerConfig
    from goplugins.config.loading import FurtherCheck
    from goplugins.discovery import DiscoveryReport

__all__ = ["add_command"]

_LINE = re.compile(r"\bline ([0-9]+)")
_WIDEST = 100


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``config`` with its four commands."""
    from goplugins.cli import importing

    parser = commands.add_parser("config", help="check, compare, show or import a configuration", description=__doc__)
    actions = parser.add_subparsers(metavar="action", required=True)

    check = actions.add_parser("check", help="name all problems of a file", description=_check.__doc__)
    check.add_argument("file", metavar="FILE")
    check.add_argument(
        "--elsewhere",
        action="store_true",
        help="leave out what only the machine can tell that will run it: unset variables, certificate files, "
        "discovered plugins",
    )
    check.set_defaults(execute=_check)

    diff = actions.add_parser("diff", help="what differs between two files", description=_diff.__doc__)
    diff.add_argument("old", metavar="A")
    diff.add_argument("new", metavar="B")
    diff.set_defaults(execute=_diff)

    show = actions.add_parser("show", help="a file with everything filled in", description=_show.__doc__)
    show.add_argument("file", metavar="FILE")
    show.add_argument("--origin", action="store_true", help="say of each setting where it comes from")
    show.set_defaults(execute=_show)
    importing.add_action(actions)


def _check(arguments: argparse.Namespace) -> int:
    """Names every problem of a configuration, with its line; exits with 1 if there is one, with 2 if it can't look."""
    from goplugins.config.loading import load_config
    from goplugins.config.problems import counted
    from goplugins.discovery.origins import load_with_origins

    name: str = arguments.file
    try:
        if arguments.elsewhere:
            config = load_config(name)
        else:
            config, origins = load_with_origins(name, check=factory_check())
            _warn(origins.report)
    except ConfigFileError:
        raise
    except ConfigError as exc:
        problems: Iterable[ConfigError] = exc.problems
        if arguments.elsewhere:
            problems = [problem for problem in problems if not isinstance(problem, UnresolvedVariableError)]
        lines = sorted(_problem_lines(name, problems))
        sys.stdout.write("".join(f"{line}\n" for _, line in lines))
        return 1 if lines else 0
    groups = f", {counted(config.load_balancers, 'group')}" if config.load_balancers else ""
    sys.stdout.write(f"{name}: no problem, {counted(config.plugins, 'plugin')}{groups}\n")
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    """Shows what differs between two configurations, defaults filled in and secrets masked.

    Exits like diff: with 0 if nothing does, with 1 if something does, with 2 if one can't be read. Plugins that
    discovery would find are not looked for.
    """
    from goplugins.config.diff import PluginDiff
    from goplugins.config.loading import load_config

    diff = PluginDiff.between(load_config(arguments.old), load_config(arguments.new))
    sys.stdout.write(f"{diff}\n")
    return 1 if diff else 0


def _show(arguments: argparse.Namespace) -> int:
    """Shows every setting that would apply, with secrets masked, and which of them are defaults."""
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
    """What only code can hold, as a text."""
    for path, value in shown.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            value = f"<{type(value).__name__}>"  # noqa: PLW2901
        yield path, value


def _warn(report: DiscoveryReport | None) -> None:
    """What discovery left out: worth knowing, but it keeps nobody from loading the rest."""
    for problem in report.problems if report is not None else ():
        sys.stderr.write(f"warning: left out: {problem}\n")


def _problem_lines(name: str, problems: Iterable[ConfigError]) -> Iterable[tuple[int, str]]:
    """Each problem on one line that editors can jump to, with its line."""
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


def factory_check() -> FurtherCheck:
    """What the built-in factories have against a plugin. Those that code brings can't be known here."""
    from goplugins.config.transport_options import BUILT_IN_KINDS
    from goplugins.manager.factories import Factories
    from goplugins.runtime.clock import SYSTEM_CLOCK
    from goplugins.runtime.workers import WorkerPool

    factories = Factories(clock=SYSTEM_CLOCK, resolve=WorkerPool("goplugins-check", 1, 1).submit)
    kinds = set(BUILT_IN_KINDS.values())

    def check(config: ManagerConfig, suspect: Collection[int]) -> Iterable[ConfigError]:
        of_code = {index for index, plugin in enumerate(config.plugins) if plugin.type not in kinds}
        return factories.problems(config, of_code.union(suspect))

    return check
