"""The how-to pages put a plugin in the place of a plain HTTP call by a diff of few lines; both forms work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Peer, RawServer, http_reply

ROOT = Path(__file__).resolve().parents[2]
HOWTO = ROOT / "docs/howto"

# What each page leaves out before and after its code: settings that every project has, and a request.
SETUP = {
    "django": """
from django.conf import settings
settings.configure(INSTALLED_APPS=["goplugins.contrib.django"], GOPLUGINS={"CONFIG": "plugins.yaml"})
import django
django.setup()
""",
    "flask": """
from flask import Flask
Flask.default_config = {**Flask.default_config, "GOPLUGINS": {"CONFIG": "plugins.yaml"}}
""",
    "celery": "",
}
REQUEST = {
    "django": """
from django.test import RequestFactory
print(show(RequestFactory().get("/"), "ACME").content.decode())
""",
    "flask": 'print(app.test_client().get("/quote/ACME").get_data(as_text=True))',
    "celery": 'import json\nprint(json.dumps(fetch("ACME")))',
}


def lines_of(name: str) -> list[str]:
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", (HOWTO / f"{name}.md").read_text(), re.MULTILINE | re.DOTALL)
    return diff.splitlines()


@pytest.mark.parametrize("name", SETUP)
def test_three_lines_change_at_most(name: str) -> None:
    lines = lines_of(name)
    assert 1 <= sum(line.startswith("+") for line in lines) <= 3
    assert sum(line.startswith("-") for line in lines) <= 3


@pytest.fixture
def service() -> Iterator[RawServer]:
    """A REST service without the envelope of goplugins."""

    def answer(peer: Peer) -> None:
        while peer.read_request() is not None:
            peer.send(http_reply({"symbol": "ACME", "cents": 12_345}))

    with RawServer(answer) as server:
        yield server


@pytest.mark.docs
@pytest.mark.parametrize("name", SETUP)
@pytest.mark.parametrize("side", ["before", "after"])
def test_both_forms_send_the_same_request_and_give_the_same_answer(
    name: str, side: str, service: RawServer, tmp_path: Path
) -> None:
    page = (HOWTO / f"{name}.md").read_text()
    (config,) = re.findall(r"^`plugins.yaml`:\n\n```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "plugins.yaml").write_text(config)
    code = "\n".join(line[1:] for line in lines_of(name) if not line.startswith("+" if side == "before" else "-"))
    assert ("requests.get(" in code, "goplugins" in code) == (side == "before", side == "after")
    code = code.replace("http://quotes.internal/v1", service.url)
    done = subprocess.run(
        [sys.executable, "-c", SETUP[name] + code + "\n" + REQUEST[name]],
        cwd=tmp_path,
        env={**os.environ, "QUOTES_URL": service.url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(" ", "").strip() in (
        '{"symbol":"ACME","cents":12345}',
        '{"cents":12345,"symbol":"ACME"}',
    )
    assert [(request.method, request.path) for request in service.requests] == [("GET", "/plugin/quotes/ACME")]


@pytest.mark.parametrize("name", ["by_hand.py", "with_goplugins.py", "plugins.yaml"])
def test_the_page_about_a_migration_shows_the_files_of_the_example(name: str) -> None:
    page = (HOWTO / "migrate.md").read_text()
    (shown,) = re.findall(rf"^`{re.escape(name)}`:\n\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert shown == (ROOT / "examples/migration" / name).read_text()
