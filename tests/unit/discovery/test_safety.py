from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from goplugins.discovery.permissions import read_safely, safe_directory, safe_file, safe_program
from goplugins.errors import ConfigFileError
from tests.unit.discovery.conftest import GiveAway, program


def test_what_only_we_can_write_is_read(plugins: Path) -> None:
    path = plugins / "a.json"
    path.write_text("{}")
    assert safe_directory(str(plugins)) == str(plugins)
    assert read_safely(str(path)) == b"{}"


@pytest.mark.parametrize(("mode", "who"), [(0o664, "group"), (0o646, "everybody"), (0o666, "everybody")])
def test_a_file_that_others_can_write_is_not_read(plugins: Path, mode: int, who: str) -> None:
    path = plugins / "a.json"
    path.write_text("{}")
    path.chmod(mode)
    with pytest.raises(ConfigFileError, match=f"can be written by {who}"):
        read_safely(str(path))


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_a_directory_that_others_can_write_is_not_read_sticky_or_not(plugins: Path, mode: int) -> None:
    plugins.chmod(mode)
    with pytest.raises(ConfigFileError, match="can be written by"):
        safe_directory(str(plugins))


def test_a_file_of_somebody_else_is_not_read(plugins: Path, give_away: GiveAway) -> None:
    path = plugins / "a.json"
    path.write_text("{}")
    give_away(path)
    with pytest.raises(ConfigFileError, match="belongs to user"):
        read_safely(str(path))


def test_a_directory_of_somebody_else_is_not_read(plugins: Path, give_away: GiveAway) -> None:
    give_away(plugins)
    with pytest.raises(ConfigFileError, match="belongs to user"):
        safe_directory(str(plugins))


def test_every_directory_on_the_way_counts(plugins: Path) -> None:
    plugins.parent.chmod(0o777)
    with pytest.raises(ConfigFileError, match=f"{plugins.parent}, which leads there, can be written by everybody"):
        safe_directory(str(plugins))


def test_on_the_way_the_sticky_bit_will_do(plugins: Path) -> None:
    plugins.parent.chmod(0o1777)
    assert safe_directory(str(plugins)) == str(plugins)


def test_a_sticky_directory_of_somebody_else_will_not_do(plugins: Path, give_away: GiveAway) -> None:
    plugins.parent.chmod(0o1777)
    give_away(plugins.parent)
    with pytest.raises(ConfigFileError, match="belongs to user"):
        safe_directory(str(plugins))


def test_a_link_is_followed_and_so_is_what_leads_to_its_target(plugins: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("plugins")
    assert safe_directory(str(link)) == str(plugins)
    elsewhere = tmp_path / "open"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    (elsewhere / "inner").mkdir()
    (tmp_path / "second").symlink_to(elsewhere / "inner")
    with pytest.raises(ConfigFileError, match="open, which leads there, can be written by everybody"):
        safe_directory(str(tmp_path / "second"))


def test_a_link_in_a_directory_that_others_can_write_is_not_followed(plugins: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "link").symlink_to(plugins)
    loose.chmod(0o777)
    with pytest.raises(ConfigFileError, match="loose, which leads there"):
        safe_directory(str(loose / "link"))


def test_somebody_else_s_link_is_not_followed_even_in_a_sticky_directory(
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


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigFileError, match="symbolic links"):
        safe_file(str(tmp_path / "a"))


def test_a_step_back_goes_back_from_where_a_link_led(plugins: Path, tmp_path: Path) -> None:
    (plugins / "inner").mkdir()
    (tmp_path / "link").symlink_to(plugins / "inner")
    assert safe_directory(f"{tmp_path}/link/..") == str(plugins)


def test_on_a_read_only_file_system_nobody_can_write(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.chmod(0o777)
    writable = os.statvfs(plugins).f_flag & ~os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=writable))
    with pytest.raises(ConfigFileError):
        safe_directory(str(plugins))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=writable | os.ST_RDONLY))
    assert safe_directory(str(plugins)) == str(plugins)


def test_what_is_no_plain_file_is_not_opened(plugins: Path) -> None:
    os.mkfifo(plugins / "pipe.json")
    with pytest.raises(ConfigFileError, match="no regular file"):
        read_safely(str(plugins / "pipe.json"))  # and does not wait for somebody to write to it
    with pytest.raises(ConfigFileError, match="no directory"):
        safe_directory(str(program(plugins, "x")))
    with pytest.raises(ConfigFileError, match="is not there"):
        safe_directory(str(plugins / "nowhere"))


def test_a_file_without_end_is_no_manifest(plugins: Path) -> None:
    path = plugins / "a.json"
    path.write_text(" " * (1 << 20) + "{}")
    with pytest.raises(ConfigFileError, match="longer than 1 MiB"):
        read_safely(str(path))


def test_a_program_must_be_executable(plugins: Path) -> None:
    path = program(plugins, "x")
    assert safe_program(str(path)) == str(path)
    path.chmod(0o644)
    with pytest.raises(ConfigFileError, match="not executable"):
        safe_program(str(path))
