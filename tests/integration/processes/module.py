"""A module of an application, with its manager."""

from __future__ import annotations

import sys

from goplugins import Manager
from tests.integration.processes.host import call_all, configuration

manager = Manager()
_loaded: list[bool] = []


def prepare(where: dict[str, str]) -> None:
    """Loads the configuration, once a process or in the parent of all."""
    if not _loaded:
        _loaded.append(True)
        manager.load_from_config(configuration(where))


def work(value: int) -> object:
    return call_all(manager, value)


def check(where: dict[str, str]) -> None:
    prepare(where)
    sys.exit(9 if work(3) == 3 else 1)
