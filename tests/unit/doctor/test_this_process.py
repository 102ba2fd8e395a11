"""The server of this process, and the warnings that the first call logs."""

from __future__ import annotations

import logging
import os
import sys
import types
from typing import Any

import pytest

from goplugins import Manager
from goplugins.doctor import Host, bounded_here, host_here, this_process, warn_once
from goplugins.doctor.this_process import call_limit, server_limit

from .conftest import plugins


def uwsgi(monkeypatch: pytest.MonkeyPatch, threads: int = 0, **options: Any) -> None:
    module: Any = types.ModuleType("uwsgi")
    module.opt = {name.replace("_", "-"): value for name, value in options.items()}
    module.numproc, module.has_threads = 4, threads
    monkeypatch.setitem(sys.modules, "uwsgi", module)


def test_uwsgi_is_detected_within_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    uwsgi(monkeypatch, harakiri=b"20", master=True)
    found = host_here()
    assert (found.name, found.workers, found.limit, found.threads, found.fork_hooks) == ("uwsgi", 4, 20, False, False)
    assert server_limit() == pytest.approx(17.1)  # uWSGI counts whole seconds, and may be one early


def test_without_a_server_there_is_no_limit() -> None:
    assert host_here().name == ""
    assert server_limit() is None


def test_a_declared_server() -> None:
    this_process.declare(Host("celery", 8, 60.0, "Celery's time limit"))
    assert (host_here().name, host_here().workers) == ("celery", 8)


@pytest.mark.parametrize(("value", "on"), [("1", True), ("true", True), ("0", False), ("no", False), ("", False)])
def test_grpcs_fork_support_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch, value: str, on: bool) -> None:
    monkeypatch.delitem(sys.modules, "grpc._cython.cygrpc", raising=False)
    assert host_here().grpc_forks  # goplugins switches it on
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", value)
    assert host_here().grpc_forks is on


def test_fork_support_of_a_loaded_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("cygrpc")
    module.is_fork_support_enabled, module.g_gevent_activated = (lambda: False), True
    monkeypatch.setitem(sys.modules, "grpc._cython.cygrpc", module)
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "1")
    assert (host_here().grpc_forks, host_here().grpc_gevent) == (False, True)


def test_the_installed_grpc_has_the_attributes_that_are_read() -> None:
    from grpc._cython import cygrpc

    assert callable(cygrpc.is_fork_support_enabled)
    assert cygrpc.g_gevent_activated is False


def test_a_limit_leaves_time_for_an_error_response() -> None:
    assert [call_limit(limit) for limit in (1, 10, 20, 600)] == [0.9, 9, 18, 598]


# --- warnings ------------------------------------------------------------------------------------------------------


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, "goplugins.doctor")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "goplugins.doctor"]


def echo(request: str) -> str:
    return request


def test_the_first_call_in_a_process_logs_each_finding_once(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    uwsgi(monkeypatch)
    python = {"transport": "python", "endpoint": f"{__name__}:echo"}
    for _ in range(2):  # a second manager of the process has the same findings
        with Manager(str, str) as manager:
            manager.load_from_config({"plugins": [{"name": name, **python} for name in ("a", "b")]})
            for name in ("a", "b", "a"):
                manager.execute(name, "hello")
            manager.health()
    assert len(warned()) == 1
    assert warned()[0].startswith("[uwsgi-threads] ")


def test_findings_are_logged_when_a_configuration_is_loaded(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    """Before a call at import can do harm in a server's master."""
    uwsgi(monkeypatch)
    with Manager(str, str) as manager:
        assert warned() == []
        manager.load_from_config({"plugins": [{"name": "a", "transport": "python", "endpoint": f"{__name__}:echo"}]})
        assert len(warned()) == 1


def test_a_second_manager_adds_findings_of_other_kinds(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    uwsgi(monkeypatch)
    warn_once(plugins())
    warn_once(plugins({"rate_limit": {"enabled": True}}))
    warn_once(plugins({"rate_limit": {"enabled": True}}))
    assert [text.partition("]")[0] for text in warned()] == ["[uwsgi-threads", "[limit-per-worker"]


def test_no_finding_about_timeouts_once_calls_are_bounded(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    uwsgi(monkeypatch, threads=1, harakiri=b"20")
    bounded_here()
    warn_once(plugins())
    assert warned() == []


def test_a_child_process_logs_its_own_findings(monkeypatch: pytest.MonkeyPatch, warned: Any) -> None:
    uwsgi(monkeypatch)
    warn_once(plugins())
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    warn_once(plugins())
    assert len(warned()) == 2


def test_a_check_that_fails_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(this_process, "host_here", lambda: 1 / 0)
    warn_once(plugins())
    assert "checks of goplugins doctor failed" in caplog.text
