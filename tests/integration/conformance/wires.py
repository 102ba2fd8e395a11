"""The transports of the conformance tests. A new transport is one more line in ``WIRES``."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from examples.custom_transport.transport import FramedFactory
from goplugins import Manager

__all__ = ["WIRES", "Server", "Wire", "manager_of"]

Auth = Mapping[str, Any]

ROOT = str(Path(__file__).resolve().parents[3])


def _command(plugin: str, url: str, auth: Auth) -> list[str]:
    return [sys.executable, "-m", "tests.integration.conformance.server", plugin, url, json.dumps(auth)]


def manager_of(configuration: Mapping[str, Any], *types: Any) -> Manager[Any, Any]:
    """A manager that has loaded a configuration, with the transport of examples/custom_transport."""
    manager: Manager[Any, Any] = Manager(*types)
    manager.register_factory("framed", FramedFactory())
    manager.load_from_config(configuration)
    return manager


class Server(Protocol):
    """A served plugin.

    Attributes:
        config: the settings of a plugin's configuration that address it.
    """

    config: dict[str, Any]

    def start(self) -> None:
        """Starts serving, at the same address as before."""
        ...

    def kill(self) -> None:
        """Kills the server with all calls in flight."""
        ...


class Listening:
    """A server process that listens at an address."""

    def __init__(self, url: str, plugin: str, auth: Auth, folder: Path, options: Mapping[str, Any]) -> None:
        self._url = url.format(folder=folder)
        self._options = dict(options)
        self._plugin, self._auth = plugin, auth
        self._log = folder / "log"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("a") as log:
            command = _command(self._plugin, self._url, self._auth)
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("listening on "), self._log.read_text()
        scheme, endpoint = self._url.partition(":")[0], line.split()[-1]
        self.config = {"transport": scheme, "endpoint": endpoint, "options": self._options}
        if scheme == "framed":
            self.config |= {"type": "framed", "transport": "unix"}
        elif "://" in endpoint:
            self._url = endpoint  # with the port chosen by the system
        else:
            self._url = f"{scheme}://{endpoint}"

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


class Program:
    """A program that the transport starts as often as needed."""

    def __init__(self, plugin: str, auth: Auth, folder: Path) -> None:
        self._pids = folder / "pids"
        self._script = folder / "plugin"
        command = shlex.join(_command(plugin, "stdio:", auth))
        # The name of the directory, as the last argument, identifies the processes of this program.
        self._mark = str(folder)
        self._release: Callable[[], object] = lambda: None
        self._script.write_text(f"#!/bin/sh\necho $$ >> {self._pids}\nexec {command} {self._mark}\n")
        self.start()
        self.config = {"transport": "exec", "executable": str(self._script), "work_dir": ROOT}

    def start(self) -> None:
        self._script.chmod(0o700)
        self._release()

    def kill(self) -> None:
        # Starts fail with ETXTBSY, which is retried, unlike EACCES of a file without execute permission.
        self._release()
        self._release = weakref.finalize(self, os.close, os.open(self._script, os.O_WRONLY))
        numbers = self._pids.read_text().split() if self._pids.exists() else []
        ours = [number for number in numbers if self._is_ours(number)]
        for number in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
        while any(self._is_ours(number) for number in ours):
            time.sleep(0.001)

    def _is_ours(self, number: str) -> bool:
        """Whether the process is alive, and its id is not reused."""
        try:
            return self._mark in Path(f"/proc/{number}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False


class Imported:
    """A plugin in this process."""

    def __init__(self, plugin: str, auth: Auth, folder: Path) -> None:
        endpoint = f"tests.integration.conformance.plugins:{plugin}"
        self.config = {"transport": "python", "endpoint": endpoint, "options": {"isolate": True}}

    def start(self) -> None: ...

    def kill(self) -> None: ...


def listening(url: str, **options: Any) -> Callable[[str, Auth, Path], Server]:
    """Servers at ``url``, called with these ``options``."""
    return lambda plugin, auth, folder: Listening(url, plugin, auth, folder, options)


@dataclass(frozen=True)
class Wire:
    """One transport, with its servers.

    Attributes:
        serve: starts a server in an empty directory, given the name of a plugin and the expected credentials.
        remote: whether the plugin runs in another process, which can be killed and can require credentials.
        has_info: whether the transport has a request for the plugin's info.
        listens: whether the plugin listens before the first call, or starts with it.
        rare: whether only `make processes` runs it, and not `make test`.
    """

    name: str
    serve: Callable[[str, Auth, Path], Server]
    remote: bool = True
    has_info: bool = True
    listens: bool = True
    rare: bool = False

    def marked(self, *marks: pytest.MarkDecorator) -> Any:
        """This wire as a test parameter."""
        return pytest.param(self, marks=[*marks, pytest.mark.processes] if self.rare else marks)


WIRES = (
    Wire("http", listening("http://127.0.0.1:0"), has_info=False),
    # The engine is also tested by tests/integration/http.
    Wire("http-requests", listening("http://127.0.0.1:0", engine="requests"), has_info=False, rare=True),
    Wire("grpc", listening("grpc://127.0.0.1:0")),
    Wire("unix", listening("unix://{folder}/plugin.sock")),
    Wire("framed", listening("framed:{folder}/plugin.sock")),
    Wire("exec", Program, listens=False),
    Wire("python", Imported, remote=False),
)
