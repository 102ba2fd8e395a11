"""A process that serves over every wire, and scripts that run in processes of their own."""

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

WHERE = json.loads(sys.argv[1])

def say(told):
    print(json.dumps(told), flush=True)
"""


@pytest.fixture(scope="session")
def where() -> Iterator[dict[str, str]]:
    """Where the servers are, by wire."""
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
    """Runs a script and returns what it said, line by line; with ``before``, lines that come before all imports."""

    def run(script: str, *, before: str = "", timeout: float = 50.0) -> Any:
        code = before + _PREAMBLE + textwrap.dedent(script)
        command = [sys.executable, "-W", "error", "-c", code, json.dumps(where)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
        said = [line for line in done.stderr.splitlines() if "skipping fork() handlers" not in line]  # grpc's own word
        assert (done.returncode, said) == (0, []), done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run
