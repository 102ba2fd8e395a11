"""Managers that have made calls over every transport, and the children of their processes."""

from __future__ import annotations

import pytest

from tests.integration.processes.host import NAMES

_SETUP = """
    manager = everything(WHERE)
    assert call_all(manager) == 1, call_all(manager)

    def child():
        threads = len(threading.enumerate())
        return {"threads": threads, "received": call_all(manager, 2, within=1.0)}
"""

GOOD = {"threads": 1, "received": 2}


def test_children_and_their_parent_call_over_all_transports_repeatedly(run):
    reports = run(
        _SETUP
        + """
    for number in range(3):
        report([in_child(child), call_all(manager, number)])
    report(in_child(lambda: [call_all(manager, 4), in_child(child), call_all(manager, 5)]))
    manager.shutdown(5)
    """
    )
    assert reports == [[GOOD, 0], [GOOD, 1], [GOOD, 2], [4, GOOD, 5]]


@pytest.mark.processes
def test_a_manager_that_has_made_no_call(run):
    reports = run("""
    manager = everything(WHERE)
    report([in_child(lambda: call_all(manager, 2)), call_all(manager, 3)])
    """)
    assert reports == [[2, 3]]


@pytest.mark.processes
def test_other_threads_are_inside_calls_over_all_transports(run):
    """The threads' calls go on in the parent, and the child's calls begin without waiting for them."""
    reports = run(
        _SETUP
        + """
    slow, ended = {"seconds": 1.0}, []
    def work(name):
        ended.append(call(manager, name, slow) == slow)
    threads = [threading.Thread(target=work, args=(name,)) for name in NAMES if name != "cached" for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: manager.metrics().active_requests >= len(threads))
    time.sleep(0.2)  # for the last of them to be sent
    report(len(ended))
    report(in_child(child))
    for thread in threads:
        thread.join()
    report([len(ended), all(ended), call_all(manager, 3)])
    """
    )
    assert reports == [0, GOOD, [2 * (len(NAMES) - 1), True, 3]]


@pytest.mark.processes
def test_a_grpc_call_longer_than_a_fork_waits_costs_the_child_only_grpc(run):
    reports = run(
        _SETUP
        + """
    from goplugins.transports.grpc.fork_support import FORK_GUARD
    ended = []
    thread = threading.Thread(target=lambda: ended.append(call(manager, "grpc", {"seconds": 2}, 8)))
    thread.start()
    until(lambda: FORK_GUARD.calls)
    def child():
        others = [name for name in NAMES if name != "grpc"]
        return [round(time.monotonic() - started), call_all(manager, 2, others), call(manager, "grpc")]
    started = time.monotonic()
    report(in_child(child))
    thread.join()
    report([ended, call_all(manager, 3)])
    """
    )
    (waited, others, refused), parent = reports
    assert (waited, others) == (1, 2)
    assert refused.startswith("grpc: GRPCTransportError: this process was forked while 1 gRPC call(s)")
    assert parent == [[{"seconds": 2}], 3]


@pytest.mark.processes
def test_forks_within_a_call_and_on_a_worker(run):
    reports = run(
        _SETUP
        + """
    from goplugins import serve

    @serve.plugin(name="forks")
    def forks(request: int) -> list:
        return [in_child(child, leave=os._exit)]
    manager.register(forks)
    report(manager.execute("forks", 1))
    report(manager.submit("forks", 1).result())
    report([manager.metrics().active_requests, call_all(manager, 3)])
    """
    )
    assert reports == [[GOOD], [GOOD], [0, 3]]


@pytest.mark.processes
def test_a_child_forked_on_a_worker_does_not_wait_for_work(run):
    """Its SystemExit goes to a future that no code holds; the child ends when the thread has no more work."""
    reports = run("""
    from goplugins.runtime.workers import WorkerPool
    pool = WorkerPool("test", 1, 1)
    pid = pool.submit(lambda: os.fork() or sys.exit(3)).result()
    report(os.waitpid(pid, 0)[0] == pid)
    report(pool.submit(os.getpid).result() == os.getpid())
    """)
    assert reports == [True, True]


@pytest.mark.processes
def test_siblings_draw_different_random_numbers(run):
    """Else children of one process would retry at the same moments, and use the same request ids."""
    reports = run("""
    manager = Manager()
    manager.load_from_config({"plugins": configuration(WHERE)["plugins"][:1]})
    def draw():
        pipeline = manager._registry.plugins["http"].pipeline
        return [pipeline.retry.delay(1), manager.execute_result("http", 1).request_id]
    report([in_child(draw) for _ in range(3)])
    """)
    (drawn,) = reports
    assert len({delay for delay, _ in drawn}) == len({request_id for _, request_id in drawn}) == 3


@pytest.mark.processes
class TestExec:
    def test_processes_of_the_parent_go_on(self, run):
        reports = run("""
        manager = everything(WHERE)
        pid = lambda: manager.execute("exec", 1)["pid"]
        first = pid()
        def child():
            own = pid()
            manager.shutdown(5)
            return [own, own != first, os.path.exists(f"/proc/{own}")]
        own, other, stayed = in_child(child)
        report([other, pid() == first])
        # The child has ended, and so must its process, which init reaps some time later.
        def has_ended():
            try:
                return open(f"/proc/{own}/stat").read().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                return True
        until(has_ended)
        """)
        assert reports == [[True, True]]


@pytest.mark.processes
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(run, method):
    """A module that makes its manager at import, as most do, for each way to start processes."""
    reports = run(
        f"""
    from tests.integration.processes import module
    context = multiprocessing.get_context({method!r})
    if {method!r} == "fork":
        report(module.work(1))
    with context.Pool(1, module.prepare, (WHERE,)) as pool:
        report(pool.map(module.work, range(6)))
    process = context.Process(target=module.check, args=(WHERE,))
    process.start()
    process.join(10)
    report(process.exitcode)
    """.replace("report(module.work(1))", "module.prepare(WHERE); report(module.work(1))")
    )
    assert reports == [*([1] if method == "fork" else []), list(range(6)), 9]
