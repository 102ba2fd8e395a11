"""Workers and limits on the command lines of servers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from goplugins import ConfigFileError, InvalidArgumentError
from goplugins.doctor.server_command import host_of


@pytest.mark.parametrize(
    ("line", "workers", "limit"),
    [
        ("gunicorn app:app", 1, 30.0),
        ("gunicorn -w 4 app:app", 4, 30.0),
        ("gunicorn -w4 -t90 app:app", 4, 90.0),
        ("/usr/bin/gunicorn --workers=8 --timeout 120 app:app", 8, 120.0),
        ("python -m gunicorn --timeout 0 app:app", 1, None),
        ("gunicorn --threads 4 app:app", 1, None),  # a threaded worker sends heartbeats
        ("gunicorn -k gthread app:app", 1, None),
        ("gunicorn -k gevent app:app", 1, None),
        ("gunicorn -k sync --timeout 5 app:app", 1, 5.0),
    ],
)
def test_gunicorn(line: str, workers: int, limit: float | None) -> None:
    found = host_of(shlex.split(line), {})
    assert (found.name, found.workers, found.limit) == ("gunicorn", workers, limit)


def test_the_environment_and_file_of_gunicorn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = host_of(["gunicorn", "app:app"], {"WEB_CONCURRENCY": "3", "GUNICORN_CMD_ARGS": "--timeout 7"})
    assert (found.workers, found.limit) == (3, 7.0)
    (tmp_path / "gunicorn.conf.py").write_text("import os\nworkers = os.cpu_count() * 2\ntimeout = 12\n")
    found = host_of(["gunicorn", "app:app"], {})
    assert (found.workers, found.limit) == (None, 12.0)
    (tmp_path / "other.py").write_text("workers = 5\nworker_class = 'gthread'\nraise SystemExit('executed')\n")
    found = host_of(["gunicorn", "-c", "other.py", "--timeout", "9", "app:app"], {})
    assert (found.workers, found.limit) == (5, None)
    with pytest.raises(ConfigFileError):
        host_of(["gunicorn", "-c", "none.py", "app:app"], {})


def test_an_invalid_option_is_an_error() -> None:
    with pytest.raises(InvalidArgumentError, match="many"):
        host_of(["gunicorn", "--workers", "many"], {})


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("uwsgi --http :8000 --module app", (1, None, False, True)),
        ("uwsgi --master --processes 4 --harakiri 20 --enable-threads", (4, 20, True, False)),
        ("uwsgi -M -p 4 -T --lazy-apps", (4, None, True, True)),
        ("uwsgi --master -p4 --threads 2 --py-call-uwsgi-fork-hooks", (4, None, True, True)),
        ("uwsgi --master --workers=3 --harakiri=5", (3, 5, False, False)),
    ],
)
def test_uwsgi(line: str, facts: tuple[Any, ...]) -> None:
    found = host_of(shlex.split(line), {})
    assert found.name == "uwsgi"
    assert (found.workers, found.limit, found.threads, found.fork_hooks) == facts


def test_the_file_and_environment_of_uwsgi(tmp_path: Path) -> None:
    path = tmp_path / "uwsgi.ini"
    path.write_text("[uwsgi]\nmaster = true\nprocesses = 4\nharakiri = 25\nenable-threads = true\nlazy-apps = false\n")
    for line in (["uwsgi", str(path)], ["uwsgi", "--ini", str(path)], ["uwsgi", f"--ini={path}"]):
        found = host_of(line, {})
        assert (found.workers, found.limit, found.threads, found.fork_hooks) == (4, 25, True, False)
    assert host_of(["uwsgi"], {"UWSGI_PROCESSES": "2", "UWSGI_ENABLE_THREADS": "1"}).threads
    with pytest.raises(ConfigFileError):
        host_of(["uwsgi", "--ini", str(tmp_path / "none.ini")], {})


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("celery -A app worker", ("celery", None, None)),
        ("celery -A app worker -c 8 --time-limit 60 --soft-time-limit 50", ("celery", 8, 50.0)),
        ("python -m celery -A app worker --concurrency=2 --time-limit=60", ("celery", 2, 60.0)),
        ("celery -A app worker -P threads -c 8", ("celery", 1, None)),
        ("celery -A app beat", ("", None, None)),
        ("python manage.py runserver", ("", None, None)),
    ],
)
def test_celery_and_other_programs(line: str, facts: tuple[Any, ...]) -> None:
    found = host_of(shlex.split(line), {})
    assert (found.name, found.workers, found.limit) == facts
