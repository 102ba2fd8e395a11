"""``goplugins call``: calls one plugin, and writes its answer as JSON."""

from __future__ import annotations

import argparse
import sys

from goplugins.cli._common import headers_of, manager_of, new_command
from goplugins.cli._figures import duration
from goplugins.contrib import _commands as commands
from goplugins.errors import ConfigError, InvalidArgumentError, PluginError, PluginNotFoundError
from goplugins.runtime.text import printable


def add_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``call``."""
    parser = new_command(subparsers, "call", commands.CALL_HELP, _execute, config=True)
    parser.add_argument("name", metavar="NAME", help="name of the plugin or group")
    parser.add_argument("request", metavar="JSON", help="the request; - reads it from stdin")
    parser.add_argument("--operation", metavar="NAME", help=commands.OPERATION_HELP)
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="timeout of the whole call")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    parser.add_argument("--key", metavar="TEXT", help="key by which a consistent-hash group picks the member")
    parser.add_argument("--idempotent", action="store_true", help="the call may be repeated after any failure")
    parser.add_argument("--verbose", "-v", action="store_true", help="write member, attempts and duration to stderr")


def _execute(arguments: argparse.Namespace) -> int:
    """Calls a plugin with the policies of the file, and writes the answer as JSON.

    Exit code: 0 for an answer, 1 for a call that failed, 2 for a file or an argument that is not valid.
    """
    headers = headers_of(arguments.header)
    with manager_of(arguments.config) as manager:
        try:
            result = commands.call(
                manager,
                lambda line: sys.stdout.write(f"{line}\n"),
                arguments.name,
                arguments.request,
                arguments.timeout,
                arguments.idempotent,
                key=arguments.key,
                headers=headers,
                operation=arguments.operation,
            )
        except (ConfigError, InvalidArgumentError, PluginNotFoundError):
            raise
        except PluginError as exc:
            again = f" (try again in {duration(exc.retry_after)})" if exc.retry_after else ""
            sys.stderr.write(f"goplugins: {printable(exc)}{again}\n")
            return 1
    if arguments.verbose:
        answered_by = f"{result.source} {result.member}".strip()
        sys.stderr.write(f"{printable(answered_by)}, {result.attempts} attempt(s), {duration(result.elapsed)}\n")
    return 0
