"""The workers that look: few, and never all of them held by plugins that are known to be down."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator

import pytest

from goplugins.errors import InvalidArgumentError, PluginClosedError
from goplugins.health.probe_pool import Probes, shared_probes
from goplugins.runtime.deadline import _enclosing, deadline
from tests.unit.health.fakes import eventually


class Jobs:
    """Jobs that last until they are let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = 0
        self.most = 0
        self.ended = 0
        self._lock = threading.Lock()

    def job(self) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(30.0)
        with self._lock:
            self.running -= 1
            self.ended += 1


@pytest.fixture
def probes() -> Iterator[Probes]:
    probes = Probes(8)
    yield probes
    probes.close()


def put(probes: Probes, jobs: Jobs, count: int, *, suspect: bool) -> None:
    for _ in range(count):
        probes.put(jobs.job, suspect=suspect)


def quick(probes: Probes, *, suspect: bool = False) -> threading.Event:
    done = threading.Event()
    probes.put(done.set, suspect=suspect)
    return done


def test_at_most_so_many_at_a_time(probes: Probes) -> None:
    jobs = Jobs()
    put(probes, jobs, 40, suspect=False)
    assert eventually(lambda: jobs.running == 8)
    jobs.go.set()
    assert eventually(lambda: jobs.ended == 40)
    assert jobs.most == 8


def test_suspects_use_at_most_half_of_the_workers(probes: Probes) -> None:
    jobs = Jobs()
    put(probes, jobs, 40, suspect=True)
    assert eventually(lambda: jobs.running == 4)
    for _ in range(50):
        assert quick(probes).wait(5.0)
    assert jobs.running == 4
    jobs.go.set()
    assert eventually(lambda: jobs.ended == 40)
    assert jobs.most == 4


def test_a_suspect_that_waits_holds_no_worker(probes: Probes) -> None:
    suspects, others = Jobs(), Jobs()
    put(probes, suspects, 20, suspect=True)
    assert eventually(lambda: suspects.running == 4)
    put(probes, others, 4, suspect=False)
    assert eventually(lambda: others.running == 4)
    suspects.go.set()
    others.go.set()
    assert eventually(lambda: suspects.ended == 20)


def test_up_to_seven_that_hang_delay_nobody(probes: Probes) -> None:
    jobs = Jobs()
    put(probes, jobs, 7, suspect=False)
    assert eventually(lambda: jobs.running == 7)
    for _ in range(50):
        assert quick(probes).wait(5.0)
    jobs.go.set()


def test_suspects_are_served_though_others_hang(probes: Probes) -> None:
    jobs = Jobs()
    put(probes, jobs, 7, suspect=False)
    assert eventually(lambda: jobs.running == 7)
    assert quick(probes, suspect=True).wait(5.0)
    jobs.go.set()


def test_suspects_get_their_turn_after_a_rush_of_others(probes: Probes) -> None:
    suspects, others = Jobs(), Jobs()
    put(probes, suspects, 6, suspect=True)
    put(probes, others, 100, suspect=False)
    assert eventually(lambda: suspects.running == 4 and others.running == 4)
    suspects.go.set()
    others.go.set()
    assert eventually(lambda: suspects.ended == 6 and others.ended == 100)
    assert suspects.most <= 4
    assert eventually(lambda: probes._line.workers == 0)
    assert probes._line.suspects_served == 0


def test_one_worker_serves_both_kinds() -> None:
    probes = Probes(1)
    assert quick(probes).wait(5.0)
    assert quick(probes, suspect=True).wait(5.0)
    probes.close()


def test_notices_run_while_every_worker_hangs(probes: Probes) -> None:
    jobs = Jobs()
    put(probes, jobs, 8, suspect=False)
    assert eventually(lambda: jobs.running == 8)
    done = threading.Event()
    probes.put_notice(done.set)
    assert done.wait(5.0)
    jobs.go.set()


@pytest.mark.parametrize("suspect", [False, True])
def test_a_job_that_raises_ends_no_worker(probes: Probes, caplog: pytest.LogCaptureFixture, suspect: bool) -> None:
    def bad() -> None:
        raise ValueError("bad job")

    for _ in range(20):
        probes.put(bad, suspect=suspect)
    assert quick(probes, suspect=suspect).wait(5.0)
    assert eventually(lambda: probes._line.workers == 0)
    assert probes._line.suspects_served == 0
    assert "bad job" in caplog.text


def test_a_job_that_ends_its_thread_gives_its_places_back(probes: Probes) -> None:
    def leave() -> None:
        raise SystemExit

    for _ in range(20):
        probes.put(leave, suspect=True)
        assert eventually(lambda: probes._line.workers == 0)
    assert quick(probes, suspect=True).wait(5.0)
    assert eventually(lambda: probes._line.suspects_served == 0)


def test_looks_know_nothing_of_the_request_that_started_their_worker(probes: Probes) -> None:
    seen: list[float | None] = []
    done = threading.Event()

    def job() -> None:
        seen.append(_enclosing.get())
        done.set()

    with deadline(0.001):
        assert contextvars.copy_context()[_enclosing] is not None
        probes.put(job)
    assert done.wait(5.0)
    assert seen == [None]


def test_closed_takes_nothing_and_its_threads_leave() -> None:
    probes = Probes(2)
    jobs = Jobs()
    put(probes, jobs, 10, suspect=False)
    assert eventually(lambda: jobs.running == 2)
    probes.close()
    probes.close()
    with pytest.raises(PluginClosedError):
        probes.put(jobs.job)
    with pytest.raises(PluginClosedError):
        probes.put_notice(jobs.job)
    jobs.go.set()
    assert eventually(lambda: probes._pool.threads == 0)
    assert jobs.ended == 2


def test_no_thread_left_keeps_the_job_for_the_next_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    probes, done = Probes(2), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        probes.put(done.set)
    assert probes._line.workers == 0
    assert quick(probes).wait(5.0)
    assert done.wait(5.0)
    probes.close()


def test_a_pool_that_refuses_gets_the_job_back(probes: Probes) -> None:
    probes._pool.shutdown()
    job: Callable[[], object] = threading.Event().set
    with pytest.raises(PluginClosedError):
        probes.put(job)
    assert not probes._line.others
    assert probes._line.workers == 0


def test_no_workers_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="max_workers"):
        Probes(0)


def test_a_child_has_an_empty_line_and_ignores_what_the_parent_ran(probes: Probes) -> None:
    jobs = Jobs()
    put(probes, jobs, 20, suspect=True)
    assert eventually(lambda: jobs.running == 4)
    probes._line.lock.acquire()
    parent = probes._line
    probes.after_fork_in_child()
    probes._pool.after_fork_in_child()
    assert quick(probes, suspect=True).wait(5.0)
    parent.lock.release()
    jobs.go.set()
    assert eventually(lambda: jobs.ended == 20)
    assert probes._line.suspects_served == 0


def test_checkers_without_a_monitor_share_their_workers() -> None:
    assert shared_probes() is shared_probes()
