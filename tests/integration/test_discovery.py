"""Plugins that a running manager discovers."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from goplugins import FunctionPluginFactory, Manager, PluginNotFoundError, serve


@serve.plugin(name="echo")
def echo(request: int) -> int:
    return request


@serve.plugin(name="twice")
def twice(request: int) -> int:
    return 2 * request


PROGRAM = Path(__file__).parent / "reload" / "program.py"


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


def test_plugins_of_a_directory_are_called_by_name(folder):
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


def test_a_directory_that_others_can_write_is_left_out(folder, caplog):
    caplog.set_level(logging.WARNING, "goplugins")
    with serve.start(echo) as server, Manager() as manager:
        write(folder, "found", endpoint=server.url)
        folder.chmod(0o777)
        plugin = {"name": "own", "transport": "http", "endpoint": server.url}
        manager.load_from_config({"plugins": [plugin], "discovery": {"enabled": True, "directories": [str(folder)]}})
        assert sorted(manager.list_plugins()) == ["own"]
        assert str(folder) in caplog.text


def test_manifests_programs_and_packages(folder, tmp_path, monkeypatch):
    """An exec plugin by its manifest, with a path that begins there; a bare program; an entry point, imported late."""
    program = f"#!{sys.executable} -SE\n{PROGRAM.read_text()}"
    for name in ("bin/described", "plugin-bare.py", "other"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(program)
        path.chmod(0o755)
    write(folder, "described", transport="exec", executable="bin/described")
    site = tmp_path / "site"
    info = site / "maps-2.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: maps\nVersion: 2.3\n")
    (info / "entry_points.txt").write_text("[goplugins.plugins]\nmaps = discovered_maps:find\n")
    (site / "discovered_maps.py").write_text("def find(request: int) -> int:\n    return request + 1\n")
    monkeypatch.syspath_prepend(site)
    section = {
        "enabled": True,
        "directories": [str(folder)],
        "patterns": ["*.json", "plugin-*"],
        "entry_points": True,
    }
    with Manager() as manager:
        manager.load_from_config({"discovery": section})
        assert sorted(manager.list_plugins()) == ["described", "maps", "plugin-bare"]
        assert [manager.execute(name, 7) for name in ("described", "plugin-bare", "maps")] == [7, 7, 8]


def test_watch_mode_replaces_the_plugin_of_a_changed_manifest_under_load(folder, monkeypatch, caplog):
    """One that breaks changes nothing."""
    monkeypatch.setattr("goplugins.manager.reloading._SCAN_INTERVAL", 0.05)
    with serve.start(echo) as first, serve.start(twice) as second, Manager() as manager:
        write(folder, "one", endpoint=first.url)
        manager.load_from_config({"discovery": {"enabled": True, "directories": [str(folder)], "watch_mode": True}})
        over = threading.Event()
        errors = []

        def call():
            try:
                while not over.wait(0.002):
                    assert manager.execute("one", 3) in {3, 6}
            except Exception as exc:
                errors.append(exc)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for url, answer in ((second.url, 6), (first.url, 3), (second.url, 6)):
            write(folder, "one", endpoint=url)
            until(lambda answer=answer: manager.execute("one", 3) == answer)
            (folder / "one.json").write_text("{")
            until(lambda: "stays as it was" in caplog.text)
            caplog.clear()
        over.set()
        for thread in threads:
            thread.join(10)
        assert errors == []


def test_watch_mode_adds_and_removes_plugins(folder, monkeypatch):
    monkeypatch.setattr("goplugins.manager.reloading._SCAN_INTERVAL", 0.05)
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
        assert len(manager._loader._watches) == 1
    until(lambda: len(os.listdir("/proc/self/task")) <= before + 2)  # the scheduler, and one on its way out


def test_a_dry_run_beside_a_reload_leaves_watch_mode_on(folder, monkeypatch):
    """The dry run reads a configuration without discovery while the reload is building its plugins."""
    monkeypatch.setattr("goplugins.manager.reloading._SCAN_INTERVAL", 0.05)
    discovery = {"enabled": True, "directories": [str(folder)], "watch_mode": True}
    building, dry_run_done = threading.Event(), threading.Event()

    class Factory(FunctionPluginFactory):
        def create_plugin(self, config):
            building.set()
            assert dry_run_done.wait(10)
            return super().create_plugin(config)

    with serve.start(echo) as server, Manager() as manager:
        manager.register_factory("slow", Factory())
        write(folder, "one", endpoint=server.url)
        manager.load_from_config({"discovery": discovery})
        slow = {"name": "slow", "type": "slow", "transport": "python", "endpoint": f"{__name__}:echo"}
        reload = threading.Thread(target=manager.reload_config, args=({"discovery": discovery, "plugins": [slow]},))
        reload.start()
        assert building.wait(10)
        report = manager.reload_config({"plugins": [slow]}, dry_run=True)
        assert report.removed == ("one",)
        dry_run_done.set()
        reload.join(10)
        write(folder, "two", endpoint=server.url)
        until(lambda: "two" in manager.list_plugins())
