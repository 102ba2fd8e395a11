"""``connection.max_lifetime``: connections, channels and processes are replaced between calls."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import pytest

from goplugins import PluginError
from tests.integration.conformance.conftest import in_threads, join, remote, until
from tests.integration.conformance.plugins import Task

pytestmark = pytest.mark.matrix


def links() -> set[str]:
    """The sockets and pipes of this process."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target.startswith(("socket:", "pipe:")):
                found.add(target)
    return found


@remote
def test_a_connection_gets_no_call_after_its_lifetime(connect):
    connect().execute("p", Task(value=1))  # opens also what stays open, such as the pipes of the supervisor thread
    manager = connect(connection={"max_lifetime": 0.3, "max_connections": 1})
    before = links()
    manager.execute("p", Task(value=1))
    first = links() - before
    manager.execute("p", Task(value=1))
    time.sleep(0.31)
    manager.execute("p", Task(value=1))
    until(lambda: not first & links())
    assert links() - before


@remote
def test_no_call_is_lost_while_connections_are_replaced(connect):
    manager = connect(connection={"max_lifetime": 0.02, "max_connections": 4}, retry={"max_retries": 0})
    errors: list[Any] = []
    end = time.monotonic() + 0.7

    def work(thread: int) -> None:
        while time.monotonic() < end:
            try:
                manager.execute("p", Task(value=thread, seconds=0.005), timeout=30)
            except PluginError as error:
                errors.append(error)

    join(in_threads(8, work), 40)
    assert errors == []


def test_plugins_in_this_process_accept_the_setting(connect):
    """One ``default_connection`` may apply to all plugins."""
    assert connect(connection={"max_lifetime": 60}).execute("p", Task(value=1)).value == 1
