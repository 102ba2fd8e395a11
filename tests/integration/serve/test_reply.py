"""Metadata of a successful reply, over every transport."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest

from goplugins import Manager, serve

ROOT = str(Path(__file__).resolve().parents[3])
PROGRAM = (
    "from goplugins import serve; from tests.integration.serve.test_reply import count; serve.run(count, 'stdio:')"
)


@attrs.frozen
class Words:
    text: str


@attrs.frozen
class Counted:
    letters: int


@serve.plugin(name="count")
def count(request: Words) -> serve.Reply[Counted] | Counted:
    found = Counted(len(request.text))
    if not found.letters:
        return found
    return serve.Reply(found, metadata={"language": "français", "cost": "1"})


@pytest.fixture(params=["http", "grpc", "unix", "exec", "python", "registered"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager[Words, Counted]]:
    transport = request.param
    config: dict[str, Any] = {"name": "count", "transport": transport, "health_check": {"enabled": False}}
    with ExitStack() as stack:
        manager = stack.enter_context(Manager(Words, Counted))
        if transport == "registered":
            manager.register(count)
        else:
            if transport == "exec":
                config |= {"executable": sys.executable, "args": ["-c", PROGRAM], "work_dir": ROOT}
            elif transport == "python":
                config["endpoint"] = "tests.integration.serve.test_reply:count"
            else:
                url = f"unix://{tmp_path}/s" if transport == "unix" else f"{transport}://127.0.0.1:0"
                config["endpoint"] = stack.enter_context(serve.start(count, url)).endpoint
            manager.load_from_config({"plugins": [config]})
        yield manager


def test_metadata_of_a_reply_reaches_the_caller(manager: Manager[Words, Counted]) -> None:
    result = manager.execute_result("count", Words("été"))
    assert result.value == Counted(3)
    assert dict(result.metadata) == {"language": "français", "cost": "1"}
    assert manager.execute("count", Words("ab")) == Counted(2)


def test_a_plain_return_value_has_no_metadata(manager: Manager[Words, Counted]) -> None:
    result = manager.execute_result("count", Words(""))
    assert (result.value, dict(result.metadata)) == (Counted(0), {})
