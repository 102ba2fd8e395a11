"""REST services that are not ours, each a process of its own: httpbin, json-server, and Django REST framework."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.hosts.servers import ROOT
from tests.servers import free_port
from tests.timing import until

__all__ = ["drf", "httpbin", "json_server"]

ENVIRONMENT = ROOT / ".venv-services"
"""What `make hosts` installs: httpbin needs an older greenlet than gevent, so it can't share the tests' environment."""

POSTS = [{"id": number, "title": f"Post {number}", "author": "ada" if number % 2 else "bob"} for number in range(1, 26)]


def _needs(*paths: Path) -> None:
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} in {ENVIRONMENT.name}, which `make hosts` installs")


@contextmanager
def _process(command: list[str], folder: Path, **environ: str) -> Iterator[Path]:
    """Runs a command; yields the path of what it prints."""
    log = folder / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environ}
        )
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _gunicorn(application: str, folder: Path, **environ: str) -> Iterator[str]:
    gunicorn = ENVIRONMENT / "bin/gunicorn"
    _needs(gunicorn)
    command = [str(gunicorn), "--bind", "127.0.0.1:0", "--threads", "8", "--keep-alive", "30", application]
    with _process(command, folder, **environ) as log:
        listening = re.compile(r"Listening at: (http://127\.0\.0\.1:\d+)")
        until(lambda: listening.search(log.read_text()), 30, "gunicorn listens")
        found = listening.search(log.read_text())
        assert found is not None
        until(lambda: _replies(found[1]), 30, f"{application} replies")
        yield found[1]


def _replies(url: str) -> bool:
    try:
        with urlopen(url, timeout=10):
            return True
    except URLError as error:
        return hasattr(error, "code")


@contextmanager
def httpbin(folder: Path) -> Iterator[str]:
    """Starts httpbin under gunicorn; yields its address."""
    _needs(ENVIRONMENT / "bin/gunicorn")
    with _gunicorn("httpbin:app", folder) as url:
        yield url


@contextmanager
def drf(folder: Path) -> Iterator[str]:
    """Starts the quickstart of Django REST framework under gunicorn; yields its address."""
    path = str(Path(__file__).parent)
    with _gunicorn("rest_project:application", folder, DATABASE=str(folder / "db.sqlite3"), PYTHONPATH=path) as url:
        yield url


@contextmanager
def json_server(folder: Path) -> Iterator[str]:
    """Starts json-server with 25 posts; yields its address."""
    script = ENVIRONMENT / "node/node_modules/.bin/json-server"
    if shutil.which("node") is None:
        pytest.skip("needs node")
    _needs(script)
    database = folder / "db.json"
    database.write_text(json.dumps({"posts": POSTS, "profile": {"name": "typicode"}}))
    port = free_port()
    command = [str(script), "--host", "127.0.0.1", "--port", str(port), "--quiet", "--no-gzip", str(database)]
    with _process(command, folder):
        url = f"http://127.0.0.1:{port}"
        until(lambda: _replies(url), 30, "json-server replies")
        yield url
