"""File: what a part of a multipart body can be."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from goplugins import File
from goplugins.errors import InvalidArgumentError


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b")
    assert File.read(path) == File(b"a,b", "table.csv", "text/csv")
    assert File.read(str(path), "text/plain").content_type == "text/plain"
    unknown = tmp_path / "unknown"
    unknown.write_bytes(b"")
    assert File.read(unknown) == File(b"", "unknown", "application/octet-stream")


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        File.read(tmp_path / "missing")


@pytest.mark.parametrize("content", [bytearray(b"a"), memoryview(b"a"), b"a"])
def test_the_content_is_bytes(content: Any) -> None:
    file = File(content)
    assert type(file.content) is bytes
    assert pickle.loads(pickle.dumps(file)) == file


@pytest.mark.parametrize("content", ["a", None, 1, [1]])
def test_other_contents_are_refused(content: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="its content is bytes, and this is a"):
        File(content)


@pytest.mark.parametrize("kind", ["a/b\r\nX: y", "a/b\n", "a\0", "text/€"])
def test_a_content_type_is_one_line_of_latin_1(kind: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^\[PLUGIN_1217\] File\['content_type'\]"):
        File(b"", content_type=kind)


def test_the_content_is_not_shown() -> None:
    assert repr(File(b"secret", "a.txt")) == "File(6 bytes, name='a.txt', content_type='application/octet-stream')"
