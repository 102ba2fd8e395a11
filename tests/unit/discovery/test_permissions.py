"""Files that another user could have written."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from goplugins.discovery.permissions import read_safely, safe_directory, safe_file, safe_program
from goplugins.errors import ConfigFileError
from tests.unit.discovery.conftest import GiveAway, program


def test_files_of_this_user_are_read(plugins: Path) -> None:
    path = plugins / "a.json"
    path.write_text("{}")
    assert safe_directory(str(plugins)) == str(plugins)
    assert read_safely(str(path)) == b"{}"


@pytest.mark.parametrize(("mode", "who"), [(0o664, "group"), (0o646, "all users"), (0o666, "all users")])
def test_a_file_that_others_can_write_is_rejected(plugins: Path, mode: int, who: str) -> None:
    path = plugins / "a.json"
    path.write_text("{}")
    path.chmod(mode)
    with pytest.raises(ConfigFileError, match=f"is writable for {who}"):
        read_safely(str(path))


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_a_directory_that_others_can_write_is_rejected_even_if_sticky(plugins: Path, mode: int) -> None:
    plugins.chmod(mode)
    with pytest.raises(ConfigFileError, match="is writable for"):
        safe_directory(str(plugins))


def test_a_file_of_another_user_is_rejected(plugins: Path, give_away: GiveAway) -> None:
    path = plugins / "a.json"
    path.write_text("{}")
    give_away(path)
    with pytest.raises(ConfigFileError, match="belongs to user"):
        read_safely(str(path))


def test_a_directory_of_another_user_is_rejected(plugins: Path, give_away: GiveAway) -> None:
    give_away(plugins)
    with pytest.raises(ConfigFileError, match="belongs to user"):
        safe_directory(str(plugins))


def test_all_parent_directories_are_checked(plugins: Path) -> None:
    plugins.parent.chmod(0o777)
    with pytest.raises(ConfigFileError, match=f"{plugins.parent}, which is on its path, is writable for all users"):
        safe_directory(str(plugins))


def test_parent_directories_may_be_sticky(plugins: Path) -> None:
    plugins.parent.chmod(0o1777)
    assert safe_directory(str(plugins)) == str(plugins)


def test_a_sticky_parent_directory_of_another_user_is_rejected(plugins: Path, give_away: GiveAway) -> None:
    plugins.parent.chmod(0o1777)
    give_away(plugins.parent)
    with pytest.raises(ConfigFileError, match="belongs to user"):
        safe_directory(str(plugins))


def test_the_path_of_a_links_target_is_checked(plugins: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("plugins")
    assert safe_directory(str(link)) == str(plugins)
    elsewhere = tmp_path / "open"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    (elsewhere / "inner").mkdir()
    (tmp_path / "second").symlink_to(elsewhere / "inner")
    with pytest.raises(ConfigFileError, match="open, which is on its path, is writable for all users"):
        safe_directory(str(tmp_path / "second"))


def test_a_link_in_a_directory_that_others_can_write_is_rejected(plugins: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "link").symlink_to(plugins)
    loose.chmod(0o777)
    with pytest.raises(ConfigFileError, match="loose, which is on its path"):
        safe_directory(str(loose / "link"))


def test_a_link_of_another_user_in_a_sticky_directory_is_rejected(
    plugins: Path, tmp_path: Path, give_away: GiveAway
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    link = shared / "link"
    link.symlink_to(plugins)
    shared.chmod(0o1777)
    give_away(link)
    with pytest.raises(ConfigFileError, match=r"link.* of user|belongs to user"):
        safe_directory(str(link))


def test_circular_links_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigFileError, match="symbolic links"):
        safe_file(str(tmp_path / "a"))


def test_a_parent_of_a_link_is_that_of_its_target(plugins: Path, tmp_path: Path) -> None:
    (plugins / "inner").mkdir()
    (tmp_path / "link").symlink_to(plugins / "inner")
    assert safe_directory(f"{tmp_path}/link/..") == str(plugins)


def test_read_only_file_systems_pass(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.chmod(0o777)
    writable = os.statvfs(plugins).f_flag & ~os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=writable))
    with pytest.raises(ConfigFileError):
        safe_directory(str(plugins))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=writable | os.ST_RDONLY))
    assert safe_directory(str(plugins)) == str(plugins)


def test_other_kinds_of_files_are_not_opened(plugins: Path) -> None:
    os.mkfifo(plugins / "pipe.json")
    with pytest.raises(ConfigFileError, match="not a regular file"):
        read_safely(str(plugins / "pipe.json"))  # and does not block until a process writes to it
    with pytest.raises(ConfigFileError, match="not a directory"):
        safe_directory(str(program(plugins, "x")))
    with pytest.raises(ConfigFileError, match="does not exist"):
        safe_directory(str(plugins / "nowhere"))


def test_a_manifest_is_limited_in_size(plugins: Path) -> None:
    path = plugins / "a.json"
    path.write_text(" " * (1 << 20) + "{}")
    with pytest.raises(ConfigFileError, match="larger than 1 MiB"):
        read_safely(str(path))


def test_a_program_must_be_executable(plugins: Path) -> None:
    path = program(plugins, "x")
    assert safe_program(str(path)) == str(path)
    path.chmod(0o644)
    with pytest.raises(ConfigFileError, match="not executable"):
        safe_program(str(path))
