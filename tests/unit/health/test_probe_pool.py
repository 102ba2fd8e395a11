"""ProbePool: number of threads, workers of suspects, contexts, errors in jobs, forks."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator

import pytest

from goplugins.errors import InvalidArgumentError, PluginClosedError, SaturatedError
from goplugins.health.probe_pool import ProbePool, shared_probe_pool
from tests.unit.health.fakes import eventually, threads

TAG: contextvars.ContextVar[str] = contextvars.ContextVar("tag", default="")


class Jobs:
    """Jobs that run until they are released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.running = 0
        self.max_running = 0
        self.ended = 0
        self._lock = threading.Lock()

    def job(self) -> None:
        with self._lock:
            self.running += 1
            self.max_running = max(self.max_running, self.running)
        self.release.wait(30.0)
        with self._lock:
            self.running -= 1
            self.ended += 1


@pytest.fixture
def pool() -> Iterator[ProbePool]:
    pool = ProbePool(8)
    yield pool
    pool.close()


def submit(pool: ProbePool, jobs: Jobs, count: int, *, suspect: bool) -> None:
    for _ in range(count):
        pool.submit(jobs.job, suspect=suspect)


def quick(pool: ProbePool, *, suspect: bool = False) -> threading.Event:
    done = threading.Event()
    pool.submit(done.set, suspect=suspect)
    return done


@pytest.mark.parametrize(("suspect", "workers"), [(False, 8), (True, 8)])
def test_jobs_run_on_at_most_so_many_threads(monkeypatch: pytest.MonkeyPatch, suspect: bool, workers: int) -> None:
    monkeypatch.setattr("goplugins.health.probe_pool._PATIENCE", 60.0)
    jobs, pool = Jobs(), ProbePool(8)
    submit(pool, jobs, 40, suspect=suspect)
    assert eventually(lambda: jobs.running == workers)
    jobs.release.set()
    assert eventually(lambda: jobs.ended == 40)
    assert jobs.max_running == workers
    pool.close()


@pytest.mark.parametrize("suspect", [False, True])
def test_one_kind_of_job_does_not_delay_the_other(pool: ProbePool, suspect: bool) -> None:
    jobs = Jobs()
    submit(pool, jobs, 40, suspect=suspect)
    assert eventually(lambda: jobs.running >= 4)
    for _ in range(50):
        assert quick(pool, suspect=not suspect).wait(5.0)
    jobs.release.set()
    assert eventually(lambda: jobs.ended == 40)


@pytest.mark.parametrize("suspect", [False, True])
def test_up_to_seven_hanging_checks_delay_no_other(pool: ProbePool, suspect: bool) -> None:
    jobs = Jobs()
    submit(pool, jobs, 7, suspect=suspect)
    assert eventually(lambda: jobs.running == 7)
    for _ in range(50):
        assert quick(pool, suspect=suspect).wait(5.0)
    jobs.release.set()


def test_no_hanging_check_delays_a_report(pool: ProbePool) -> None:
    jobs = Jobs()
    submit(pool, jobs, 20, suspect=False)
    submit(pool, jobs, 20, suspect=True)
    assert eventually(lambda: jobs.running >= 16)
    done = threading.Event()
    pool.submit_report(done.set)
    assert done.wait(5.0)
    jobs.release.set()


def test_one_worker_of_each_kind() -> None:
    pool = ProbePool(1)
    assert quick(pool).wait(5.0)
    assert quick(pool, suspect=True).wait(5.0)
    pool.close()


@pytest.mark.parametrize("suspect", [False, True])
def test_a_job_that_raises_is_logged_and_ends_no_worker(
    pool: ProbePool, caplog: pytest.LogCaptureFixture, suspect: bool
) -> None:
    def bad() -> None:
        raise ValueError("bad job")

    def leave() -> None:
        raise SystemExit

    for _ in range(20):
        pool.submit(bad, suspect=suspect)
        pool.submit(leave, suspect=suspect)
    assert quick(pool, suspect=suspect).wait(5.0)
    assert "bad job" in caplog.text


def test_a_check_does_not_inherit_the_context_of_the_request_that_started_it(pool: ProbePool) -> None:
    seen: list[str] = []
    done = threading.Event()

    def job() -> None:
        seen.append(TAG.get())
        done.set()

    token = TAG.set("a request")
    pool.submit(job)
    TAG.reset(token)
    assert done.wait(5.0)
    assert seen == [""]


def test_a_closed_pool_refuses_jobs_and_ends_its_threads() -> None:
    before = set(threads("goplugins-probe"))
    pool = ProbePool(2)
    jobs = Jobs()
    submit(pool, jobs, 10, suspect=False)
    assert eventually(lambda: jobs.running == 2)
    pool.close()
    pool.close()
    for suspect in (False, True):
        with pytest.raises(PluginClosedError):
            pool.submit(jobs.job, suspect=suspect)
    jobs.release.set()
    assert eventually(lambda: set(threads("goplugins-probe")) <= before)
    assert jobs.ended == 2


def test_no_thread_left_is_refused_and_the_next_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool, dropped = ProbePool(2), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert isinstance(pool.submit(dropped.set).exception(5.0), SaturatedError)
    assert quick(pool).wait(5.0)
    assert not dropped.is_set()
    pool.close()


def test_a_pool_without_workers_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="max_workers"):
        ProbePool(0)


def test_checkers_without_a_monitor_share_one_pool() -> None:
    assert shared_probe_pool() is shared_probe_pool()


@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize("hung", [8, 20])
def test_checks_that_hang_for_ever_delay_no_other_for_long(pool: ProbePool, hung: int, suspect: bool) -> None:
    jobs = Jobs()
    submit(pool, jobs, hung, suspect=suspect)
    try:
        assert quick(pool, suspect=suspect).wait(15.0)
    finally:
        jobs.release.set()
    assert eventually(lambda: jobs.ended == hung)
