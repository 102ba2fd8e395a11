from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins.config import AuthConfig, ConnectionConfig, HealthCheckConfig, PluginConfig
from goplugins.transports.exec import ExecPlugin

PROGRAM = str(Path(__file__).with_name("program.py"))
PYTHON = os.path.realpath(sys.executable)


def config(
    *flags: str,
    executable: str = PYTHON,
    args: list[str] | None = None,
    options: dict[str, Any] | None = None,
    env: list[str] | None = None,
    work_dir: str = "",
    auth: AuthConfig | None = None,
    kind: str | None = None,
    **connection: Any,
) -> PluginConfig:
    return PluginConfig(
        name="p",
        transport="exec",  # type: ignore[arg-type]
        executable=executable,
        # -I and -S: without the environment's site-packages it starts in half the time.
        args=["-I", "-S", PROGRAM, *flags] if args is None else args,  # type: ignore[arg-type]
        options=options or {},
        env=env or [],  # type: ignore[arg-type]
        work_dir=work_dir,
        auth=auth,
        health_check=HealthCheckConfig(kind=kind),
        connection=ConnectionConfig(**connection),
    )


@pytest.fixture
def make() -> Iterator[Callable[..., ExecPlugin]]:
    """Makes plugins, closes them after the test, and waits until their processes are gone."""
    plugins: list[ExecPlugin] = []

    def build(*flags: str, **settings: Any) -> ExecPlugin:
        plugins.append(ExecPlugin(config(*flags, **settings)))
        return plugins[-1]

    yield build
    for plugin in plugins:
        plugin.close()
    until(lambda: not exec_threads())


def exec_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("goplugins-exec")]


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether there is such a process; a zombie counts as one."""
    return os.path.exists(f"/proc/{pid}")


PREAMBLE = """
import sys
from goplugins.transports.exec import ExecPlugin
from tests.integration.exec.conftest import config
from tests.integration.unix.conftest import call
"""


def start_host(code: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[3])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PREAMBLE + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
    )


def line_of(host: subprocess.Popen[str]) -> str:
    assert host.stdout is not None
    line = host.stdout.readline().strip()
    if not line:
        host.kill()
        pytest.fail(end_of(host))
    return line


def end_of(host: subprocess.Popen[str]) -> str:
    assert host.stdout is not None
    assert host.stderr is not None
    host.wait(10)
    with host.stdout, host.stderr:
        return host.stderr.read()
