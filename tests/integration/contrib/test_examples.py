"""Each example is started by one command, from any directory, and prints the results of its calls."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.hosts

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

EXPECTED = {
    "rest_client": [
        "a product -> Product(sku='A-1', name='lamp 1', cents=1000)",
        'its ETag -> "A-1-v1"',
        "a product that does not exist -> None",
        "the first attempt hangs -> Product(sku='A-2', name='lamp 2', cents=2000) (source: plugin, attempts: 2)",
        "all pages -> A-1 A-2 A-3 A-4 A-5 A-6 A-7",
        "-> Order(id=1, tenant='acme', sku='A-1') (source: plugin, attempts: 2)",
        "orders in the service -> 1",
        "HTTP 422 from POST /v1/orders: the request was refused: Invalid order: count must be at least 1",
        "an empty path field -> InvalidArgumentError",
        "a rate, at first HTTP 429 -> {'EUR': 1.08} (source: plugin, attempts: 2)",
        "the rate again -> cache",
        "the rate -> {'EUR': 1.08} (source: stale",
        "another rate -> {'GBP': 1.0} (source: fallback",
        "a product -> PluginConnectionError",
        "a product -> CircuitBreakerOpenError",
    ],
    "flask_app": [
        "GET /quote/ACME {'X-Request-ID': 'demo-1'} -> 200 {\"cents\":12345",
        '-> 422 {"error":"no such symbol: NOPE"}',
        '-> 503 {"error":"try again later"}',
        '-> 200 {"status":"ready"}',
    ],
    "django_project": [
        '-> 200 {"symbol": "ACME", "cents": 12345}',
        '-> 422 {"error": "no such symbol: NOPE"}',
        '-> 503 {"error": "try again later"}',
        '-> 200 {"status": "ready"}',
        "manage.py check -> System check identified no issues",
        "manage.py plugins status -> quotes",
        'manage.py plugins call quotes "ACME" -> 12345',
    ],
    "celery_worker": [
        "quote.delay('ACME') -> 12345 cents",
        "quote.delay('NOPE') -> PluginExecutionError",
        "quote.delay('SLOW') -> PluginTimeoutError",
    ],
    "custom_transport": [
        "shout('hello') -> HELLO",
        "health -> healthy",
        "shout(1) -> [TRANSPORT_1306] plugin 'shout': the request was refused: expected a string",
        "after a restart: AGAIN, attempts: 1",
    ],
    "batch": [
        "first run:  0 were done before, 200 called, 0 failed",
        "second run: 200 were done before, 301 called, 1 failed",
        "501 lines in the journal, 2000 letters",
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_example_prints_its_results(name: str, tmp_path: Path) -> None:
    environ = {each: value for each, value in os.environ.items() if not each.endswith("_URL")}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name / "run.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    for text in EXPECTED[name]:
        assert text in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", EXPECTED)
def test_the_readme_names_the_command_of_the_example(name: str) -> None:
    page = (EXAMPLES / name / "README.md").read_text()
    assert f"python examples/{name}/run.py" in page
