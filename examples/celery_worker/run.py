"""Starts the plugin and a worker, sends tasks, prints their results, and stops both."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from goplugins import PluginError

HERE = Path(__file__).parent


@contextmanager
def plugin() -> Iterator[str]:
    """Runs the plugin in a process; yields its address."""
    command = [sys.executable, "-m", "goplugins", "serve", "quotes:quotes", "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().removeprefix("listening on ").strip()
        finally:
            process.terminate()


@contextmanager
def worker(log: Path) -> Iterator[None]:
    """Runs a prefork worker; its output goes to ``log``."""
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--concurrency", "2"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--without-gossip", "--without-mingle"], cwd=HERE, stdout=file, stderr=file
        )
    try:
        yield
    except BaseException:
        print(log.read_text(), file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait(20)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, plugin() as url:
        os.environ |= {"QUOTES_URL": url, "WORKER_FOLDER": folder}
        sys.path.insert(0, str(HERE))
        from tasks import quote

        with worker(Path(folder, "worker.log")):
            for symbol in ("ACME", "NOPE", "SLOW"):
                result, started = quote.delay(symbol), time.monotonic()
                try:
                    outcome = f"{result.get(timeout=60, interval=0.05)} cents"
                except PluginError as error:
                    outcome = f"{type(error).__name__} after {error.elapsed:.1f} s in the worker: {error.message}"
                if symbol == "ACME":
                    outcome += f" (worker ready after {time.monotonic() - started:.0f} s)"
                print(f"quote.delay({symbol!r}) -> {outcome}", flush=True)


if __name__ == "__main__":
    main()
