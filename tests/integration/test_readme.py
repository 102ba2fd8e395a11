"""The README's examples, saved to files and run, print what the README shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import Peer, RawServer, http_reply

PAGE = (Path(__file__).resolve().parents[2] / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
OUTPUTS = re.findall(r"It prints:\n\n```text\n(.*?)```", PAGE, flags=re.DOTALL)
CONFIG = re.findall(r"`plugins.yaml`:\n\n```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


def run(program: str, folder: Path) -> str:
    script = folder / "first_call.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_first_example_calls_a_rest_service(tmp_path: Path) -> None:
    """At another address than the README's: tests make no calls to the internet."""

    def answer(peer: Peer) -> None:
        repo = {"id": 1362490, "full_name": "psf/requests", "private": False, "open_issues_count": 217}
        while peer.read_request() is not None:
            peer.send(http_reply(repo))

    with RawServer(answer) as server:
        here = CONFIG[0].replace("https://api.github.com", server.url).replace("https", "http")
        (tmp_path / "plugins.yaml").write_text(here)
        assert run(PROGRAMS[0], tmp_path) == OUTPUTS[0]
    assert [(request.method, request.path) for request in server.requests] == [("GET", "/plugin/repos/psf/requests")]


def test_the_first_example_has_at_most_15_lines() -> None:
    assert len([line for line in (CONFIG[0] + PROGRAMS[0]).splitlines() if line]) <= 15


@pytest.mark.parametrize(("program", "output"), list(zip(PROGRAMS, OUTPUTS, strict=True))[1:])
def test_the_other_examples_print_what_the_readme_says(program: str, output: str, tmp_path: Path) -> None:
    assert run(program, tmp_path) == output
