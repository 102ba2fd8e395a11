"""``manage.py plugins status|call|explain|reload``."""

from __future__ import annotations

from argparse import ArgumentParser
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from goplugins.contrib import _commands as commands
from goplugins.contrib.django import hosted, project_settings
from goplugins.errors import PluginError

__all__ = ["Command"]


class Command(BaseCommand):
    """Shows and calls the project's plugins from a process of its own."""

    help = "Shows and calls the project's plugins, and has running workers load a new configuration."

    def add_arguments(self, parser: CommandParser) -> None:
        """See Django."""
        # A CommandParser needs constructor arguments that add_subparsers() does not pass.
        actions = parser.add_subparsers(
            dest="action", metavar="status|call|explain|reload", required=True, parser_class=ArgumentParser
        )
        actions.add_parser("status", help=commands.STATUS_HELP)
        call = actions.add_parser("call", help=commands.CALL_HELP)
        call.add_argument("name")
        call.add_argument("request", metavar="JSON", help="the request; - reads it from stdin")
        call.add_argument("--timeout", type=float, metavar="SECONDS")
        call.add_argument("--idempotent", action="store_true", help="the call may be executed twice")
        call.add_argument("--operation", metavar="NAME", help=commands.OPERATION_HELP)
        explain = actions.add_parser("explain", help=commands.EXPLAIN_HELP)
        explain.add_argument("name")
        reload = actions.add_parser("reload", help=commands.RELOAD_HELP)
        reload.add_argument("--pid", metavar="PID|FILE", help="the server's main process, or its pid file: gets SIGHUP")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        """See Django.

        Raises:
            CommandError: what went wrong.
        """
        write = partial(self.stdout.write, ending="\n")
        try:
            manager = hosted.get()
            match action:
                case "status":
                    if not commands.status(manager, write):
                        raise CommandError("not all plugins are healthy")
                case "call":
                    given = (options[name] for name in ("name", "request", "timeout", "idempotent"))
                    commands.call(manager, write, *given, operation=options["operation"])
                case "explain":
                    commands.explain(manager, write, options["name"])
                case "reload":
                    commands.reload(manager, project_settings(), write, options["pid"])
        except PluginError as error:
            raise CommandError(str(error)) from error
