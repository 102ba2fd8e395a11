"""Calls one plugin of a file, and writes its answer as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from goplugins.cli._common import add_config, manager_of, printable, request_of
from goplugins.cli._figures import duration
from goplugins.errors import ConfigError, InvalidArgumentError, PluginError, PluginNotFoundError

__all__ = ["add_command"]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``call``."""
    parser = commands.add_parser("call", help="call a plugin", description=_execute.__doc__)
    add_config(parser)
    parser.add_argument("name", metavar="NAME", help="the plugin, or the group")
    parser.add_argument("request", metavar="JSON", help="the request; - reads it from stdin")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for the whole call")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="sent along; repeatable")
    parser.add_argument("--key", metavar="TEXT", help="what a consistent-hash group routes by")
    parser.add_argument("--idempotent", action="store_true", help="it may be done twice: more failures are tried again")
    parser.add_argument("--verbose", "-v", action="store_true", help="on stderr, who answered, and how fast")
    parser.set_defaults(execute=_execute)


def _execute(arguments: argparse.Namespace) -> int:
    """Calls a plugin under the policies of its file, and writes the answer as JSON.

    Exits with 0 for an answer, 1 for a call that failed, 2 for a file or a request that can't be used.
    """
    request = request_of(arguments.request)
    headers = dict(_header(text) for text in arguments.header)
    with manager_of(arguments.config) as manager:
        try:
            result = manager.execute_result(
                arguments.name,
                request,
                timeout=arguments.timeout,
                idempotent=True if arguments.idempotent else None,
                key=arguments.key,
                headers=headers or None,
            )
        except (ConfigError, InvalidArgumentError, PluginNotFoundError):
            raise
        except PluginError as exc:
            sys.stderr.write(f"goplugins: {printable(exc)}{_when(exc)}\n")
            return 1
    _write(result.value)
    if arguments.verbose:
        what = f"{result.source} {result.member}".strip()
        sys.stderr.write(f"{printable(what)}, {result.attempts} attempt(s), {duration(result.elapsed)}\n")
    return 0


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidArgumentError(f"--header {printable(name)}: expected NAME=VALUE")
    return name, value


def _when(error: PluginError) -> str:
    return f" (try again in {duration(error.retry_after)})" if error.retry_after else ""


def _write(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
