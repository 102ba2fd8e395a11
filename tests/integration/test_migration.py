"""The two forms in ``examples/migration``: the same behaviour under each fault, in fewer lines with goplugins."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Peer, RawServer, free_port, http_reply

pytestmark = pytest.mark.matrix

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/migration"
FOUND = http_reply({"sku": "pen", "stock": 7})

Step = Callable[[Peer], None]


def send(data: bytes) -> Step:
    return lambda peer: peer.send(data)


def status(line: str, body: bytes | str | dict[str, Any] = "", **headers: str) -> Step:
    return send(http_reply(body, line, {name.replace("_", "-"): value for name, value in headers.items()}))


def cut(peer: Peer) -> None:
    peer.send(FOUND[:-5])
    peer.close()


FAILED = "an error"
UNAVAILABLE = status("503 Service Unavailable")

# What the service does with one request after the other (the last one again and again), the results of so many calls,
# and the number of requests.
FAULTS: dict[str, tuple[list[Step], list[Any], int]] = {
    "none": ([send(FOUND)], [7], 1),
    "no such item": ([status("404 Not Found", "no such item")], [None], 1),
    "a short outage": ([UNAVAILABLE, status("502 Bad Gateway", "<html>"), send(FOUND)], [7], 3),
    "a lasting outage": ([UNAVAILABLE], [FAILED], 4),
    "a reset connection": ([Peer.reset, send(FOUND)], [7], 2),
    "a connection that ends without a reply": ([Peer.close, send(FOUND)], [7], 2),
    "a reply that is cut": ([cut, send(FOUND)], [7], 2),
    "a hanging attempt": ([Peer.hang, send(FOUND)], [7], 2),
    "too many requests": ([status("429 Too Many Requests", Retry_After="1"), send(FOUND)], [7], 2),
    "too many requests for long": ([status("429 Too Many Requests", Retry_After="60")], [FAILED], 1),
    "wrong credentials": ([status("401 Unauthorized")], [FAILED], 1),
    "an invalid request, nine times": ([status("422 Unprocessable Content")], [FAILED] * 9, 9),
    "an error page with status 200": ([status("200 OK", "<html>", Content_Type="text/html")], [FAILED], 1),
    "another JSON": ([status("200 OK", {"message": "welcome"})], [FAILED], 1),
    "a redirect": ([status("302 Found", Location="/login")], [FAILED], 1),
    "an outage that opens the circuit": ([UNAVAILABLE], [FAILED, FAILED, FAILED], 5),
    "a second call within a minute": ([send(FOUND), UNAVAILABLE], [7, 7, 7], 1),
}


@pytest.fixture(params=["by_hand", "with_goplugins"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Loads one of the two modules anew, for the service at an address."""
    modules: list[Any] = []

    def load(url: str) -> Any:
        monkeypatch.setenv("SHOP_URL", url)
        monkeypatch.setenv("SHOP_TOKEN", "t0ken-of-the-shop")
        spec = importlib.util.spec_from_file_location(request.param, EXAMPLE / f"{request.param}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        modules.append(module)
        return module

    yield load
    for module in modules:
        if hasattr(module, "manager"):
            module.manager.shutdown()
        if session := getattr(getattr(module, "thread", None), "session", None):
            session.close()


def outcome(module: Any, sku: str) -> Any:
    try:
        item = module.get_item(sku)
    except Exception:  # each form has errors of its own
        return FAILED
    assert item is None or item == module.Item(sku, item.stock)
    return None if item is None else item.stock


@pytest.mark.parametrize(("steps", "expected", "requests"), FAULTS.values(), ids=FAULTS)
def test_both_forms_behave_alike(form, steps, expected, requests):
    left = iter(steps[:-1])

    def handler(peer: Peer) -> None:
        while peer.read_request() is not None:
            next(left, steps[-1])(peer)

    with RawServer(handler) as server:
        module = form(server.url)
        assert [outcome(module, "pen") for _ in expected] == expected
        assert len(server.requests) == requests
        for request in server.requests:
            assert request.path == "/plugin/items/pen"
            assert request.headers["authorization"] == "Bearer t0ken-of-the-shop"


def test_a_refused_connection(form):
    assert outcome(form(f"http://127.0.0.1:{free_port()}"), "pen") == FAILED


def test_a_name_is_one_segment_of_the_path(form):
    with RawServer(lambda peer: peer.read_request() and peer.send(http_reply({"sku": "a b?c", "stock": 7}))) as server:
        assert outcome(form(server.url), "a b?c") == 7
        assert server.requests[0].path == "/plugin/items/a%20b%3Fc"


def test_fewer_lines():
    """Lines of code and configuration; no comments, docstrings and empty lines."""

    def lines_of(path: Path) -> int:
        text = path.read_text()
        if path.suffix != ".py":
            return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())
        return sum(bool(line.strip()) for line in ast.unparse(_without_docstrings(ast.parse(text))).splitlines())

    before = lines_of(EXAMPLE / "by_hand.py")
    after = lines_of(EXAMPLE / "with_goplugins.py") + lines_of(EXAMPLE / "plugins.yaml")
    assert 40 <= before < 60
    assert after <= before / 2, (before, after)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree
