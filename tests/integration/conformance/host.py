"""Program that calls a plugin and prints its results as JSON: ``... host fork|leaks CONFIGURATION``.

It runs in a process of its own, without threads, descriptors and children of other tests.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goplugins import Manager, PluginError
from tests.integration.conformance import wires
from tests.integration.conformance.plugins import Done, Task, lines_of
from tests.processes import children


def manager_of(configuration: dict[str, Any]) -> Manager[Task, Done]:
    return wires.manager_of(configuration, Task, Done)


# --- forks -----------------------------------------------------------------------------------------------------


def result_of_child(function: Callable[[], Any]) -> Any:
    """The result of ``function`` in a forked child, which then exits normally."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            result = function()
        except Exception as error:  # not SystemExit, which ends a grandchild
            result = repr(error)
        os.write(writer, json.dumps(result).encode())
        os.close(writer)
        sys.exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.loads(text) if text and code == 0 else f"ended with {code}"


def fork(configuration: dict[str, Any]) -> Any:
    """Calls by children, a grandchild and a child of an unused manager, with calls by the parent in between."""
    manager, fresh = manager_of(configuration), manager_of(configuration)

    def call(value: int, caller: Manager[Task, Done] = manager) -> Any:
        return caller.execute("p", Task(value=value), timeout=10).value

    def calls(first: int) -> list[Any]:
        return [*(call(first + number) for number in range(3)), manager.metrics().active_requests]

    results = {
        "parent first": calls(0),
        "fresh child": result_of_child(lambda: call(5, fresh)),
        "child": result_of_child(lambda: calls(10)),
        "parent again": calls(20),
        "grandchild": result_of_child(lambda: [call(30), result_of_child(lambda: calls(40)), call(31)]),
        "child that closes": result_of_child(lambda: manager.shutdown(5)),
        "children's health": result_of_child(lambda: manager.health()["p"].status),
        "parent last": calls(50),
    }
    manager.shutdown(5)
    fresh.shutdown(5)
    return results


# --- leaks -----------------------------------------------------------------------------------------------------


def open_resources() -> tuple[int, int, int]:
    """Descriptors, threads and child processes of this process."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children())


def settled(goal: tuple[int, ...] = (0, 0, 0), patience: float = 0.5) -> tuple[int, int, int]:
    """Counts of open resources once they are at most ``goal``, or have not changed for ``patience`` seconds."""
    found, since = open_resources(), time.monotonic()
    while time.monotonic() < since + patience and not all(map(int.__le__, found, goal)):
        time.sleep(0.02)
        now = open_resources()
        if now != found:
            found, since = now, time.monotonic()
    return found


def interrupted(manager: Manager[Task, Done], folder: str) -> None:
    ledger, gate = (os.path.join(folder, f"{name}-{time.monotonic_ns()}") for name in ("ledger", "gate"))

    def strike() -> None:
        while not lines_of(ledger):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        manager.execute("p", Task(until=gate, ledger=ledger), timeout=15)
        raise AssertionError("the interrupt was not raised")
    except KeyboardInterrupt:
        Path(gate).touch()
    thread.join()


def use(configuration: dict[str, Any], folder: str) -> None:
    """Creates a manager, makes calls with all outcomes, and shuts it down."""

    def failing(**arguments: Any) -> None:
        try:
            manager.execute("p", Task(**arguments), timeout=0.2)
            raise AssertionError(f"no error: {arguments}")
        except PluginError:
            pass

    with manager_of(configuration) as manager:
        list(manager.map("p", [Task(value=number) for number in range(20)], concurrency=4))
        manager.health()
        manager.get_plugin("p").info()
        for arguments in ({"do": "reject"}, {"do": "crash"}, {"do": "unavailable"}, {"seconds": 0.4}):
            failing(**arguments)
        interrupted(manager, folder)
        failing(value=float("nan"))
        manager.execute("p", Task())


_MANAGERS = 3


def leaks(configuration: dict[str, Any]) -> dict[str, Any]:
    """Counts of open resources after several managers, and after the first one."""
    with tempfile.TemporaryDirectory() as folder:
        use(configuration, folder)
        before = settled()
        for _ in range(1, _MANAGERS):
            use(configuration, folder)
        return {"before": before, "after": settled(before, patience=3.0)}


if __name__ == "__main__":
    command, text = sys.argv[1:3]
    print(json.dumps({"fork": fork, "leaks": leaks}[command](json.loads(text))))
