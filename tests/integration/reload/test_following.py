"""Watches of a configuration file with real servers, under load: no call fails."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from goplugins import Manager, ReloadError, ReloadStrategy, serve
from goplugins.enums import PluginStatus
from tests.processes import children
from tests.servers import free_port

PROGRAM = str(Path(__file__).with_name("program.py"))
THREADS = 4


@serve.plugin(name="echo")
def echo(request: Any) -> Any:
    return request


@serve.plugin(name="one")
def one(request: int) -> str:
    return "one"


@serve.plugin(name="two")
def two(request: int) -> str:
    return "two"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Texts of two configurations, by the answer that their plugin gives."""
    with serve.start(one, "http://127.0.0.1:0") as first, serve.start(two, "http://127.0.0.1:0") as second:
        yield {
            word: f"plugins:\n  - name: p\n    transport: http\n    endpoint: {server.url}\n"
            for word, server in (("one", first), ("two", second))
        }


class Load:
    """Threads that call continuously; ``last`` is the last answer of each."""

    def __init__(self, manager: Manager[Any, Any]) -> None:
        self.errors: list[Exception] = []
        self.last = [""] * THREADS
        self._manager = manager
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]

    def _run(self, number: int) -> None:
        while not self._over.wait(0.002):
            try:
                self.last[number] = self._manager.execute("p", number, timeout=10)
            except Exception as exc:
                self.errors.append(exc)
                return

    def answer(self, word: str) -> Callable[[], bool]:
        return lambda: set(self.last) == {word}

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def test_every_way_to_change_a_file_under_load(
    servers: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "plugins.yaml"
    path.write_text(servers["one"])
    received = []
    before = signal.signal(signal.SIGHUP, lambda *_: received.append(1))
    manager: Manager[Any, Any] = Manager()
    try:
        watch = manager.watch(path, interval=0.1, signal=True)
        with manager, Load(manager) as load:
            eventually(load.answer("one"))
            path.write_text(servers["two"])  # in place
            eventually(load.answer("two"))

            fresh = tmp_path / ".plugins.yaml.swp"
            fresh.write_text(servers["one"])
            os.replace(fresh, path)  # as editors do
            eventually(load.answer("one"))

            with path.open("w") as file:  # written slowly, in place
                for character in servers["two"]:
                    file.write(character)
                    file.flush()
                    time.sleep(0.003)
            eventually(load.answer("two"))
            eventually(
                lambda: watch.last_error is None
            )  # on a busy machine a pause of the writer may exceed the settling time

            eventually(lambda: watch.reloads >= 3)  # counted after the reload, whose plugin may answer before
            reloads = watch.reloads
            path.write_text(servers["two"] + "    retry: {max_retries: many}\n    colour: blue\n")
            eventually(lambda: manager.overall_health().status is PluginStatus.DEGRADED)
            message = manager.overall_health().message
            assert "plugins[0].retry.max_retries" in message
            assert "plugins[0].colour" in message
            logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            assert any(str(path) in line and "plugins[0].colour: unknown field" in line for line in logged)
            path.unlink()
            eventually(lambda: "does not exist" in manager.overall_health().message)
            assert watch.reloads == reloads
            assert load.answer("two")()

            path.write_text(servers["one"])
            eventually(load.answer("one"))
            eventually(lambda: manager.overall_health().status is PluginStatus.HEALTHY)
            reloads = watch.reloads
            os.kill(os.getpid(), signal.SIGHUP)
            eventually(lambda: watch.reloads == reloads + 1)
            assert received == [1]
        assert load.errors == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_config_map_of_kubernetes_under_load(servers: dict[str, str], tmp_path: Path) -> None:
    """The file is a link into ``..data``, itself a link that is replaced; its old target is removed right after."""

    def version(number: int, text: str) -> None:
        folder = tmp_path / f"..version{number}"
        folder.mkdir()
        (folder / "plugins.yaml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")

    version(0, servers["one"])
    (tmp_path / "plugins.yaml").symlink_to("..data/plugins.yaml")
    manager: Manager[Any, Any] = Manager()
    watch = manager.watch(tmp_path / "plugins.yaml", interval=0.1)
    with manager, Load(manager) as load:
        eventually(load.answer("one"))
        for number, word in enumerate(("two", "one", "two"), 1):
            version(number, servers[word])
            (tmp_path / f"..version{number - 1}" / "plugins.yaml").unlink()
            eventually(load.answer(word))
    assert load.errors == []
    assert watch.last_error is None


# --- all or nothing, over real wires -------------------------------------------------------------------------------


@pytest.fixture
def working() -> Iterator[list[dict[str, Any]]]:
    """One plugin a wire, all there."""
    with (
        tempfile.TemporaryDirectory(prefix="gp-") as folder,
        serve.start(echo, "http://127.0.0.1:0") as http,
        serve.start(echo, "grpc://127.0.0.1:0") as grpc,
        serve.start(echo, f"unix://{folder}/s") as unix,
    ):
        yield [
            {"name": "http", "transport": "http", "endpoint": http.endpoint},
            {"name": "grpc", "transport": "grpc", "endpoint": grpc.endpoint},
            {"name": "unix", "transport": "unix", "endpoint": unix.endpoint},
            {"name": "exec", "transport": "exec", "executable": sys.executable, "args": ["-S", "-E", PROGRAM]},
        ]


BROKEN: dict[str, Callable[[], dict[str, Any]]] = {
    "http": lambda: {"transport": "http", "endpoint": f"http://127.0.0.1:{free_port()}"},
    "grpc": lambda: {"transport": "grpc", "endpoint": f"127.0.0.1:{free_port()}"},
    "unix": lambda: {"transport": "unix", "endpoint": "/tmp/gp-no-server"},
    "exec": lambda: {"transport": "exec", "executable": sys.executable, "args": ["-c", "raise SystemExit('boom')"]},
    "python": lambda: {"transport": "python", "endpoint": "tests.integration.reload.program:nothing"},
}


@pytest.mark.parametrize("strategy", list(ReloadStrategy))
@pytest.mark.parametrize("wire", BROKEN)
def test_a_plugin_that_can_not_start_leaves_all_others_unchanged(
    working: list[dict[str, Any]], wire: str, strategy: ReloadStrategy
) -> None:
    ending = children(PROGRAM)  # of an earlier test
    with Manager() as manager:
        manager.load_from_config({"plugins": working})
        for name in ("http", "grpc", "unix", "exec"):
            assert manager.execute(name, name) == name
        registry = manager._registry
        before = {name: (plugin, plugin.wire, plugin.pipeline.retry) for name, plugin in registry.plugins.items()}
        processes = children(PROGRAM) - ending
        assert processes
        third = {"name": "third", **BROKEN[wire]()}
        changed = [{**plugin, "labels": {"changed": "yes"}, "priority": 5} for plugin in working]
        with pytest.raises((ReloadError, ValueError)) as caught:
            manager.reload_config({"plugins": [*changed[:2], third, *changed[2:]]}, strategy)
        assert "third" in str(caught.value) or "plugins[2]" in str(caught.value)
        after = {name: (plugin, plugin.wire, plugin.pipeline.retry) for name, plugin in registry.plugins.items()}
        assert after.keys() == before.keys()
        for name, parts in before.items():
            assert all(now is then for now, then in zip(after[name], parts, strict=True))
            assert manager.execute(name, name) == name
            assert registry.plugins[name].config.labels == {}
        assert children(PROGRAM) >= processes
        assert "third" in manager.overall_health().message or "plugins[2]" in manager.overall_health().message
