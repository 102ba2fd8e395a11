"""``goplugins dashboard``: serves a page about the plugins of a file, until Ctrl-C."""

from __future__ import annotations

import argparse
import ipaddress
import signal
import sys

from goplugins.cli._common import manager_of, new_command
from goplugins.errors import InvalidArgumentError

_LOCALHOST = "127.0.0.1"
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORT = 8765


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``dashboard``."""
    help_text = "serve a page that shows the state of the plugins"
    parser = new_command(commands, "dashboard", help_text, _execute, config=True)
    parser.add_argument("--host", default=_LOCALHOST, help=f"address to listen at (default: {_LOCALHOST})")
    parser.add_argument(
        "--port", type=int, default=_PORT, help=f"port to listen at; 0 for any free one (default: {_PORT})"
    )
    parser.add_argument("--watch", action="store_true", help="reload the file when it changes")
    parser.add_argument(
        "--allow-actions", action="store_true", help="enable the buttons; they affect the plugins of this process only"
    )


def _execute(arguments: argparse.Namespace) -> int:
    """Serves a page that shows the state of the plugins of a file, until SIGINT or SIGTERM.

    The page shows health, but no calls, since this process makes none. To see the calls of an application, mount
    goplugins.contrib.dashboard in it.
    """
    from goplugins.contrib.dashboard._app import Dashboard
    from goplugins.contrib.dashboard._board import Board
    from goplugins.contrib.dashboard._server import PageServer

    local = _is_local(arguments.host)
    if arguments.allow_actions and not local:
        raise InvalidArgumentError(
            "--allow-actions needs a loopback --host: anyone who can reach the port could use the buttons"
        )
    if not local:
        sys.stderr.write(
            f"warning: anyone who can reach port {arguments.port} can see plugins, errors and configuration\n"
        )
    with manager_of(arguments.config) as manager:
        board = Board(manager, always=True)
        # Against DNS rebinding: a request for another host name is refused.
        hosts = _LOCAL_NAMES | {arguments.host.lower()} if local else None
        allow = (lambda _: True) if arguments.allow_actions else None
        app = Dashboard(board, authorize=allow, title=arguments.config, hosts=hosts)
        with PageServer(app, arguments.host, arguments.port) as server:
            board.request()
            if arguments.watch:
                manager.watch(arguments.config)
            sys.stdout.write(f"dashboard at {server.url}\n")
            sys.stdout.flush()
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return 0
            finally:
                signal.signal(signal.SIGTERM, before)
    return 0


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
