"""The check of a program's SHA-256 before each start, and its cache."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from goplugins.errors import PluginConnectionError
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.deadline import Deadline
from goplugins.testing import ManualClock
from goplugins.transports.exec.executable import Executable


def _clock_at(moment: float) -> ManualClock:
    clock = ManualClock()
    clock.advance(moment - clock.time())
    return clock


def test_hashing_ends_at_the_deadline(tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(64 << 30)  # a sparse file: reading it takes time, but no disk space
    program = Executable(str(large), None, "0" * 64, SYSTEM_CLOCK)
    started = time.monotonic()
    with (
        pytest.raises(PluginConnectionError, match="connection_timeout"),
        program.checked(str(large), Deadline.after(0.2)),
    ):
        pass
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("age", [2.0, 3600.0])
def test_only_a_file_that_has_settled_is_hashed_once(tmp_path, monkeypatch, age):
    """A file that changed a moment ago is hashed each time: a second change might not show in its times."""
    file = tmp_path / "file"
    file.write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    program = Executable(str(file), None, digest, _clock_at(file.stat().st_ctime + age))
    hashed = []
    sha256 = hashlib.sha256
    monkeypatch.setattr("hashlib.sha256", lambda: hashed.append(1) or sha256())
    for _ in range(3):
        with program.checked(str(file), Deadline.after(5)):
            pass
    assert len(hashed) == (1 if age > 3 else 3)


@pytest.mark.parametrize("way", ["written", "replaced"])
def test_a_changed_file_is_hashed_again_even_with_the_same_size_and_mtime(tmp_path, way):
    file = tmp_path / "file"
    file.write_bytes(b"good")
    before = file.stat()
    clock = _clock_at(before.st_ctime + 3600)
    program = Executable(str(file), None, hashlib.sha256(b"good").hexdigest(), clock)
    with program.checked(str(file), Deadline.after(5)):
        pass
    time.sleep(0.02)  # longer than a step of the file system's clock
    target = file if way == "written" else tmp_path / "other"
    target.write_bytes(b"evil")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(target, file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(PluginConnectionError, match="SHA-256"), program.checked(str(file), Deadline.after(5)):
        pass
