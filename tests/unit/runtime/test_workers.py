"""Bounded pools: started by need, refused beyond the bound, never in the way of an exit."""

import contextvars
import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest

from goplugins.errors import PluginClosedError, SaturatedError
from goplugins.runtime import workers
from goplugins.runtime.workers import WorkerPool
from tests.interrupts import interrupted_at
from tests.processes import in_child, run


def wait_until(condition, seconds=5.0):
    event = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if condition():
            return True
        event.wait(0.005)
    return False


def alive(name):
    return sum(thread.name.startswith(name) for thread in threading.enumerate())


def test_no_thread_before_the_first_task_and_none_after_shutdown():
    pool = WorkerPool("counted", 4, 4)
    assert alive("counted") == 0
    assert pool.submit(lambda: 1).result(5) == 1
    assert pool.threads == 1
    pool.shutdown()
    assert alive("counted") == 0


def test_an_idle_worker_is_used_again():
    with WorkerPool("t", 4, 4) as pool:
        for _ in range(20):
            pool.submit(int).result(5)
            assert wait_until(lambda: pool._state.idle == 1)
        assert pool.threads == 1


def test_saturation_is_a_typed_refusal():
    gate = threading.Event()
    with WorkerPool("t", 2, 3) as pool:
        futures = [pool.submit(gate.wait, 5) for _ in range(5)]
        with pytest.raises(SaturatedError, match="all 2 workers are busy and 3 tasks wait already"):
            pool.submit(gate.wait)
        assert pool.threads == 2
        gate.set()
        assert all(future.result(5) for future in futures)


def test_a_nested_submit_without_an_idle_worker_runs_inline():
    with WorkerPool("t", 1, 10) as pool:

        def outer(depth):
            return depth if depth == 5 else pool.submit(outer, depth + 1).result(1)

        assert pool.submit(outer, 0).result(5) == 5


def test_a_pool_without_inline_never_runs_a_task_on_the_callers_thread():
    with WorkerPool("t", 1, 10, inline=False) as pool:

        def outer():
            return pool.submit(threading.get_ident), threading.get_ident()

        inner, _ = pool.submit(outer).result(5)
        assert isinstance(inner.result(5), int)
        assert not pool.submit(lambda: pool.submit(int).done()).result(5)


def test_context_variables_are_copied():
    variable = contextvars.ContextVar("variable", default="unset")
    with WorkerPool("t", 1, 10) as pool:
        variable.set("set")
        assert pool.submit(variable.get).result(5) == "set"


def test_an_exception_is_set_on_the_future_and_the_worker_continues():
    with WorkerPool("t", 1, 10) as pool:
        assert isinstance(pool.submit(lambda: 1 / 0).exception(5), ZeroDivisionError)
        assert isinstance(pool.submit(sys.exit).exception(5), SystemExit)
        assert pool.submit(lambda: 1).result(5) == 1


def test_a_cancelled_task_does_not_run():
    gate = threading.Event()
    ran = []
    with WorkerPool("t", 1, 10) as pool:
        pool.submit(gate.wait, 5)
        future = pool.submit(ran.append, 1)
        assert future.cancel()
        gate.set()
    assert ran == []


def test_shutdown_finishes_queued_tasks_unless_it_cancels_them():
    gate = threading.Event()
    pool = WorkerPool("t", 1, 10)
    pool.submit(gate.wait, 5)
    queued = pool.submit(lambda: 7)
    pool.shutdown(wait=False)
    with pytest.raises(PluginClosedError):
        pool.submit(int)
    gate.set()
    assert queued.result(5) == 7

    gate = threading.Event()
    pool = WorkerPool("t", 1, 10)
    pool.submit(gate.wait, 5)
    queued = pool.submit(lambda: 7)
    pool.shutdown(wait=False, cancel_futures=True)
    assert queued.cancelled()
    gate.set()


def test_the_threads_of_a_collected_pool_end():
    pool = WorkerPool("forgotten", 2, 2)
    pool.submit(int).result(5)
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    assert wait_until(lambda: alive("forgotten") == 0)


def test_idle_threads_end(monkeypatch):
    monkeypatch.setattr(workers, "IDLE_SECONDS", 0.02)
    with WorkerPool("t", 2, 2) as pool:
        pool.submit(int).result(5)
        assert wait_until(lambda: pool.threads == 0)
        assert pool.submit(lambda: 3).result(5) == 3


def test_no_task_of_many_threads_is_lost():
    with WorkerPool("t", 4, 100_000) as pool:
        results = []

        def work():
            results.extend([pool.submit(int, n) for n in range(500)])

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(future.result(10) for future in results) == 8 * sum(range(500))
        assert pool.threads <= 4


@pytest.mark.parametrize("hung", [2, 7, 14])
def test_tasks_that_hang_delay_no_other(hung):
    gate, pool = threading.Event(), WorkerPool("patient", 2, 64, inline=False, patience=0.05)
    stuck = [pool.submit(gate.wait, 30) for _ in range(hung)]
    assert pool.submit(int).result(10) == 0, "it was queued behind them"
    assert pool.submit(int).result(10) == 0
    gate.set()
    assert all(future.result(10) for future in stuck)
    assert wait_until(lambda: pool.threads <= 2), "the further threads end"
    pool.shutdown()


def test_the_threads_of_tasks_that_hang_are_bounded():
    gate, pool = threading.Event(), WorkerPool("bounded", 1, 64, inline=False, patience=0.01)
    stuck = [pool.submit(gate.wait, 30) for _ in range(20)]
    assert wait_until(lambda: pool.threads == 8)
    gate.wait(0.2)
    assert pool.threads == 8
    gate.set()
    assert all(future.result(10) for future in stuck)
    pool.shutdown()


def test_no_thread_for_a_task_while_all_others_hang(monkeypatch):
    gate, pool = threading.Event(), WorkerPool("refused", 1, 64, inline=False, patience=0.01)
    stuck = pool.submit(gate.wait, 30)
    assert wait_until(lambda: not pool._state.working)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert isinstance(pool.submit(int).exception(5), SaturatedError)
    assert pool.submit(int).result(10) == 0
    gate.set()
    assert stuck.result(10)
    pool.shutdown()


def test_no_thread_can_be_started(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    pool = WorkerPool("t", 2, 2)
    assert isinstance(pool.submit(int).exception(1), SaturatedError)
    assert pool.threads == 0


def test_an_interrupted_submit_costs_no_worker():
    number = 0
    while True:
        pool = WorkerPool("struck", 1, 4)
        happened = interrupted_at(number, lambda pool=pool: pool.submit(lambda: 1), ("workers.py", "threading.py"))
        assert pool.submit(lambda: 2).result(5) == 2, number
        assert pool.threads <= 1
        pool.shutdown()
        if not happened:
            break
        number += 1
    assert number > 20


def fork_beside_workers():
    pool = WorkerPool("t", 2, 2)

    def runs_here():
        return pool.submit(os.getpid).result(5) == os.getpid()

    found = runs_here(), in_child(runs_here)
    pool.shutdown()
    return found


def test_a_child_process_has_fresh_threads():
    assert run(fork_beside_workers) == [True, True]


def test_a_hung_task_does_not_hold_the_interpreter():
    script = (
        "from goplugins.runtime.workers import WorkerPool; import time; "
        "p = WorkerPool('t', 1, 1); p.submit(time.sleep, 60); print('last line')"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=10, capture_output=True, text=True, check=True)
    assert done.stdout == "last line\n"
    assert done.stderr == ""
