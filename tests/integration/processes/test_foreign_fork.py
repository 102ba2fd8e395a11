"""Forks by C code that does not run Python's fork hooks, such as uWSGI's without ``py-call-uwsgi-fork-hooks``.

Nothing renews the interpreter's own locks in such a child, and it may hang before any Python code of it runs if another
thread of the parent requested the interpreter's lock at the moment of the fork. gRPC has such threads, so it is not in
use here, but for the tests that are about it, and each child gets up to three tries.
"""

from __future__ import annotations

import pytest

_SETUP = """
    c_fork = ctypes.PyDLL(None).fork  # the C library's: runs no hook

    def fork(function, leave=sys.exit):
        return in_child_of_c_fork(function, c_fork, leave)

    manager = everything(WHERE, interval=60)
    others = [name for name in NAMES if name != "grpc"]
    assert call_all(manager, 1, others) == 1

    def child(entrance=lambda: None):
        return [entrance(), call_all(manager, 2, others, within=1.0)]
"""
_WITHOUT_WIPEONFORK = """
import sys
platform, sys.platform = sys.platform, "elsewhere"
import goplugins.runtime.fork
sys.platform = platform
assert type(goplugins.runtime.fork.FORK_MARK).__name__ == "_MarkByPid"
"""


@pytest.mark.parametrize(
    "before", ["", pytest.param(_WITHOUT_WIPEONFORK, marks=pytest.mark.processes)], ids=["page", "pid"]
)
def test_children_detect_the_fork_at_their_first_call(run, before):
    reports = run(
        _SETUP
        + """
    report([fork(child) for _ in range(2)])
    report(fork(lambda: [call_all(manager, 4, others), in_child(child), call_all(manager, 5, others)]))
    report(call_all(manager, 3))
    """,
        before=before,
    )
    good = [None, 2]
    assert reports == [[good, good], [4, good, 5], 3]


@pytest.mark.processes
def test_grpc_that_was_used_before_the_fork_names_the_fix(run):
    child, parent = run(
        _SETUP
        + """
    assert call(manager, "grpc") == 1
    report(fork(lambda: call(manager, "grpc")))
    report(call_all(manager, 3))
    """
    )
    assert child.startswith("grpc: GRPCTransportError: this process was forked without Python's fork hooks")
    assert "py-call-uwsgi-fork-hooks" in child
    assert parent == 3


@pytest.mark.processes
def test_a_manager_that_has_made_no_call_can_use_grpc_in_the_child(run):
    reports = run("""
    manager = everything(WHERE, interval=60)
    report(in_child_of_c_fork(lambda: call_all(manager, 2), ctypes.PyDLL(None).fork, sys.exit))
    report(call_all(manager, 3))
    """)
    assert reports == [2, 3]


_ENTRANCES = {
    "manager.health()['http'].status": "healthy",
    "manager.metrics().active_requests": 0,
    "manager.submit('unix', 1).result(5)['request']": 1,
    "[result.value['request'] for result in manager.map_results('unix', [1, 2])]": [1, 2],
    "manager.bind('http')(1)['request']": 1,
    "manager.get_plugin('http').execute(1)['request']": 1,
    "[each.start() for each in [threading.Thread(target=call_all, args=(manager,)) for _ in 'abcd']][0]": None,
    "manager.shutdown(5)": None,
}


@pytest.mark.processes
def test_any_method_may_be_the_first_in_the_child(run):
    """Two threads of the parent are inside calls at the fork, so the child inherits their locks and counts."""
    reports = run(
        _SETUP
        + f"""
    for entrance in {list(_ENTRANCES)}:
        threads = [threading.Thread(target=call, args=(manager, "http", {{"seconds": 0.3}})) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: manager.metrics().active_requests == 2)
        enter = eval("lambda: " + entrance)
        last = "shutdown" in entrance
        # Not by sys.exit: the parent's threads count as alive in the child, and Python would wait for them.
        report(fork(enter if last else lambda: child(enter), leave=os._exit))
        for thread in threads:
            thread.join()
    report(call_all(manager, 3, others))
    """
    )
    assert reports == [*([expected, 2] for expected in list(_ENTRANCES.values())[:-1]), None, 3]
