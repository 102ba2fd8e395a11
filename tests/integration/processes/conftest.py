"""A process that serves over every transport, and scripts that run in processes of their own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = str(Path(__file__).resolve().parents[3])

_PREAMBLE = """
import ctypes, gc, json, multiprocessing, os, signal, socket, subprocess, sys, threading, time
from tests.integration.processes.host import *
from tests.processes import children
from tests.timing import until

WHERE = json.loads(sys.argv[1])

def report(value):
    print(json.dumps(value), flush=True)
"""


@pytest.fixture(scope="session")
def where() -> Iterator[dict[str, str]]:
    """Addresses of the servers, by transport."""
    folder = tempfile.mkdtemp(prefix="gp-")  # short: a socket's path has no room for pytest's own
    command = [sys.executable, "-m", "tests.integration.processes.server", folder]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield json.loads(server.stdout.readline())
    finally:
        server.communicate()
        shutil.rmtree(folder)


@pytest.fixture
def run(where: dict[str, str]) -> Callable[..., Any]:
    """Runs a script and returns the values that it reports. ``before`` is code that comes before all imports."""

    def run(script: str, *, before: str = "", timeout: float = 50.0) -> Any:
        code = before + _PREAMBLE + textwrap.dedent(script)
        # From Python 3.12 on, a fork beside other threads warns; here it is on purpose.
        warnings = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        command = [sys.executable, *warnings, "-c", code, json.dumps(where)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
        lines = [line for line in done.stderr.splitlines() if "skipping fork() handlers" not in line]  # grpc's own
        assert (done.returncode, lines) == (0, []), done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run
