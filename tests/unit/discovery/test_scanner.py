"""Scans of directories and installed packages."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from goplugins import Discovery, DiscoveryConfig, ManagerConfig, PluginConfig
from goplugins.discovery import DiscoveryReport
from goplugins.enums import TransportType
from goplugins.errors import ConfigError, InvalidConfigError
from goplugins.testing import ManualClock
from goplugins.transports.watched_files import WatchedFiles
from tests.unit.discovery.conftest import GiveAway, program, put


def scan(*folders: Path, patterns: Iterable[str] = (), environ: Any = None, **fields: Any) -> DiscoveryReport:
    section = DiscoveryConfig(directories=[str(folder) for folder in folders], patterns=patterns)
    registered, check = fields.pop("registered", None), fields.pop("check", None)
    config = ManagerConfig(discovery=section, **fields)
    return Discovery(config, environ=environ or {}, registered=registered, check=check).scan()


def messages_of(report: DiscoveryReport) -> dict[str, str]:
    """The message for each plugin or file that was left out."""
    return {problem.plugin or os.path.basename(problem.path): problem.message for problem in report.problems}


# --- manifests -------------------------------------------------------------------------------------------------

YAML = """
name: geo
version: "1.4.2"
description: where things are
author: maps team
capabilities: [lookup, reverse]
requirements:
  min_version: "0.1"
transport: exec
executable: ./bin/geo
args: [--fast]
work_dir: .
retry:
  max_retries: 1
