"""The process of the caller: its forks, and its open resources after the shutdown of a manager."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.integration.conformance.conftest import configuration, slow
from tests.integration.conformance.wires import ROOT


def run(command_name: str, config: dict[str, Any]) -> Any:
    """The output of the program in ``host.py``."""
    command = [sys.executable, "-m", "tests.integration.conformance.host", command_name, json.dumps(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@slow
def test_forked_children_and_their_parent_make_calls(wire, shared):
    found = run("fork", configuration(shared(wire, "worker")))
    assert found == {
        "parent first": [0, 1, 2, 0],
        "fresh child": 5,
        "child": [10, 11, 12, 0],
        "parent again": [20, 21, 22, 0],
        "grandchild": [30, [40, 41, 42, 0], 31],
        "child that closes": None,
        "children's health": "healthy",
        "parent last": [50, 51, 52, 0],
    }


@slow
def test_managers_leak_no_resources(wire, shared):
    """No descriptor, thread or process, after calls that succeeded, failed, timed out and were interrupted."""
    connection = {"max_connections": 4, "max_idle_connections": 4}
    found = run("leaks", configuration(shared(wire, "worker"), connection=connection))
    before, after = found["before"], found["after"]
    assert [now for then, now in zip(before, after, strict=True) if now > then] == [], found
