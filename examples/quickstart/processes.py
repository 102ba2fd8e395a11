"""Starts and stops plugin processes for the demo."""

import os
import subprocess
import sys
from pathlib import Path


class PluginProcess:
    """One `goplugins serve` process; keeps its addresses when it is killed and started again.

    Attributes:
        addresses: what it said it listens on, such as http://127.0.0.1:40123.
    """

    def __init__(self, target: str, directory: Path, where: list[str], token_variable: str | None = None) -> None:
        self.target = target
        self.directory = directory
        self.where = where
        self.options = ["--auth-bearer-env", token_variable] if token_variable else []
        self.addresses: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "goplugins", "serve", self.target, *self.where, *self.options]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, cwd=self.directory, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline() for _ in range(len(self.where) // 2)]
        if not all(line.startswith("listening on ") for line in lines):
            raise RuntimeError(f"{self.target} did not start: {lines}")
        self.addresses = [line.removeprefix("listening on ").strip() for line in lines]
        # A second start takes the same ports again.
        ports = iter(address.rpartition("//")[2] for address in self.addresses)
        self.where = [next(ports) if argument.endswith(":0") else argument for argument in self.where]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
        self._gone()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._gone()

    def _gone(self) -> None:
        if self.process is not None:
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None