auth: {method: bearer, token: "${GEO_TOKEN}", ca_file: ca.pem}
"""
TOML = """
name = "geo"
version = "1.4.2"
description = "where things are"
author = "maps team"
capabilities = ["lookup", "reverse"]
transport = "exec"
executable = "./bin/geo"
args = ["--fast"]
work_dir = "."
requirements = {min_version = "0.1"}
retry = {max_retries = 1}
auth = {method = "bearer", token = "${GEO_TOKEN}", ca_file = "ca.pem"}
"""


@pytest.mark.parametrize(("name", "text"), [("geo.yaml", YAML), ("geo.toml", TOML), ("geo.yml", YAML)])
def test_a_manifest_has_identity_and_configuration(plugins: Path, name: str, text: str) -> None:
    (plugins / name).write_text(text)
    (plugins / "ca.pem").write_text("")
    (plugins / "bin").mkdir()
    geo = program(plugins / "bin", "geo")
    report = scan(plugins, environ={"GEO_TOKEN": "hunter2"})
    assert report.problems == ()
    plugin = report.found["geo"]
    assert plugin.path == str(plugins / name)
    manifest = plugin.manifest
    assert (manifest.version, manifest.author, manifest.capabilities) == ("1.4.2", "maps team", ("lookup", "reverse"))
    assert manifest.requirements.min_version == "0.1"
    config = plugin.config
    assert (config.executable, config.work_dir, config.args) == (str(geo), str(plugins), ("--fast",))
    assert config.retry is not None
    assert config.retry.max_retries == 1
    assert config.auth is not None
    assert (config.auth.token, config.auth.ca_file) == ("hunter2", str(plugins / "ca.pem"))


def test_relative_paths_start_at_the_manifest(plugins: Path) -> None:
    put(plugins, "relative", endpoint="run/a.sock")
    put(plugins, "abstract", endpoint="@a")
    put(plugins, "several", endpoint="", endpoints=["a.sock", "/run/b.sock"])
    put(plugins, "web", transport="http", endpoint="http://host/a")
    found = scan(plugins).found
    assert found["relative"].config.endpoint == str(plugins / "run/a.sock")
    assert found["abstract"].config.endpoint == "@a"
    assert found["several"].config.endpoints == (str(plugins / "a.sock"), "/run/b.sock")
    assert found["web"].config.endpoint == "http://host/a"


def test_a_program_without_directory_is_beside_the_manifest_or_in_path(plugins: Path) -> None:
    put(plugins, "beside", transport="exec", executable="tool", endpoint="")
    put(plugins, "in-path", transport="exec", executable="sh", endpoint="")
    tool = program(plugins, "tool")
    found = scan(plugins).found
    assert found["beside"].config.executable == str(tool)
    assert found["in-path"].config.executable == "sh"


def test_invalid_manifests_are_left_out_and_reported(plugins: Path) -> None:
    put(plugins, "good")
    (plugins / "half.json").write_text('{"name": "half", "tra')
    (plugins / "list.json").write_text("[]")
    (plugins / "empty.yaml").write_text("")
    put(plugins, "nameless", name="")
    put(plugins, "unknown", transprot="unix")
    put(plugins, "wrong", retry={"max_retries": "three"})
    put(plugins, "unset", endpoint="/run/${NOT_SET}")
    put(plugins, "no-endpoint", endpoint="")
    put(plugins, "no-program", transport="exec", executable="./missing", endpoint="")
    put(plugins, "range", requirements={"requires": {"good": "^1"}})
    put(plugins, "min", requirements={"min_version": "soon"})
    put(plugins, "tls", transport="https", endpoint="http://plain/a")
    report = scan(plugins)
    assert list(report.found) == ["good"]
    messages = messages_of(report)
    assert "line 1, column" in messages["half.json"]
    assert "expected a table" in messages["list.json"]
    assert "expected a table" in messages["empty.yaml"]
    assert messages["nameless.json"].startswith("name: missing")
    assert messages["unknown.json"].startswith("transprot: unknown field")
    assert messages["wrong.json"].startswith("retry.max_retries: expected an integer")
    assert messages["unset.json"].startswith("endpoint: variable NOT_SET is not set")
    assert messages["no-endpoint"].startswith("endpoint: names no socket")
    assert "missing: does not exist" in messages["no-program.json"]
    assert messages["range.json"].startswith("requirements.requires.good: '^1' is not a version range")
    assert messages["min.json"].startswith("requirements.min_version: 'soon' is not a version")
    assert "plaintext" in messages["tls"]


def test_problems_hold_no_secret(plugins: Path) -> None:
    put(plugins, "a", auth={"method": "bearer", "token": ["hunter2"]})
    put(plugins, "b", transport="http", endpoint="http://me:hunter2@host/")
    (plugins / "c.json").write_text('{"token": "hunter2"')
    report = scan(plugins)
    assert len(report.problems) == 3
    assert "hunter2" not in str(report)


# --- permissions ---------------------------------------------------------------------------------------------


def test_unsafe_files_and_directories_are_left_out(
    plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(plugins, "good")
    put(plugins, "open").chmod(0o666)
    put(plugins, "tool", transport="exec", executable="./tool", endpoint="")
    program(plugins, "tool").chmod(0o777)
    program(plugins, "plugin-x").chmod(0o775)
    loose = tmp_path / "loose"
    loose.mkdir()
    put(loose, "inner")
    loose.chmod(0o777)
    report = scan(loose, plugins, patterns=["*.json", "plugin-*"])
    assert list(report.found) == ["good"]
    messages = messages_of(report)
    assert sorted(messages) == ["loose", "open.json", "plugin-x", "tool.json"]
    assert all("is writable for" in message for message in messages.values())


def test_a_manifest_of_another_user_is_left_out(plugins: Path, give_away: GiveAway) -> None:
    give_away(put(plugins, "theirs"))
    report = scan(plugins)
    assert report.found == {}
    assert "belongs to user" in str(report)


# --- programs --------------------------------------------------------------------------------------------------


def test_programs_need_a_matching_pattern(plugins: Path) -> None:
    program(plugins, "plugin-geo.sh")
    program(plugins, "plugin-1.2")
    program(plugins, "other")
    assert scan(plugins).found == {}
    found = scan(plugins, patterns=["plugin-*"]).found
    assert list(found) == ["plugin-1.2", "plugin-geo"]
    assert found["plugin-geo"].config == PluginConfig(
        name="plugin-geo", transport="exec", executable=str(plugins / "plugin-geo.sh")
    )


def test_patterns_apply_to_manifests(plugins: Path) -> None:
    put(plugins, "plugin-a")
    put(plugins, "b")
    assert list(scan(plugins, patterns=["plugin-*"]).found) == ["plugin-a"]


def test_a_program_with_a_manifest_is_not_used_without_it(plugins: Path) -> None:
    for name in ("plugin-a", "plugin-b", "plugin-c.sh"):
        program(plugins, name)
    put(plugins, "plugin-a", transport="exec", executable="./plugin-a", endpoint="")
    (plugins / "plugin-b.yaml").write_text("name: [")  # its limits and credentials can't be read
    put(plugins, "named-otherwise", transport="exec", executable="./plugin-c.sh", endpoint="")
    report = scan(plugins, patterns=["*"])
    assert list(report.found) == ["named-otherwise", "plugin-a"]
    assert list(messages_of(report)) == ["plugin-b.yaml"]


def test_matching_files_that_cannot_run_are_reported(plugins: Path) -> None:
    (plugins / "plugin-notes.txt").write_text("")
    program(plugins, "libgeo.so")
    program(plugins, ".plugin-hidden")
    program(plugins, "plugin-old~")
    (plugins / "plugin-folder").mkdir()
    messages = messages_of(scan(plugins, patterns=["plugin-*", "*.so", ".*"]))
    assert sorted(messages) == ["libgeo.so", "plugin-notes.txt"]
    assert "neither a manifest nor executable" in messages["plugin-notes.txt"]
    assert "shared library" in messages["libgeo.so"]


# --- order and conflicts ---------------------------------------------------------------------------------------


def test_plugins_are_sorted_by_name(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("c", "a", "b"):
        put(plugins, name)
    assert list(scan(plugins).found) == ["a", "b", "c"]
    listed = os.listdir(plugins)
    monkeypatch.setattr(os, "listdir", lambda path: list(reversed(listed)))
    assert list(scan(plugins).found) == ["a", "b", "c"]


def test_of_several_plugins_with_one_name_the_first_is_used(plugins: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    put(plugins, "a", version="1")
    put(second, "a", version="2")
    (plugins / "z.json").write_text((plugins / "a.json").read_text())
    for name in ("configured", "coded"):
        put(plugins, name)
    own = PluginConfig(name="configured", transport="unix", endpoint="/run/own")
    report = scan(plugins, second, plugins=[own], registered=["coded"])
    assert {name: plugin.manifest.version for name, plugin in report.found.items()} == {"a": "1"}
    assert [(os.path.relpath(problem.path, tmp_path), problem.message) for problem in report.problems] == [
        ("plugins/coded.json", "'coded' is registered in code, which has precedence"),
        ("plugins/configured.json", "'configured' is in the configuration, which has precedence"),
        ("plugins/z.json", f"'a' is also in {plugins}/a.json, which has precedence"),
        ("second/a.json", f"'a' is also in {plugins}/a.json, which has precedence"),
    ]


def test_a_missing_directory_is_reported(plugins: Path, tmp_path: Path) -> None:
    put(plugins, "a")
    report = scan(tmp_path / "nowhere", plugins)
    assert list(report.found) == ["a"]
    assert messages_of(report) == {"nowhere": "does not exist (create it, or remove its name from the configuration)"}


# --- requirements ----------------------------------------------------------------------------------------------


def test_requirements_on_other_plugins(plugins: Path) -> None:
    put(plugins, "auth", version="1.5")
    put(plugins, "odd", version="newest")
    put(plugins, "unversioned")
    put(plugins, "off", version="1", enabled=False)
    needs = {
        "fits": ["auth >=1.2, <2", "unversioned", "own>=3"],
        "too-new": ["auth >=2"],
        "lonely": ["missing"],
        "unknown": ["unversioned >=1"],
        "not-on": ["off"],
        "garbage": ["odd >=1"],
        "second-hand": ["too-new"],
    }
    for name, required in needs.items():
        put(plugins, name, requirements={"requires": required})
    own = PluginConfig(name="own", transport="unix", endpoint="/run/own", labels={"version": "3.1"})
    report = scan(plugins, plugins=[own])
    assert list(report.found) == ["auth", "fits", "odd", "off", "unversioned"]
    messages = messages_of(report)
    assert messages["too-new"] == "requirements.requires: needs 'auth' >=2, but its version is 1.5"
    assert messages["lonely"] == "requirements.requires: needs 'missing', which does not exist"
    assert "whose version is unknown" in messages["unknown"]
    assert messages["not-on"] == "requirements.requires: needs 'off', which is not enabled"
    assert messages["garbage"].endswith("but 'newest' is not a version")
    assert messages["second-hand"] == "requirements.requires: needs 'too-new', which was left out as well"


def test_a_plugin_for_a_later_version_is_left_out(plugins: Path) -> None:
    put(plugins, "now", requirements={"min_version": "0.0.1"})
    put(plugins, "later", requirements={"min_version": "99.0"})
    report = scan(plugins)
    assert list(report.found) == ["now"]
    assert messages_of(report)["later"].startswith("requirements.min_version: needs goplugins 99.0, this is ")


def test_circular_requirements_are_left_out_with_their_dependents(plugins: Path) -> None:
    for name, needed in {"a": "b", "b": "c", "c": "a", "self": "self", "outside": "a", "fine": "other"}.items():
        put(plugins, name, requirements={"requires": [needed]})
    put(plugins, "other")
    report = scan(plugins)
    assert list(report.found) == ["fine", "other"]
    messages = messages_of(report)
    assert {messages[name] for name in "abc"} == {
        "requirements.requires: circular: a -> b -> c -> a (remove one of them)"
    }
    assert "self -> self" in messages["self"]
    assert "which was left out as well" in messages["outside"]


def test_a_plugin_with_a_missing_fallback_is_left_out(plugins: Path) -> None:
    put(plugins, "a", fallback={"plugin": "own"})
    put(plugins, "b", fallback={"plugin": "missing"})
    put(plugins, "c", fallback={"plugin": "b"})
    own = PluginConfig(name="own", transport="unix", endpoint="/run/own")
    report = scan(plugins, plugins=[own], registered=())
    assert list(report.found) == ["a"]
    assert sorted(messages_of(report)) == ["b", "c"]


def test_a_plugin_that_its_factory_rejects_is_left_out(plugins: Path) -> None:
    put(plugins, "good")
    put(plugins, "refused")

    def check(config: ManagerConfig, suspect: object) -> Iterable[ConfigError]:
        for index, plugin in enumerate(config.plugins):
            if plugin.name == "refused":
                yield InvalidConfigError("not supported", path=f"plugins[{index}].endpoint", fix="write another one")

    report = scan(plugins, check=check)
    assert list(report.found) == ["good"]
    assert messages_of(report) == {"refused": "endpoint: not supported (write another one)"}


# --- environment -----------------------------------------------------------------------------------------------


def test_variables_override_a_manifest(plugins: Path) -> None:
    put(plugins, "geo-eu", retry={"max_retries": 1})
    environ = {
        "GOPLUGINS__PLUGINS__GEO_EU__RETRY__MAX_RETRIES": "7",
        "GOPLUGINS__PLUGINS__GEO_EU__ENDPOINT": "/run/other.sock",
        "GOPLUGINS__PLUGINS__OTHER__ENDPOINT": "x",
    }
    report = scan(plugins, environ=environ)
    config = report.found["geo-eu"].config
    assert config.endpoint == "/run/other.sock"
    assert config.retry is not None
    assert config.retry.max_retries == 7
    assert list(messages_of(report)) == ["GOPLUGINS__PLUGINS__OTHER__ENDPOINT"]


# --- entry points ----------------------------------------------------------------------------------------------


def distribution(folder: Path, name: str, entry_points: str, version: str = "1.0") -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[goplugins.plugins]\n{entry_points}\n")


def test_entry_points_are_found_and_not_imported(
    plugins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    distribution(site, "maps", "geo = no_such_module:geo\nshared = maps:one\nlocal = maps:local", "2.3")
    distribution(site, "other", "shared = other:two")
    monkeypatch.syspath_prepend(site)
    put(plugins, "local")
    section = DiscoveryConfig(directories=[str(plugins)], entry_points=True)
    report = Discovery(section, environ={}).scan()
    geo = report.found["geo"]
    assert (geo.config.transport, geo.config.endpoint) == (TransportType.PYTHON, "geo")
    assert geo.manifest.version == "2.3"
    assert report.found["local"].path == str(plugins / "local.json")
    assert "shared" not in report.found
    assert "more than one installed package" in messages_of(report)["shared"]
    assert "geo" not in Discovery(DiscoveryConfig(directories=[str(plugins)])).scan().found


# --- repeated scans ------------------------------------------------------------------------------------------


def scans(plugins: Path, **options: Any) -> Callable[[], DiscoveryReport]:
    """Repeated scans, each with the report of the one before."""
    section = DiscoveryConfig(directories=[str(plugins)])
    last: list[DiscoveryReport | None] = [None]

    def scan() -> DiscoveryReport:
        last[0] = Discovery(section, environ={}, before=last[0], **options).scan()
        return last[0]

    return scan


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"name": "a"}', '{"name": "a", "transport": "http", "endpoint": "nonsense"}', '{"nmae": "a"}']
)
def test_a_plugin_in_use_survives_an_invalid_manifest(plugins: Path, text: str) -> None:
    for name in "abc":
        put(plugins, name)
    scan = scans(plugins)
    before = scan().found
    (plugins / "a.json").write_text(text)
    for _ in range(3):
        report = scan()
        assert report.found == before
        assert list(report.found) == ["a", "b", "c"]
        (problem, *_) = report.problems
        assert problem.kept
        assert str(problem).endswith("; its plugin stays as it was")
    assert "a" not in scans(plugins)().found  # a first scan has no plugin to keep
    put(plugins, "a", endpoint="/run/other.sock")
    assert scan().found["a"].config.endpoint == "/run/other.sock"
    (plugins / "a.json").unlink()
    assert list(scan().found) == ["b", "c"]


def test_a_plugin_in_use_is_removed_when_its_files_become_unsafe(plugins: Path) -> None:
    put(plugins, "a")
    path = put(plugins, "b", transport="exec", endpoint="", executable="run-b")
    tool = program(plugins, "run-b")
    scan = scans(plugins)
    assert list(scan().found) == ["a", "b"]
    path.write_text("{")
    assert list(scan().found) == ["a", "b"]
    tool.chmod(0o777)
    assert list(scan().found) == ["a"]
    (plugins / "a.json").chmod(0o666)
    assert list(scan().found) == []


def test_plugins_in_use_survive_a_missing_directory_but_not_an_unsafe_one(plugins: Path) -> None:
    put(plugins, "a")
    scan = scans(plugins)
    scan()
    away = plugins.with_name("away")
    plugins.rename(away)
    report = scan()
    assert list(report.found) == ["a"]
    assert [str(problem) for problem in report.problems] == [
        f"{plugins}: does not exist (create it, or remove its name from the configuration); its plugin stays as it was"
    ]
    away.rename(plugins)
    plugins.chmod(0o777)
    assert list(scan().found) == []


def test_a_plugin_in_use_is_removed_with_its_requirement(plugins: Path) -> None:
    put(plugins, "a", requirements={"requires": ["b"]})
    put(plugins, "b")
    scan = scans(plugins)
    assert list(scan().found) == ["a", "b"]
    (plugins / "b.json").unlink()
    assert list(scan().found) == []


# --- the report ------------------------------------------------------------------------------------------------


def test_a_report_is_logged_and_added_to_a_configuration(plugins: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(plugins, "b")
    (plugins / "broken.json").write_text("{")
    own = PluginConfig(name="own", transport="unix", endpoint="/run/own")
    config = ManagerConfig(plugins=[own], discovery=DiscoveryConfig(directories=[str(plugins)]))
    report = Discovery(config, environ={}).scan()
    with caplog.at_level(logging.WARNING, "goplugins.discovery"):
        report.log()
    assert "broken.json" in caplog.text
    assert [plugin.name for plugin in report.added_to(config).plugins] == ["own", "b"]


def test_a_section_of_wrong_types_is_refused() -> None:
    with pytest.raises(ConfigError, match="directories"):
        Discovery(DiscoveryConfig(directories="/opt"))


# --- changes ---------------------------------------------------------------------------------------------------


def test_the_signature_changes_with_the_files_that_a_scan_reads(plugins: Path, tmp_path: Path) -> None:
    discovery = Discovery(DiscoveryConfig(directories=[str(plugins)], patterns=["*.json", "plugin-*"]))
    seen = [discovery.signature()]

    def has_changed() -> bool:
        seen.append(discovery.signature())
        return seen[-1] not in seen[:-1]

    path = put(plugins, "a")
    assert has_changed()
    os.utime(path, (0, 0))
    assert not has_changed(), "the content counts, not the time"
    put(plugins, "a", version="2")
    assert has_changed()
    path.chmod(0o666)
    assert has_changed(), "it became unsafe"
    tool = program(plugins, "plugin-x")
    assert has_changed()
    os.utime(tool, (1, 1))
    assert has_changed(), "a program counts by size and time"
    (plugins / "notes.txt").write_text("")
    assert not has_changed()
    tool.unlink()
    path.chmod(0o644)
    put(plugins, "a")
    assert not has_changed(), "all is as it was"
    plugins.rename(tmp_path / "away")
    assert has_changed()


def test_a_change_counts_once_it_has_settled(plugins: Path) -> None:
    clock = ManualClock()
    discovery = Discovery(DiscoveryConfig(directories=[str(plugins)]))
    report = discovery.scan()
    put(plugins, "while-loading")
    watch = WatchedFiles(discovery.signature, clock, settle=0.5, known=report.signature)
    assert not watch.changed()
    assert watch.pending
    clock.advance(0.4)
    put(plugins, "another")
    assert not watch.changed()
    clock.advance(0.5)
    assert watch.changed()
    watch.accept()
    assert not watch.changed()
    assert not watch.pending


def test_the_manifest_of_the_documentation(plugins: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/howto/discovery.md").read_text()
    (plugins / "geo.yaml").write_text(page.split("```yml\n")[1].split("```")[0])
    (plugins / "bin").mkdir()
    program(plugins / "bin", "geo")
    put(plugins, "auth", version="1.3")
    report = scan(plugins)
    assert (list(report.found), report.problems) == (["auth", "geo"], ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bad.yaml", "name: x\nenabled: !!bool maybe\n"),
        ("bad.yaml", "name: !!timestamp soon\n"),
        ("bad.yaml", "name: !!int ten\n"),
        ("bad.yaml", "name: !!binary '*'\n"),
        ("bad.yaml", "a: " + "[" * 5000),
        ("bad.json", '{"name": "x", "transport": "http", "endpoint": "http://h/", "priority": ' + "9" * 5000 + "}"),
        ("bad.json", '{"name": "x", "transport": "exec", "executable": "/bin/sh\\u0000x"}'),
        ("bad.json", '{"name": "x", "transport": "exec", "executable": "/bin/\\ud800"}'),
        ("bad.json", '{"name": ' + "[" * 950 + "]" * 950 + "}"),
        ("bad.toml", "name = " + "[" * 5000),
        ("bad.toml", "name = 99999-99-99"),
    ],
)
def test_no_manifest_keeps_others_from_being_found(plugins: Path, name: str, text: str) -> None:
    put(plugins, "good")
    (plugins / name).write_text(text)
    report = scan(plugins)
    assert list(report.found) == ["good"]
    assert [problem.path for problem in report.problems] == [str(plugins / name)]
