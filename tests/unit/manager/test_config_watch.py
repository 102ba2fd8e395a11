"""Watches of configuration files: settled changes, ways in which files change, files that can't be loaded."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from goplugins import ConfigError, InvalidArgumentError, ManagerClosedError, PluginError, ReloadError
from goplugins.enums import PluginStatus
from goplugins.manager.config_watch import Watch
from goplugins.runtime.scheduler import Scheduler
from goplugins.testing import ManualClock
from goplugins.transports.watched_files import reader_of

from .conftest import Harness, config


class Fixture:
    """A watch whose checks and reloads run when the test advances the clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.scheduler = Scheduler(clock=self.clock, threaded=False)
        self.loaded: list[str | None] = []
        self.error: Exception | None = None
        self.watch: Watch | None = None

    def submit(self, job: Callable[[], object]) -> None:
        job()

    def schedule(self, method: Callable[[], object], interval: float | None, first: float) -> Any:
        return self.scheduler.schedule(method, interval, first=first, jitter=0.0, submit=self.submit)

    def reload(self) -> None:
        self.loaded.append(self.path.read_text() if self.path.exists() else None)
        if self.error is not None:
            raise self.error

    def start(self, **options: Any) -> Watch:
        self.watch = Watch(str(self.path), self.reload, self.clock, self.schedule, **options)
        return self.watch

    def run(self, seconds: float) -> list[str | None]:
        """Advances the clock; the contents that were loaded meanwhile."""
        before = len(self.loaded)
        for _ in range(round(seconds / 0.1)):
            self.scheduler.run_due()
            self.clock.advance(0.1)
        return self.loaded[before:]


@pytest.fixture
def fixture(tmp_path: Path) -> Iterator[Fixture]:
    path = tmp_path / "plugins.json"
    path.write_text("one")
    found = Fixture(path)
    yield found
    if found.watch is not None:
        found.watch.close()


def test_the_first_content_is_loaded_once(fixture: Fixture) -> None:
    fixture.start()
    assert fixture.run(10) == ["one"]


def test_a_change_is_loaded_once_it_has_settled(fixture: Fixture) -> None:
    fixture.start()
    fixture.run(5)
    fixture.path.write_text("two")
    assert fixture.run(5) == ["two"]
    os.utime(fixture.path, (1, 1))  # touched only
    fixture.path.write_text("two")
    assert fixture.run(5) == []


def test_a_file_is_not_loaded_while_it_is_written(fixture: Fixture) -> None:
    fixture.start()
    fixture.run(5)
    for size in range(30):
        fixture.path.write_text("x" * size)
        assert fixture.run(0.3) == []
    assert fixture.run(3) == ["x" * 29]


def test_a_file_that_is_replaced_by_a_rename(fixture: Fixture) -> None:
    fixture.start()
    fixture.run(5)
    other = fixture.path.with_suffix(".new")
    other.write_text("two")
    other.replace(fixture.path)
    assert fixture.run(5) == ["two"]


def test_a_symbolic_link_that_is_replaced_as_in_kubernetes(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "plugins.json").write_text(version)
        os.utime(tmp_path / version / "plugins.json", (1000, 1000))
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "plugins.json").symlink_to("..data/plugins.json")
    fixture = Fixture(tmp_path / "plugins.json")
    fixture.start()
    assert fixture.run(5) == ["1"]
    (tmp_path / "..tmp").symlink_to("2")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    assert fixture.run(5) == ["2"]
    assert fixture.watch is not None
    fixture.watch.close()


