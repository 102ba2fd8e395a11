"""``goplugins health``: checks the health of all plugins of a file, once."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping

from goplugins.cli._common import Column, manager_of, new_command, write_table
from goplugins.cli._figures import NONE, duration
from goplugins.enums import PluginStatus
from goplugins.models.results import HealthStatus

_COLUMNS: tuple[Column, ...] = (("plugin", False), ("status", False), ("took", True), ("message", False))

_STYLES = {
    PluginStatus.HEALTHY: "green",
    PluginStatus.UNKNOWN: "dim",
    PluginStatus.DEGRADED: "bold yellow",
    PluginStatus.UNHEALTHY: "bold red",
    PluginStatus.OFFLINE: "bold red",
}
_GOOD = frozenset({PluginStatus.HEALTHY, PluginStatus.UNKNOWN})


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``health``."""
    parser = new_command(commands, "health", "check the health of all plugins", _execute, config=True)
    parser.add_argument("names", metavar="NAME", nargs="*", help="only these plugins (default: all)")
    parser.add_argument("--json", action="store_true", help="write JSON")


def _execute(arguments: argparse.Namespace) -> int:
    """Checks the health of all plugins of a file, concurrently.

    Exit code: 0 if all are healthy or report no health, 1 if one is degraded, unhealthy or offline, 2 if the file is
    not valid.
    """
    with manager_of(arguments.config) as manager:
        for name in arguments.names:
            manager.explain(name)  # raises if no plugin has that name
        found = manager.health()
    chosen = {name: found[name] for name in arguments.names or sorted(found)}
    if arguments.json:
        _write_json(chosen)
    else:
        write_table(_COLUMNS, [_row(name, status) for name, status in chosen.items()])
    return 0 if all(status.status in _GOOD for status in chosen.values()) else 1


def _row(name: str, health: HealthStatus) -> list[tuple[str, str]]:
    took = duration(health.response_time) if health.response_time else NONE
    return [(name, "bold"), (str(health.status), _STYLES[health.status]), (took, ""), (health.message, "")]


def _write_json(found: Mapping[str, HealthStatus]) -> None:
    values = {
        name: {"status": str(each.status), "message": each.message, "response_time": each.response_time}
        for name, each in found.items()
    }
    sys.stdout.write(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
