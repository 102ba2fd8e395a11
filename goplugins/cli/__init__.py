"""The command line ``goplugins <command>``: one module for each command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from goplugins.cli import bench, call, config, ctl, dashboard, doctor, health, serve, top
from goplugins.errors import ConfigError, PluginError

__all__ = ["main"]


_COMMANDS = (
    config.add_command,
    serve.add_command,
    call.add_command,
    health.add_command,
    top.add_command,
    dashboard.add_command,
    ctl.add_command,
    bench.add_command,
    doctor.add_command,
)


class _Version(argparse.Action):
    """Reads the version from the installed package's metadata, when it is needed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"goplugins {version('goplugins')}\n")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments after the program's name; those of the process when None.

    Returns:
        The exit code: 0 for success, 1 for a negative result (such as problems found by ``config check``, or a failed
        call), 2 for a command that could not be carried out, with the reasons on stderr.

    Raises:
        SystemExit: by argparse, for ``--help``, ``--version`` and wrong arguments (code 2).
    """
    parser = argparse.ArgumentParser(prog="goplugins", description="Plugins for Go and Python callers.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(metavar="command", required=True)
    for add_command in _COMMANDS:
        add_command(commands)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.execute(arguments)
    except PluginError as exc:
        source = getattr(exc, "source", "")
        for problem in exc.problems if isinstance(exc, ConfigError) else (exc,):
            sys.stderr.write(f"goplugins: {_one_line(problem, source)}\n")
        return 2
    return code


def _one_line(error: PluginError, source: str) -> str:
    path, fix = getattr(error, "path", ""), getattr(error, "fix", "")
    where = "".join(f"{each}: " for each in dict.fromkeys((source, path)) if each not in {"", "configuration"})
    return " ".join(f"{where}{error.message}{f' ({fix})' if fix else ''}".split())
