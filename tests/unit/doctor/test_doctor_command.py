"""The command ``goplugins doctor``."""

from __future__ import annotations

from pathlib import Path

import pytest

from goplugins import cli


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(["doctor", *words])
    return code, capsys.readouterr().out


def test_findings_with_reason_and_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plugins.json"
    path.write_text('{"plugins": [{"name": "p", "transport": "http", "endpoint": "http://127.0.0.1:9"}]}')
    config = ("--config", str(path))
    code, text = doctor(capsys, *config, "--", "gunicorn", "--workers", "4", "--timeout", "30", "app:app")
    assert code == 1
    assert "[timeout-above-worker]" in text
    assert "  why: " in text
    assert "  fix: " in text
    assert "1 problem found under gunicorn" in text
    assert doctor(capsys, *config, "--", "gunicorn", "--timeout", "60", "app:app")[0] == 0
    assert doctor(capsys, *config, "--workers", "4", "--worker-timeout", "10")[0] == 1
    assert cli.main(["doctor", "--config", str(tmp_path / "none.json")]) == 2
    assert cli.main(["doctor", "--", "gunicorn", "--workers", "many"]) == 2


def test_without_arguments_it_names_those_that_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = doctor(capsys)
    assert code == 0
    assert "--config FILE" in text
    assert "-- COMMAND" in text
