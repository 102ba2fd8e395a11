"""What is known to hurt: found in a process, on a command line, and told once."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import attrs
import pytest

from goplugins import ConfigFileError, InvalidArgumentError, Manager, cli
from goplugins.config import PluginConfig
from goplugins.config.groups import spread
from goplugins.config.loading import load_resolved
from goplugins.doctor import Finding, Host, bounded_here, examine, host, host_here, warn_once, warning
from goplugins.doctor.host import leave_room, server_limit
from goplugins.doctor.server_command import host_of


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warning, "_said", {})
    monkeypatch.setattr(warning, "_bounded", False)
    monkeypatch.setattr(host, "_declared", [])
    monkeypatch.setattr(host, "_limits", {})
    for name in ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY", "GRPC_ENABLE_FORK_SUPPORT"):
        monkeypatch.delenv(name, raising=False)


def plugins(*given: dict[str, Any], **sections: Any) -> list[PluginConfig]:
    http = {"transport": "http", "endpoint": "http://127.0.0.1:9"}
    values = {"plugins": [{"name": f"p{number}", **http, **each} for number, each in enumerate(given or [{}])]}
    return list(spread(load_resolved({**values, **sections})).plugins)


GRPC = {"transport": "grpc", "endpoint": "127.0.0.1:9"}
GUNICORN = Host("gunicorn", 4, 60.0, "gunicorn's --timeout")


def kinds(configs: list[PluginConfig], of: Host, **options: Any) -> list[str]:
    return [finding.kind for finding in examine(configs, of, **options)]


# --- what it finds -------------------------------------------------------------------------------------------------


def test_where_all_is_well_it_finds_nothing() -> None:
    assert kinds(plugins(), Host()) == []
    assert kinds(plugins({}, GRPC), GUNICORN) == []


@pytest.mark.parametrize(
    ("given", "facts", "kind", "text"),
    [
        ({}, {"name": "uwsgi", "threads": False}, "uwsgi-threads", "enable-threads = true"),
        (GRPC, {"name": "uwsgi", "fork_hooks": False}, "uwsgi-fork-hooks", "py-call-uwsgi-fork-hooks = true"),
        (GRPC, {"gevent": True}, "gevent-grpc", "init_gevent()"),
        (GRPC, {"grpc_forks": False}, "grpc-fork-support", "GRPC_ENABLE_FORK_SUPPORT=1"),
        (
            {"rate_limit": {"enabled": True, "requests_per_second": 10}},
            {},
            "limit-per-worker",
            "p0 10/s is 40/s",
        ),
        (
            {"rate_limit": {"enabled": True, "requests_per_second": 10, "time_window": 60}},
            {},
            "limit-per-worker",
            "p0 10/60 s is 40/60 s",
        ),
        ({"bulkhead": {"max_concurrent": 5}}, {}, "limit-per-worker", "p0 5 at once is 20"),
        ({"connection": {"request_timeout": 90}}, {}, "timeout-above-worker", "p0 90 s"),
        ({"connection": {"request_timeout": 60}}, {}, "timeout-above-worker", "gunicorn's --timeout of 60 s"),
    ],
)
def test_each_thing_that_hurts(given: dict[str, Any], facts: dict[str, Any], kind: str, text: str) -> None:
    found = examine(plugins(given), attrs.evolve(GUNICORN, **facts))
    assert [finding.kind for finding in found] == [kind]
    assert text in str(found[0])
    assert found[0].why
    assert found[0].fix


def test_grpc_hurts_only_who_has_it() -> None:
    bad = attrs.evolve(GUNICORN, name="uwsgi", gevent=True, grpc_forks=False, fork_hooks=False)
    assert kinds(plugins(), bad) == []
    assert kinds(plugins(GRPC), attrs.evolve(bad, grpc_gevent=True, grpc_forks=True, fork_hooks=True)) == []


def test_one_worker_multiplies_nothing() -> None:
    limited = plugins({"rate_limit": {"enabled": True}})
    assert kinds(limited, attrs.evolve(GUNICORN, workers=1)) == []
    assert kinds(limited, attrs.evolve(GUNICORN, workers=None)) == []


def test_what_is_switched_off_hurts_nobody() -> None:
    assert kinds(plugins({"enabled": False, "connection": {"request_timeout": 90}}, {}), GUNICORN) == []
    assert kinds(plugins({"rate_limit": {"enabled": False}}), GUNICORN) == []


def test_a_plugin_of_several_endpoints_is_told_of_once() -> None:
    endpoints = {"endpoint": "", "endpoints": ["http://127.0.0.1:9", "http://127.0.0.1:10"]}
    given = {**endpoints, "connection": {"request_timeout": 90}, "rate_limit": {"enabled": True}}
    found = examine(plugins(given), GUNICORN)
    assert [finding.kind for finding in found] == ["limit-per-worker", "timeout-above-worker"]
    assert all(str(finding).count("p0") == 1 for finding in found)


def test_many_plugins_make_one_line() -> None:
    many = plugins(*({"connection": {"request_timeout": 90}} for _ in range(20)))
    (found,) = examine(many, GUNICORN)
    assert "and 15 more" in found.why + found.what


def test_calls_that_are_bounded_otherwise_may_have_any_timeout() -> None:
    late = plugins({"connection": {"request_timeout": 90}})
    assert kinds(late, GUNICORN, bounded=True) == []


# --- command lines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "workers", "limit"),
    [
        ("gunicorn app:app", 1, 30.0),
        ("gunicorn -w 4 app:app", 4, 30.0),
        ("gunicorn -w4 -t90 app:app", 4, 90.0),
        ("/usr/bin/gunicorn --workers=8 --timeout 120 app:app", 8, 120.0),
        ("python -m gunicorn --timeout 0 app:app", 1, None),
        ("gunicorn --threads 4 app:app", 1, None),  # threads go on telling that they are alive
        ("gunicorn -k gthread app:app", 1, None),
        ("gunicorn -k gevent app:app", 1, None),
        ("gunicorn -k sync --timeout 5 app:app", 1, 5.0),
    ],
)
def test_gunicorns(line: str, workers: int, limit: float | None) -> None:
    found = host_of(shlex.split(line), {})
    assert (found.name, found.workers, found.limit) == ("gunicorn", workers, limit)


def test_gunicorns_environment_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = host_of(["gunicorn", "app:app"], {"WEB_CONCURRENCY": "3", "GUNICORN_CMD_ARGS": "--timeout 7"})
    assert (found.workers, found.limit) == (3, 7.0)
    (tmp_path / "gunicorn.conf.py").write_text("import os\nworkers = os.cpu_count() * 2\ntimeout = 12\n")
    found = host_of(["gunicorn", "app:app"], {})
    assert (found.workers, found.limit) == (None, 12.0)
    (tmp_path / "other.py").write_text("workers = 5\nworker_class = 'gthread'\nraise SystemExit('it was run')\n")
    found = host_of(["gunicorn", "-c", "other.py", "--timeout", "9", "app:app"], {})
    assert (found.workers, found.limit) == (5, None)
    with pytest.raises(ConfigFileError):
        host_of(["gunicorn", "-c", "none.py", "app:app"], {})


def test_an_option_that_cant_be_is_told() -> None:
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
def test_uwsgis(line: str, facts: tuple[Any, ...]) -> None:
    found = host_of(shlex.split(line), {})
    assert found.name == "uwsgi"
    assert (found.workers, found.limit, found.threads, found.fork_hooks) == facts


def test_uwsgis_file_and_environment(tmp_path: Path) -> None:
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
def test_celerys_and_others(line: str, facts: tuple[Any, ...]) -> None:
    found = host_of(shlex.split(line), {})
    assert (found.name, found.workers, found.limit) == facts


# --- this process --------------------------------------------------------------------------------------------------


def uwsgi(monkeypatch: pytest.MonkeyPatch, threads: int = 0, **options: Any) -> None:
    module: Any = types.ModuleType("uwsgi")
    module.opt = {name.replace("_", "-"): value for name, value in options.items()}
    module.numproc, module.has_threads = 4, threads
    monkeypatch.setitem(sys.modules, "uwsgi", module)


def test_uwsgi_is_known_from_within(monkeypatch: pytest.MonkeyPatch) -> None:
    uwsgi(monkeypatch, harakiri=b"20", master=True)
    found = host_here()
    assert (found.name, found.workers, found.limit, found.threads, found.fork_hooks) == ("uwsgi", 4, 20, False, False)
    assert server_limit() == pytest.approx(17.1)  # it counts whole seconds, and may be one early


def test_no_host_is_no_host() -> None:
    assert host_here().name == ""
    assert server_limit() is None


def test_a_host_can_say_so_itself() -> None:
    host.declare(Host("celery", 8, 60.0, "Celery's time limit"))
    assert (host_here().name, host_here().workers) == ("celery", 8)


@pytest.mark.parametrize(("value", "on"), [("1", True), ("true", True), ("0", False), ("no", False), ("", False)])
def test_grpcs_fork_support_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch, value: str, on: bool) -> None:
    monkeypatch.delitem(sys.modules, "grpc._cython.cygrpc", raising=False)
    assert host_here().grpc_forks  # we switch it on
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", value)
    assert host_here().grpc_forks is on


def test_grpc_itself_knows_best(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("cygrpc")
    module.is_fork_support_enabled, module.g_gevent_activated = (lambda: False), True
    monkeypatch.setitem(sys.modules, "grpc._cython.cygrpc", module)
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "1")
    assert (host_here().grpc_forks, host_here().grpc_gevent) == (False, True)


def test_our_grpc_has_what_is_asked_of_it() -> None:
    from grpc._cython import cygrpc

    assert callable(cygrpc.is_fork_support_enabled)
    assert cygrpc.g_gevent_activated is False


def test_room_is_left_to_say_that_it_failed() -> None:
    assert [leave_room(limit) for limit in (1, 10, 20, 600)] == [0.9, 9, 18, 598]


# --- at run time ---------------------------------------------------------------------------------------------------


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, "goplugins.doctor")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "goplugins.doctor"]


def echo(request: str) -> str:
    return request


def test_the_first_call_says_it_once(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    uwsgi(monkeypatch)
    python = {"transport": "python", "endpoint": f"{__name__}:echo"}
    for _ in range(2):  # a second manager of the process has nothing to add
        with Manager(str, str) as manager:
            manager.load_from_config({"plugins": [{"name": name, **python} for name in ("a", "b")]})
            for name in ("a", "b", "a"):
                manager.execute(name, "hello")
            manager.health()
    assert len(warned()) == 1
    assert warned()[0].startswith("[uwsgi-threads] ")


def test_nothing_is_said_before_the_first_call(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    uwsgi(monkeypatch)
    with Manager(str, str) as manager:
        manager.load_from_config({"plugins": [{"name": "a", "transport": "python", "endpoint": f"{__name__}:echo"}]})
    assert warned() == []


def test_a_second_manager_adds_what_is_its_own(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    uwsgi(monkeypatch)
    warn_once(plugins())
    warn_once(plugins({"rate_limit": {"enabled": True}}))
    warn_once(plugins({"rate_limit": {"enabled": True}}))
    assert [text.partition("]")[0] for text in warned()] == ["[uwsgi-threads", "[limit-per-worker"]


def test_middleware_makes_timeouts_harmless(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    uwsgi(monkeypatch, threads=1, harakiri=b"20")
    bounded_here()
    warn_once(plugins())
    assert warned() == []


def test_a_child_has_a_look_of_its_own(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    uwsgi(monkeypatch)
    warn_once(plugins())
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    warn_once(plugins())
    assert len(warned()) == 2


def test_a_look_that_fails_fails_no_call(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(warning, "host_here", lambda: 1 / 0)
    warn_once(plugins())
    assert "could not look" in caplog.text


# --- the command ---------------------------------------------------------------------------------------------------


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = cli.main(["doctor", *words])
    return code, capsys.readouterr().out


def test_the_command_says_what_why_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plugins.json"
    path.write_text('{"plugins": [{"name": "p", "transport": "http", "endpoint": "http://127.0.0.1:9"}]}')
    config = ("--config", str(path))
    code, text = doctor(capsys, *config, "--", "gunicorn", "--workers", "4", "--timeout", "30", "app:app")
    assert code == 1
    assert "[timeout-above-worker]" in text
    assert "  why: " in text
    assert "  fix: " in text
    assert "1 found under gunicorn" in text
    assert doctor(capsys, *config, "--", "gunicorn", "--timeout", "60", "app:app")[0] == 0
    assert doctor(capsys, *config, "--workers", "4", "--worker-timeout", "10")[0] == 1
    assert cli.main(["doctor", "--config", str(tmp_path / "none.json")]) == 2
    assert cli.main(["doctor", "--", "gunicorn", "--workers", "many"]) == 2


def test_it_says_what_it_could_not_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = doctor(capsys)
    assert code == 0
    assert "--config FILE" in text
    assert "-- COMMAND" in text


def test_a_finding_reads_as_one_line() -> None:
    assert "\n" not in str(Finding("kind", "what", "why", "fix"))
