"""Whether a process is a server's master, as uWSGI and gunicorn show it, and what does not start there."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest

from goplugins.runtime import server_master
from goplugins.runtime.scheduler import Scheduler
from goplugins.runtime.server_master import in_master
from goplugins.runtime.workers import WorkerPool
from tests.timing import until


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_master, "_serving", {})


Server = Callable[..., Any]


@pytest.fixture
def uwsgi(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Puts uWSGI's module in place."""

    def install(worker: int, master: int, processes: int) -> Any:
        module: Any = types.ModuleType("uwsgi")
        module.worker_id, module.numproc = lambda: worker, processes
        module.masterpid = lambda: os.getpid() if master == HERE else master
        monkeypatch.setitem(sys.modules, "uwsgi", module)
        return module

    return install


HERE, OTHER = -1, 1
"""Process ids: HERE stands for this one's."""


@pytest.mark.parametrize(
    ("what", "worker", "master", "processes", "expected"),
    [
        ("the master loads the application", 0, HERE, 2, True),
        ("a worker", 1, OTHER, 2, False),
        ("with lazy-apps, a worker loads the application", 2, OTHER, 2, False),
        ("a mule", 0, OTHER, 2, False),
        ("without a master, before the workers are forked", 0, 0, 2, True),
        ("without a master, the first worker", 1, 0, 2, False),
        ("the only process, before it serves", 0, 0, 1, False),
    ],
)
def test_uwsgi(uwsgi: Server, what: str, worker: int, master: int, processes: int, expected: bool) -> None:
    uwsgi(worker, master, processes)
    assert in_master() is expected, what


def test_the_first_worker_of_uwsgi_without_a_master_ends_to_be_one(uwsgi: Server) -> None:
    module = uwsgi(0, 0, 2)
    assert in_master()
    module.worker_id = lambda: 1
    assert not in_master()


_ARBITER = """
class Arbiter:
    def __init__(self, load):  # with --preload
        self.found = load()
    def spawn_worker(self, load):
        self.found = load()
"""


@pytest.fixture
def arbiter(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("gunicorn.arbiter")
    exec(_ARBITER, module.__dict__)
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", module)
    return module.Arbiter


def test_gunicorn_that_loads_the_application_before_it_forks(arbiter: Any) -> None:
    assert arbiter(in_master).found is True


def test_a_worker_of_gunicorn(arbiter: Any) -> None:
    master = arbiter(in_master)
    master.spawn_worker(in_master)
    assert master.found is False
    assert not in_master(), "a process that imports gunicorn"


def test_no_other_process_is_one() -> None:
    assert not in_master()


class Owner:
    def __init__(self) -> None:
        self.ran = threading.Event()

    def work(self) -> None:
        self.ran.set()


def test_the_scheduler_has_no_thread_in_a_master_and_starts_in_a_worker(uwsgi: Server) -> None:
    module = uwsgi(0, HERE, 2)
    scheduler, owner = Scheduler(idle=0.1), Owner()
    pool = WorkerPool("test-master", 1, 1)
    before = threading.active_count()
    task = scheduler.schedule(owner.work, None, first=0.0, submit=pool.submit)
    assert scheduler.needs_thread
    assert threading.active_count() == before
    module.worker_id = lambda: 1  # as after the fork
    scheduler.ensure_thread()
    assert owner.ran.wait(10)
    assert not task.active
    pool.shutdown()


def test_an_idle_worker_thread_ends_at_once_in_a_master(uwsgi: Server) -> None:
    uwsgi(0, HERE, 2)
    with WorkerPool("test-master", 2, 2) as pool:
        assert pool.submit(pow, 2, 3).result(10) == 8
        until(lambda: not pool.threads, 5)
