"""Managers that have been at work on every wire, and the children of their processes."""

from __future__ import annotations

import pytest

from tests.integration.processes.host import NAMES

_SETUP = """
    manager = everything(WHERE)
    assert call_all(manager) == 1, call_all(manager)

    def child():
        threads = len(threading.enumerate())
        return {"threads": threads, "said": call_all(manager, 2, within=1.0)}
"""

GOOD = {"threads": 1, "said": 2}


def test_children_and_their_parent_call_over_all_wires_time_and_again(run):
    told = run(
        _SETUP
        + """
    for number in range(3):
        say([told_by_child(child), call_all(manager, number)])
    say(told_by_child(lambda: [call_all(manager, 4), told_by_child(child), call_all(manager, 5)]))
    manager.shutdown(5)
    """
    )
    assert told == [[GOOD, 0], [GOOD, 1], [GOOD, 2], [4, GOOD, 5]]


@pytest.mark.processes
def test_a_manager_that_has_called_nobody_yet(run):
    told = run("""
    manager = everything(WHERE)
    say([told_by_child(lambda: call_all(manager, 2)), call_all(manager, 3)])
    """)
    assert told == [[2, 3]]


@pytest.mark.processes
def test_other_threads_are_inside_calls_on_all_wires(run):
    """Theirs go on, and the child's begin at once."""
    told = run(
        _SETUP
        + """
    slow, ended = {"seconds": 0.7}, []
    def work(name):
        ended.append(call(manager, name, slow) == slow)
    threads = [threading.Thread(target=work, args=(name,)) for name in NAMES if name != "cached" for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    say(len(ended))
    say(told_by_child(child))
    for thread in threads:
        thread.join()
    say([len(ended), all(ended), call_all(manager, 3)])
    """
    )
    assert told == [0, GOOD, [2 * (len(NAMES) - 1), True, 3]]


@pytest.mark.processes
def test_a_grpc_call_that_outlasts_the_forks_patience_costs_the_child_grpc_alone(run):
    told = run(
        _SETUP
        + """
    ended = []
    thread = threading.Thread(target=lambda: ended.append(call(manager, "grpc", {"seconds": 2}, 8)))
    thread.start()
    time.sleep(0.2)
    def child():
        others = [name for name in NAMES if name != "grpc"]
        return [round(time.monotonic() - started), call_all(manager, 2, others), call(manager, "grpc")]
    started = time.monotonic()
    say(told_by_child(child))
    thread.join()
    say([ended, call_all(manager, 3)])
    """
    )
    (waited, others, refused), parent = told
    assert (waited, others) == (1, 2)
    assert refused.startswith("grpc: GRPCTransportError: this process was forked while 1 gRPC call(s)")
    assert parent == [[{"seconds": 2}], 3]


@pytest.mark.processes
def test_children_that_are_forked_within_a_call_and_on_a_worker(run):
    told = run(
        _SETUP
        + """
    from goplugins import serve

    @serve.plugin(name="forks")
    def forks(request: int) -> list:
        return [told_by_child(child, leave=os._exit)]
    manager.register(forks)
    say(manager.execute("forks", 1))
    say(manager.submit("forks", 1).result())
    say([manager.metrics().active_requests, call_all(manager, 3)])
    """
    )
    assert told == [[GOOD], [GOOD], [0, 3]]


@pytest.mark.processes
def test_a_child_forked_on_a_worker_does_not_wait_for_work(run):
    """What it raises to leave goes to a future that nobody has; a thread that has no more to do then ends it."""
    told = run("""
    from goplugins.runtime.workers import WorkerPool
    pool = WorkerPool("test", 1, 1)
    pid = pool.submit(lambda: os.fork() or sys.exit(3)).result()
    say(os.waitpid(pid, 0)[0] == pid)
    say(pool.submit(os.getpid).result() == os.getpid())
    """)
    assert told == [True, True]


@pytest.mark.processes
def test_siblings_draw_numbers_of_their_own(run):
    """Forked from one master, they would else retry in step, and call their requests by the same names."""
    told = run("""
    manager = Manager()
    manager.load_from_config({"plugins": configuration(WHERE)["plugins"][:1]})
    def draw():
        rng = manager._registry.plugins["http"]._rng
        return [rng.random(), manager.execute_result("http", 1).request_id]
    say([told_by_child(draw) for _ in range(3)])
    """)
    (drawn,) = told
    assert len({number for number, _ in drawn}) == len({name for _, name in drawn}) == 3


@pytest.mark.processes
class TestExec:
    def test_parents_processes_are_left_alone(self, run):
        told = run("""
        manager = everything(WHERE)
        pid = lambda: manager.execute("exec", 1)["pid"]
        first = pid()
        def child():
            own = pid()
            manager.shutdown(5)
            return [own, own != first, os.path.exists(f"/proc/{own}")]
        own, other, stayed = told_by_child(child)
        say([other, pid() == first])
        # The child has ended, and its process with it. Init may take its time to reap that.
        time.sleep(0.5)
        stat = f"/proc/{own}/stat"
        say(not os.path.exists(stat) or open(stat).read().rpartition(")")[2].split()[0] == "Z")
        """)
        assert told == [[True, True], True]


@pytest.mark.processes
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(run, method):
    """A module that makes its manager at import, as most do, whichever way its processes come about."""
    told = run(
        f"""
    from tests.integration.processes import module
    context = multiprocessing.get_context({method!r})
    if {method!r} == "fork":
        say(module.work(1))
    with context.Pool(1, module.prepare, (WHERE,)) as pool:
        say(pool.map(module.work, range(6)))
    process = context.Process(target=module.check, args=(WHERE,))
    process.start()
    process.join(10)
    say(process.exitcode)
    """.replace("say(module.work(1))", "module.prepare(WHERE); say(module.work(1))")
    )
    assert told == [*([1] if method == "fork" else []), list(range(6)), 9]
