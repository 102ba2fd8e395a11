"""Starts and stops plugin processes for the demo."""

import os
import subprocess
import sys
from pathlib import Path


class PluginProcess:
    """One `goplugins serve` process; keeps its port when it is killed and started again."""

    def __init__(self, target: str, directory: Path, token_variable: str | None = None) -> None:
        self.target = target
        self.directory = directory
        self.options = ["--auth-bearer-env", token_variable] if token_variable else []
        self.address = "127.0.0.1:0"
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def start(self) -> None:
        command = [sys.executable, "-m", "goplugins", "serve", self.target, "--http", self.address, *self.options]
        self.process = subprocess.Popen(
            command, cwd=self.directory, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "http://" not in line:
            raise RuntimeError(f"{self.target} did not start: {line!r}")
        self.address = line.rsplit("http://", 1)[1].strip().rstrip("/")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None
