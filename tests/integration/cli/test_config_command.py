"""``goplugins config``: output, exit codes, and masked secrets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from goplugins import Manager, ManagerConfig
from goplugins.cli import main
from goplugins.config.manager import load
from tests.unit.discovery.conftest import put

GO_FILE = Path(__file__).resolve().parents[2] / "data/go-v1.0.0-config.json"

VALID = """\
default_retry:
  max_retries: 5
plugins:
- name: auth
  transport: https
  endpoint: https://auth.example.com/v1
  auth: {method: bearer, token: hunter2}
"""
INVALID = """\
plugins:
- name: auth
  transport: https
  endpoint: http://auth.example.com/v1
  retry:
    max_retries: three

- name: auth
  transport: unix
  endpoint: ${GOPLUGINS_TEST_UNSET}
  nonsense: 1
"""


@pytest.fixture(autouse=True)
def in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(VALID)
    (tmp_path / "bad.yaml").write_text(INVALID)


def config(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["config", *arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


# --- as a process ----------------------------------------------------------------------------------------------


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "goplugins", "config", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=50, check=False, env={**os.environ, **environ}
    )


def test_the_commands_as_processes() -> None:
    done = run("check", "bad.yaml")
    assert (done.returncode, done.stderr) == (1, "")
    assert [line.split(": ")[:2] for line in done.stdout.splitlines()] == [
        ["bad.yaml:4", "plugins[0].endpoint"],
        ["bad.yaml:6", "plugins[0].retry.max_retries"],
        ["bad.yaml:8", "plugins[1].name"],
        ["bad.yaml:10", "plugins[1].endpoint"],
        ["bad.yaml:11", "plugins[1].nonsense"],
    ]
    shown = run("show", "--origin", "good.yaml", GOPLUGINS__PLUGINS__AUTH__ENDPOINT="https://other.example.com/")
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = {line.split(" = ")[0]: line for line in shown.stdout.splitlines()}
    assert "# environment GOPLUGINS__PLUGINS__AUTH__ENDPOINT" in rows["plugins[auth].endpoint"]
    assert "# good.yaml:2" in rows["plugins[auth].retry.max_retries"]
    assert "hunter2" not in shown.stdout


# --- check -----------------------------------------------------------------------------------------------------


def test_check_of_a_valid_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert config("check", "good.yaml", capsys=capsys) == (0, "good.yaml: no problem, 1 plugin\n", "")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("c.json", '{\n "plugins": [\n', 3),
        ("c.yaml", "plugins:\n- name: a\n  name: b\n", 3),
        ("c.toml", "[[plugins]]\nname = \n", 2),
        ("c.json", '{"log_level": "info",\n "plugins": []}', 2),
    ],
)
def test_check_names_the_line(name: str, text: str, line: int, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text(text)
    code, out, _ = config("check", name, capsys=capsys)
    assert code == 1
    assert out.startswith(f"{name}:{line}: ")


def test_check_for_another_machine_ignores_variables_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    plugin = {"name": "a", "transport": "https", "endpoint": "https://host/a"}
    plugin["auth"] = {"method": "bearer", "token": "${GOPLUGINS_TEST_UNSET}", "ca_file": "/nowhere/ca.pem"}  # type: ignore[assignment]
    Path("c.json").write_text(json.dumps({"plugins": [plugin]}))
    assert config("check", "--elsewhere", "c.json", capsys=capsys)[:2] == (
        0,
        "c.json: no problem once its variables are set\n",
    )
    code, out, _ = config("check", "c.json", capsys=capsys)
    assert code == 1
    assert "GOPLUGINS_TEST_UNSET" in out
    assert "/nowhere/ca.pem" in config("check", "c.json", capsys=capsys)[1] or "plugins[0].auth.ca_file" in out
    assert config("check", "--elsewhere", "bad.yaml", capsys=capsys)[0] == 1


def test_check_skips_types_registered_in_code(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.json").write_text('{"plugins": [{"name": "a", "type": "mine", "transport": "unix", "endpoint": "/run/a"}]}')
    assert config("check", "c.json", capsys=capsys)[0] == 0


def test_check_of_a_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = config("check", "nowhere.yaml", capsys=capsys)
    assert (code, out) == (2, "")
    assert err.startswith("goplugins: nowhere.yaml: does not exist")


# --- diff ------------------------------------------------------------------------------------------------------


def test_diff_shows_changes_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.yaml").write_text(VALID.replace("max_retries: 5", "max_retries: 6").replace("hunter2", "hunter3"))
    code, out, err = config("diff", "good.yaml", "new.yaml", capsys=capsys)
    assert (code, err) == (1, "")
    assert "~ auth: replaced" in out
    assert "retry.max_retries: 5 -> 6" in out
    assert "hunter" not in out
    assert config("diff", "good.yaml", "good.yaml", capsys=capsys) == (0, "nothing differs\n", "")


def test_diff_with_an_invalid_file_lists_all_problems(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = config("diff", "good.yaml", "bad.yaml", capsys=capsys)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 5
    assert all(line.startswith("goplugins: bad.yaml: plugins[") for line in err.splitlines())


# --- show ------------------------------------------------------------------------------------------------------


def test_show_marks_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = config("show", "good.yaml", capsys=capsys)
    assert code == 0
    rows = dict(line.split(" = ", 1) for line in out.splitlines())
    assert rows["plugins[auth].endpoint"].strip() == '"https://auth.example.com/v1"'
    assert rows["plugins[auth].auth.token"].strip() == '"***"'
    assert rows["plugins[auth].retry.multiplier"].split() == ["2.0", "#", "default"]
    assert "hunter2" not in out


def test_show_lists_discovered_plugins_and_those_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0o022)
    folder = tmp_path / "found"
    folder.mkdir()
    put(folder, "geo")
    put(folder, "bad", endpoint="")
    os.umask(before)
    Path("c.json").write_text(json.dumps({"discovery": {"enabled": True, "directories": ["found"]}}))
    code, out, err = config("show", "--origin", "c.json", capsys=capsys)
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("plugins[geo].endpoint"))
    assert row.endswith(f"# discovery {folder}/geo.json:1")
    assert err.startswith(f"warning: left out: {folder}/bad.json: endpoint: names no socket")


# --- import-go -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_import_go_writes_a_loadable_configuration(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = config("import-go", "--format", kind, str(GO_FILE), capsys=capsys)
    assert code == 0
    values: Any = yaml.safe_load(out) if kind == "yaml" else json.loads(out)
    token = values["plugins"][0]["auth"]["token"]
    assert token == "${AUTH_SERVICE_AUTH_TOKEN}"
    assert "AUTH_SERVICE_AUTH_TOKEN" in err
    monkeypatch.setenv("AUTH_SERVICE_AUTH_TOKEN", "tok")
    monkeypatch.setenv("DATA_PROCESSOR_ENV_LOG_LEVEL", "debug")
    ours = ManagerConfig.from_go_json(GO_FILE.read_bytes())
    assert "plugins[2].options.batch: unknown option, left out" in err
    path = Path(f"imported.{kind}")
    path.write_text(json.dumps(values) if kind == "json" else yaml.safe_dump(values))
    loaded = load(path).config
    assert loaded.plugins[0] == ours.plugins[0]
    assert loaded.plugins[1] == ours.plugins[1]
    assert (loaded.default_retry, loaded.discovery) == (ours.default_retry, ours.discovery)


def test_import_go_warns_of_settings_without_counterpart(capsys: pytest.CaptureFixture[str]) -> None:
    plugin = {
        "name": "a",
        "transport": "exec",
        "executable": "/bin/true",
        "endpoint": "https://host/a",
        "auth": {"method": "custom", "headers": {"X-Price": "${5}"}},
        "labels": {"note": "costs ${5}"},
        "sidecar": {"image": "x"},
        "env": ["KEY=s3cret"],
    }
    Path("go.json").write_text(json.dumps({"plugins": [plugin], "telemetry": 1, "metrics_port": 9090}))
    code, out, err = config("import-go", "go.json", capsys=capsys)
    assert code == 0
    written = yaml.safe_load(out)["plugins"][0]
    assert written["labels"] == {"note": "costs $${5}"}
    assert written["auth"]["headers"] == {"X-Price": "${A_AUTH_HEADERS_X_PRICE}"}
    assert written["env"] == ["KEY=${A_ENV_KEY}"]
    assert "endpoint" not in written
    for text in (
        "plugins[0].endpoint: is not used by transport exec, left out",
        "telemetry: has no counterpart",
        "plugins[0].sidecar: has no counterpart",
        "A_ENV_KEY",
    ):
        assert text in err
    assert "s3cret" not in out + err
    _, out, _ = config("import-go", "--include-secrets", "go.json", capsys=capsys)
    assert yaml.safe_load(out)["plugins"][0]["env"] == ["KEY=s3cret"]


SECTIONS: dict[str, dict[str, Any]] = {
    "time window": {"rate_limit": {"enabled": True, "requests_per_second": 5, "time_window": 60_000_000_000}},
    "other credentials": {"auth": {"method": "bearer", "token": "t", "api_key": "k", "username": "u"}},
    "token beside a certificate": {"auth": {"method": "mtls", "cert_file": "c", "key_file": "k", "token": "t"}},
    "options of its own": {"options": {"batch": 5, "nested": {"a.b": [1]}}},
    "process": {"executable": "/bin/true", "args": ["-v"], "env": ["A=b"], "work_dir": "/"},
    "unused health endpoint": {"transport": "unix", "endpoint": "/run/a", "health_check": {"endpoint": "/health"}},
    "endpoint of a program": {"transport": "exec", "executable": "/bin/true", "endpoint": "/bin/true"},
    "credentials within the process": {"transport": "exec", "executable": "/bin/true", "auth": {"method": ""}},
    "name that begins with a digit": {"name": "2fa", "auth": {"method": "bearer", "token": "t"}},
    "name of two letters beyond ASCII": {"name": "\u00e9\u00e8", "auth": {"method": "bearer", "token": "t"}},
    "secret in the address": {"endpoint": "https://host/a?key=1"},
    "variable in a text": {"labels": {"note": "${HOME} and ${"}},
    "words of YAML": {"labels": {"on": "yes", "030": "1:30", "~": "null"}},
    "another factory": {"type": "payment"},
    "priority": {"priority": 7},
}


@pytest.mark.parametrize("kind", ["yaml", "json"])
@pytest.mark.parametrize("case", SECTIONS)
def test_check_accepts_what_import_go_writes(
    kind: str, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = {"name": "a", "type": "", "transport": "https", "endpoint": "https://host/a", "enabled": True}
    Path("go.json").write_text(json.dumps({"plugins": [{**plugin, **SECTIONS[case]}]}))
    code, out, err = config("import-go", "--format", kind, "go.json", capsys=capsys)
    assert code == 0, err
    for variable in re.findall(r"\$\{(\w+)\}", out):
        monkeypatch.setenv(variable, "https://host/a" if variable.endswith("ENDPOINT") else "secret")
    Path(f"written.{kind}").write_text(out)
    code, _, err = config("check", "--elsewhere", f"written.{kind}", capsys=capsys)
    assert (code, err) == (0, "")
    if case == "time window":
        limit = load(f"written.{kind}").resolved.plugins[0].rate_limit
        assert limit is not None
        assert (limit.requests_per_second, limit.time_window) == (5, 1)


def test_import_go_says_what_has_to_be_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    plugin = {"name": "two words", "transport": "https", "endpoint": "host/a"}
    Path("go.json").write_text(json.dumps({"plugins": [plugin]}))
    code, out, err = config("import-go", "go.json", capsys=capsys)
    assert code == 1
    assert yaml.safe_load(out)["plugins"][0]["name"] == "two words"
    assert "plugins[0].name" in err
    assert "plugins[0].endpoint: is not a complete URL" in err


def test_import_go_of_an_invalid_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("go.json").write_text('{"default_retry": {"max_interval": "5s"}}')
    code, out, err = config("import-go", "go.json", capsys=capsys)
    assert (code, out) == (2, "")
    assert "default_retry.max_interval: expected integer nanoseconds" in err
    assert config("import-go", "nowhere.json", capsys=capsys)[0] == 2


def test_a_file_that_check_accepts_can_be_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert config("check", "good.yaml", capsys=capsys)[0] == 0
    with Manager() as manager:
        manager.load_from_config("good.yaml")
        assert manager.list_plugins()
