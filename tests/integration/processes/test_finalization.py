"""Calls made while the interpreter tears itself down: an answer or one PluginError, at once, and nothing on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from goplugins import serve
from tests.integration.exec.conftest import PROGRAM
from tests.integration.processes.conftest import ROOT

_SCRIPT = """
import json, sys, time
from goplugins import Manager, PluginError

manager = Manager()
manager.load_from_config(json.loads(sys.argv[1]))
{before}

class Last:
    def __del__(self, print=print, PluginError=PluginError, time=time, manager=manager):
        started = time.monotonic()
        try:
            found = manager.execute("p", 7, timeout=20)
        except PluginError as error:
            found = error.message
        print(f"{{found}} after {{time.monotonic() - started:.0f} s", flush=True)

last = Last()
last.itself = last
"""

WAYS = {"first": "", "later": 'manager.execute("p", 7, timeout=20)', "of another": 'manager.execute("other", 7)'}


@serve.plugin(name="echo")
def echo(request: int) -> int:
    """The request."""
    return request


@pytest.fixture(scope="module")
def plugins() -> Iterator[dict[str, dict[str, Any]]]:
    """A plugin of each transport."""
    with (
        tempfile.TemporaryDirectory(prefix="gp-") as folder,
        serve.start(echo) as web,
        serve.start(echo, "grpc://127.0.0.1:0") as grpc,
        serve.start(echo, f"unix://{folder}/s") as unix,
    ):
        yield {
            "exec": {"transport": "exec", "executable": sys.executable, "args": ["-I", "-S", PROGRAM]},
            "http": {"transport": "http", "endpoint": web.endpoint},
            "grpc": {"transport": "grpc", "endpoint": grpc.endpoint},
            "unix": {"transport": "unix", "endpoint": unix.endpoint},
        }


@pytest.mark.processes
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wire", ["exec", "http", "grpc", "unix"])
def test_a_call_in_a_finalizer_ends(plugins: dict[str, dict[str, Any]], wire: str, way: str) -> None:
    other = {
        "name": "other",
        "transport": "python",
        "endpoint": "tests.integration.conformance.plugins:echo",
        "health_check": {"kind": "none"},
    }
    config = {"plugins": [{"name": "p", **plugins[wire]}, other]}
    script = _SCRIPT.replace("{before}", WAYS[way]).replace("{{", "{").replace("}}", "}")
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found, _, took = done.stdout.strip().rpartition(" after ")
    assert found == "7" or "interpreter is exiting" in found or "shutting down" in found
    assert float(took.removesuffix(" s")) <= 2
