"""The wires that the suite runs over. A new transport is one more line in ``WIRES``."""

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
    """A plugin that is being served.

    Attributes:
        config: how a plugin's configuration names it.
    """

    config: dict[str, Any]

    def start(self) -> None:
        """Serves, at the same address as before."""
        ...

    def kill(self) -> None:
        """Kills it, with all calls in flight."""
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
            self._url = endpoint  # with the port that the system has chosen
        else:
            self._url = f"{scheme}://{endpoint}"

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


class Program:
    """A program that the transport starts, any number of times."""

    def __init__(self, plugin: str, auth: Auth, folder: Path) -> None:
        self._pids = folder / "pids"
        self._script = folder / "plugin"
        command = shlex.join(_command(plugin, "stdio:", auth))
        # The directory's name, as the last argument, identifies our processes.
        self._mark = str(folder)
        self._release: Callable[[], object] = lambda: None
        self._script.write_text(f"#!/bin/sh\necho $$ >> {self._pids}\nexec {command} {self._mark}\n")
        self.start()
        self.config = {"transport": "exec", "executable": str(self._script), "work_dir": ROOT}

    def start(self) -> None:
        self._script.chmod(0o700)
        self._release()

    def kill(self) -> None:
        # The file is busy (ETXTBSY), which is retried, unlike a file without permission to execute.
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
        """Whether the process is alive, and its id not reused by another one."""
        try:
            return self._mark in Path(f"/proc/{number}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False


class Imported:
    """A plugin in this process, which can't be killed."""

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
    """One transport, both sides.

    Attributes:
        serve: starts a server for a plugin by its name, which requires credentials if there are any, in an empty
            directory.
        remote: whether the plugin runs in another process, which can be killed and can require credentials.
        has_info: whether the wire has a request for the plugin's info.
        rare: whether `make processes` runs it and `make test` does not.
    """

    name: str
    serve: Callable[[str, Auth, Path], Server]
    remote: bool = True
    has_info: bool = True
    rare: bool = False

    def marked(self, *marks: pytest.MarkDecorator) -> Any:
        """This wire as a parameter."""
        return pytest.param(self, marks=[*marks, pytest.mark.processes] if self.rare else marks)


WIRES = (
    Wire("http", listening("http://127.0.0.1:0"), has_info=False),
    # Its engine is tested in the HTTP folder as well.
    Wire("http-requests", listening("http://127.0.0.1:0", engine="requests"), has_info=False, rare=True),
    Wire("grpc", listening("grpc://127.0.0.1:0")),
    Wire("unix", listening("unix://{folder}/plugin.sock")),
    Wire("framed", listening("framed:{folder}/plugin.sock")),
    Wire("exec", Program),
    Wire("python", Imported, remote=False),
)
