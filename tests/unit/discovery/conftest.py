from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

GiveAway = Callable[[Path], None]
OTHER_USER = 54321


@pytest.fixture(autouse=True)
def strict_umask() -> Iterator[None]:
    """Files without write permission for others, whatever the umask of the test run."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> GiveAway:
    """Changes a file's owner. Only root can do that; otherwise the process claims to be another user."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, OTHER_USER, OTHER_USER, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)

    return give


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


def put(folder: Path, name: str, /, **fields: Any) -> Path:
    """Writes a manifest, valid but for the given fields."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, "transport": "unix", "endpoint": f"/run/{name}.sock", **fields}))
    return path


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path
