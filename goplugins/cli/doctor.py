"""``goplugins doctor``: checks a configuration and its server for known problems."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

import attrs

from goplugins.cli._common import new_command

if TYPE_CHECKING:
    from goplugins.config import PluginConfig
    from goplugins.doctor import Host


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``doctor``."""
    parser = new_command(commands, "doctor", "check for known problems", _examine)
    parser.add_argument("--config", metavar="FILE", help="configuration file that the application loads")
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes that load it")
    parser.add_argument(
        "--worker-timeout",
        type=float,
        metavar="SECONDS",
        help="seconds after which the server ends a worker that is busy with one request or task",
    )
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="command that starts the application, such as: -- gunicorn --workers 4 app:app. It is not run",
    )


def _examine(arguments: argparse.Namespace) -> int:
    """Reports known problems, their reason and a fix. Exit code: 0 for none, 1 for any, 2 if a file is not valid."""
    from goplugins.config.problems import counted
    from goplugins.doctor import examine

    host = _host(arguments)
    findings = examine(_plugins(arguments.config), host)
    for finding in findings:
        sys.stdout.write(f"{finding.what} [{finding.kind}]\n  why: {finding.why}\n  fix: {finding.fix}\n")
    where = f" under {host.name}" if host.name else ""
    sys.stdout.write(
        f"{counted(findings, 'problem') if findings else 'no problem'} found{where}{_not_checked(arguments, host)}\n"
    )
    return 1 if findings else 0


def _host(arguments: argparse.Namespace) -> Host:
    from goplugins.doctor import host_here
    from goplugins.doctor.server_command import host_of

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    host = host_of(command, os.environ)
    host = attrs.evolve(host, grpc_forks=host_here().grpc_forks)
    if arguments.workers is not None:
        host = attrs.evolve(host, workers=arguments.workers)
    if arguments.worker_timeout is not None:
        host = attrs.evolve(host, limit=arguments.worker_timeout, limit_name="the worker's limit")
    return host


def _plugins(name: str | None) -> list[PluginConfig]:
    if name is None:
        return []
    from goplugins.config.groups import spread
    from goplugins.config.manager import load

    return list(spread(load(name, check_files=True).resolved).plugins)


def _not_checked(arguments: argparse.Namespace, host: Host) -> str:
    skipped = []
    if arguments.config is None:
        skipped.append("plugins (--config FILE)")
    if not host.name:
        skipped.append("the server (-- COMMAND)")
    return f"; not checked: {', '.join(skipped)}" if skipped else ""
