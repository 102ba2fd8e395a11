"""Starts and stops the processes of the demo."""

import os
import subprocess
import sys
from pathlib import Path


class PluginProcess:
    """One `goplugins serve` process, or a script of its own; a second start uses the same ports.

    Attributes:
        addresses: the addresses that it listens on, such as http://127.0.0.1:40123.
    """

    def __init__(self, target: str, directory: Path, listen: list[str], token_variable: str | None = None) -> None:
        self.target = target
        self.directory = directory
        self.listen = listen
        self.options = ["--auth-bearer-env", token_variable] if token_variable else []
        self.addresses: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        program = [self.target] if self.target.endswith(".py") else ["-m", "goplugins", "serve", self.target]
        command = [sys.executable, *program, *self.listen, *self.options]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, cwd=self.directory, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(len(self.listen) // 2)]
        if not all(line.startswith("listening on ") for line in lines):
            raise RuntimeError(f"{self.target} did not start: {lines}")
        self.addresses = [line.removeprefix("listening on ").strip() for line in lines]
        # The next start uses the same ports.
        ports = iter(address.rpartition("//")[2] for address in self.addresses)
        self.listen = [next(ports) if argument.endswith(":0") else argument for argument in self.listen]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
        self._reap()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._reap()

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None