def test_a_change_with_the_same_size_and_time(fixture: Fixture) -> None:
    fixture.start()
    fixture.run(5)
    before = fixture.path.stat()
    with fixture.path.open("r+") as stream:
        stream.write("two")
    os.utime(fixture.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fixture.run(5) == ["two"]


def test_a_missing_file_is_reported_once_it_has_settled(fixture: Fixture) -> None:
    fixture.start()
    fixture.run(5)
    fixture.path.unlink()
    fixture.run(0.3)
    fixture.path.write_text("one")  # as an editor does
    assert fixture.run(5) == []
    fixture.path.unlink()
    fixture.error = ConfigError("does not exist")
    assert fixture.run(3) == [None]
    fixture.error = None
    fixture.path.write_text("one")
    assert fixture.run(3) == ["one"]
    assert fixture.watch is not None
    assert fixture.watch.last_error is None


def test_failed_reloads_are_retried_at_growing_intervals(fixture: Fixture) -> None:
    watch = fixture.start()
    fixture.error = ReloadError("can't be reached")
    assert len(fixture.run(4)) == 1
    assert watch.last_error is fixture.error
    assert "failing" in repr(watch)
    assert len(fixture.run(5)) == 1
    assert 5 <= len(fixture.run(300)) <= 8
    fixture.error = None
    assert len(fixture.run(70)) == 1
    assert fixture.run(100) == []
    assert (watch.last_error, watch.reloads) == (None, 1)


def test_an_unexpected_error_does_not_end_the_watch(fixture: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    watch = fixture.start()
    fixture.error = RuntimeError("bug")
    fixture.run(3)
    assert "the reload raised an unexpected error" in caplog.text
    fixture.error = None
    fixture.path.write_text("two")
    assert fixture.run(5) == ["two"]
    assert watch.reloads == 1


def test_a_closed_watch_checks_no_more(fixture: Fixture) -> None:
    with fixture.start() as watch:
        fixture.run(5)
    fixture.path.write_text("two")
    assert fixture.run(10) == []
    watch.close()
    assert "closed" in repr(watch)
    assert fixture.scheduler.scheduled == 0


@pytest.mark.parametrize("interval", [0, -1, True, "1s", float("inf")])
def test_invalid_intervals(fixture: Fixture, interval: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="interval"):
        fixture.start(interval=interval)


def test_sighup_reloads_an_unchanged_file(fixture: Fixture) -> None:
    received = []
    before = signal.signal(signal.SIGHUP, lambda *_: received.append(1))
    try:
        watch = fixture.start(on_signal=True)
        fixture.run(5)
        os.kill(os.getpid(), signal.SIGHUP)
        assert fixture.run(3) == ["one"]
        assert received == [1]  # the former handler runs as well
        watch.close()
        os.kill(os.getpid(), signal.SIGHUP)
        assert fixture.run(3) == []
        assert received == [1, 1]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sighup_needs_the_main_thread(fixture: Fixture) -> None:
    errors = []

    def start() -> None:
        try:
            fixture.start(on_signal=True)
        except PluginError as exc:
            errors.append(exc)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert isinstance(errors[0], InvalidArgumentError)


def test_pipes_and_directories_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert reader_of([str(tmp_path / "pipe"), str(tmp_path)], ManualClock())() == ("", "")


# --- with a manager ----------------------------------------------------------------------------------------------


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def write(path: Path, **plugins: Any) -> None:
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(config(**plugins)))
    fresh.replace(path)


def test_a_manager_reloads_its_file(harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "plugins.json"
    write(path, a="m:v1")
    watch = harness.manager.watch(path, interval=0.05)
    assert harness.call("a") == ["a", "m:v1"]  # watch() loads the first configuration
    write(path, a="m:v2", b="m:v1")
    eventually(lambda: harness.call("a") == ["a", "m:v2"])
    assert harness.call("b")

    path.write_text('{"plugins": [{"name": "a", "transport": "http"}, {"name": "b", "colour": 1}]}')
    eventually(lambda: harness.manager.overall_health().status is PluginStatus.DEGRADED)
    assert harness.call("a") == ["a", "m:v2"]
    eventually(lambda: isinstance(watch.last_error, ConfigError))  # set once the manager has noted the failure
    for problem in ("plugins[0].endpoint", "plugins[1].colour"):
        eventually(lambda: any(str(path) in line and problem in line for line in tuple(caplog.messages)))  # noqa: B023

    path.unlink()
    eventually(lambda: "does not exist" in harness.manager.overall_health().message)
    write(path, a="m:v2", b="m:v1")
    eventually(lambda: harness.manager.overall_health().status is PluginStatus.HEALTHY)
    watch.close()


def test_a_change_between_load_and_watch_is_loaded(harness: Harness, tmp_path: Path) -> None:
    path = tmp_path / "plugins.json"
    write(path, a="m:v1")
    harness.manager.load_from_config(path)
    write(path, a="m:v2")
    harness.manager.watch(path, interval=0.05)
    eventually(lambda: harness.call("a") == ["a", "m:v2"])


def test_a_first_configuration_that_is_missing(harness: Harness, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        harness.manager.watch(tmp_path / "plugins.json")


def test_shutdown_ends_the_watches(tmp_path: Path) -> None:
    harness = Harness()
    path = tmp_path / "plugins.json"
    write(path, a="m:v1")
    watch = harness.manager.watch(path, interval=0.05)
    harness.manager.shutdown()
    assert "closed" in repr(watch)
    with pytest.raises(ManagerClosedError):
        harness.manager.watch(path)


def test_a_watch_is_collected_with_its_manager(tmp_path: Path) -> None:
    path = tmp_path / "plugins.json"
    write(path, a="m:v1")
    harness = Harness()
    watch = weakref.ref(harness.manager.watch(path, interval=60))
    del harness

    def is_gone() -> bool:
        gc.collect()
        return watch() is None

    eventually(is_gone)
