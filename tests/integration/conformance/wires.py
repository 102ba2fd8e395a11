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

__all__ = ["WIRES", "Server", "Wire"]

Auth = Mapping[str, Any]

ROOT = str(Path(__file__).resolve().parents[3])


def _command(plugin: str, url: str, auth: Auth) -> list[str]:
    return [sys.executable, "-m", "tests.integration.conformance.server", plugin, url, json.dumps(auth)]


class Server(Protocol):
    """A plugin that is being served.

    Attributes:
        config: how a plugin's configuration names it.
    """

    config: dict[str, Any]

    def start(self) -> None:
        """Serves, again where it was before."""
        ...

    def kill(self) -> None:
        """Ends it without a warning, calls under way and all."""
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
        said = self._process.stdout.readline()
        assert said.startswith("listening on "), self._log.read_text()
        transport, endpoint = self._url.partition(":")[0], said.split()[-1]
        self._url = endpoint if "://" in endpoint else f"{transport}://{endpoint}"  # with the port it has got
        self.config = {"transport": transport, "endpoint": endpoint, "options": self._options}

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


class Program:
    """A program that the plugin starts by itself, any number of times."""

    def __init__(self, plugin: str, auth: Auth, folder: Path) -> None:
        self._pids = folder / "pids"
        self._script = folder / "plugin"
        command = shlex.join(_command(plugin, "stdio:", auth))
        # The directory's name, as the last argument, marks our processes.
        self._mark = str(folder)
        self._release: Callable[[], object] = lambda: None
        self._script.write_text(f"#!/bin/sh\necho $$ >> {self._pids}\nexec {command} {self._mark}\n")
        self.start()
        self.config = {"transport": "exec", "executable": str(self._script), "work_dir": ROOT}

    def start(self) -> None:
        self._script.chmod(0o700)
        self._release()

    def kill(self) -> None:
        # Busy, as while a new version is being written: worth another attempt, unlike what may not be executed.
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
        """Whether it is alive, and not another one that has got its number."""
        try:
            return self._mark in Path(f"/proc/{number}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False


class Imported:
    """A plugin in this process. Nobody can kill it."""

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
        serve: starts a server for a plugin by its name, which expects credentials if there are any, in an empty
            directory.
        remote: whether the plugin runs in another process, so that it can die, be strange and be refused.
        tells_info: whether the plugin can be asked who it is.
    """

    name: str
    serve: Callable[[str, Auth, Path], Server]
    remote: bool = True
    tells_info: bool = True


WIRES = (
    Wire("http", listening("http://127.0.0.1:0"), tells_info=False),
    Wire("http-requests", listening("http://127.0.0.1:0", engine="requests"), tells_info=False),
    Wire("grpc", listening("grpc://127.0.0.1:0")),
    Wire("unix", listening("unix://{folder}/plugin.sock")),
    Wire("exec", Program),
    Wire("python", Imported, remote=False),
)
