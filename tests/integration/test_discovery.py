"""Plugins that a running manager discovers."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytest

from goplugins import Manager, PluginNotFoundError, serve


@serve.plugin(name="echo")
def echo(request: int) -> int:
    return request


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins.d"
    folder.mkdir(mode=0o755)
    return folder


def write(folder: Path, name: str, **manifest: object) -> None:
    path = folder / f".{name}.part"
    path.write_text(json.dumps({"name": name, "version": "1.0.0", "transport": "http", **manifest}))
    path.chmod(0o644)
    path.rename(folder / f"{name}.json")


def until(condition, seconds=15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_a_directory_describes_is_called_by_name(folder):
    with serve.start(echo) as server, Manager() as manager:
        write(folder, "found", endpoint=server.url)
        write(folder, "broken", endpoint="nonsense")
        manager.load_from_config(
            {
                "plugins": [{"name": "own", "transport": "http", "endpoint": server.url}],
                "discovery": {"enabled": True, "directories": [str(folder)]},
                "load_balancers": [{"name": "both", "members": ["own", "found"]}],
            }
        )
        assert sorted(manager.list_plugins()) == ["both", "found", "own"]
        assert manager.execute("found", 7) == 7
        assert {manager.execute_result("both", 1).member for _ in range(4)} == {"own", "found"}


def test_a_directory_that_others_may_write_is_left_alone(folder, caplog):
    caplog.set_level(logging.WARNING, "goplugins")
    with serve.start(echo) as server, Manager() as manager:
        write(folder, "found", endpoint=server.url)
        folder.chmod(0o777)
        plugin = {"name": "own", "transport": "http", "endpoint": server.url}
        manager.load_from_config({"plugins": [plugin], "discovery": {"enabled": True, "directories": [str(folder)]}})
        assert sorted(manager.list_plugins()) == ["own"]
        assert str(folder) in caplog.text


def test_in_watch_mode_plugins_come_and_go_with_their_manifests(folder, monkeypatch):
    monkeypatch.setattr("goplugins.lifecycle._SCAN_INTERVAL", 0.05)
    before = len(os.listdir("/proc/self/task"))
    with serve.start(echo) as server, Manager() as manager:
        write(folder, "one", endpoint=server.url)
        manager.load_from_config({"discovery": {"enabled": True, "directories": [str(folder)], "watch_mode": True}})
        assert manager.execute("one", 1) == 1
        kept = manager._registry.get("one")
        for _ in range(2):
            write(folder, "two", endpoint=server.url)
            until(lambda: "two" in manager.list_plugins())
            assert manager.execute("two", 2) == 2
            (folder / "two.json").unlink()
            until(lambda: "two" not in manager.list_plugins())
            with pytest.raises(PluginNotFoundError):
                manager.execute("two", 2)
        assert manager._registry.get("one") is kept
        write(folder, "bad", endpoint="nonsense")
        write(folder, "three", endpoint=server.url)
        until(lambda: "three" in manager.list_plugins())
        assert len(manager._lifecycle._watches) == 1
    until(lambda: len(os.listdir("/proc/self/task")) <= before + 2)  # the scheduler, and one on its way out
