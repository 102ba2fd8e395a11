"""Forks that Python is not told of: those of C code, such as uWSGI's where it is not asked for more.

Other threads must be at rest then, as a server's master has them: nobody mends the interpreter's own locks in the
child.
"""

from __future__ import annotations

import pytest

_SETUP = """
    fork = ctypes.PyDLL(None).fork  # as the C library has it: no hook runs
    manager = everything(WHERE, interval=60)
    assert call_all(manager) == 1
    others = [name for name in NAMES if name != "grpc"]

    def child(entrance=lambda: None):
        return [entrance(), call_all(manager, 2, others, within=1.0)]
"""
_NO_PAGE = """
import sys
platform, sys.platform = sys.platform, "elsewhere"
import goplugins.runtime.fork
sys.platform = platform
assert type(goplugins.runtime.fork.FORK_MARK).__name__ == "_MarkByPid"
"""


@pytest.mark.parametrize("before", ["", pytest.param(_NO_PAGE, marks=pytest.mark.processes)], ids=["page", "pid"])
def test_children_find_out_with_their_first_call(run, before):
    told = run(
        _SETUP
        + """
    say([told_by_child(child, fork) for _ in range(2)])
    say(told_by_child(lambda: [call_all(manager, 4, others), told_by_child(child), call_all(manager, 5, others)], fork))
    say(call_all(manager, 3))
    """,
        before=before,
    )
    good = [None, 2]
    assert told == [[good, good], [4, good, 5], 3]


@pytest.mark.processes
def test_grpc_that_was_used_before_says_what_to_do(run):
    told = run(
        _SETUP
        + """
    say(told_by_child(lambda: call(manager, "grpc"), fork))
    say(call_all(manager, 3))
    """
    )
    assert told[0].startswith("grpc: GRPCTransportError: this process was forked without Python's fork hooks")
    assert "py-call-uwsgi-fork-hooks" in told[0]
    assert told[1] == 3


@pytest.mark.processes
def test_a_manager_that_has_called_nobody_yet_has_grpc_too(run):
    told = run("""
    fork = ctypes.PyDLL(None).fork
    manager = everything(WHERE, interval=60)
    say(told_by_child(lambda: call_all(manager, 2), fork))
    say(call_all(manager, 3))
    """)
    assert told == [2, 3]


_ENTRANCES = {
    "manager.health()['http'].status": "healthy",
    "manager.metrics().active_requests": 0,
    "manager.submit('unix', 1).result(5)['said']": 1,
    "[result.value['said'] for result in manager.map_results('unix', [1, 2])]": [1, 2],
    "manager.bind('http')(1)['said']": 1,
    "manager.get_plugin('http').execute(1)['said']": 1,
    "[each.start() for each in [threading.Thread(target=call_all, args=(manager,)) for _ in 'abcd']][0]": None,
    "manager.shutdown(5)": None,
}


@pytest.mark.processes
def test_other_ways_in(run):
    """While threads of the parent's are inside calls, so that locks and counts are not as a child would want them."""
    told = run(
        _SETUP
        + f"""
    for entrance in {list(_ENTRANCES)}:
        threads = [threading.Thread(target=call, args=(manager, "http", {{"seconds": 0.2}})) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        enter = eval("lambda: " + entrance)
        last = "shutdown" in entrance
        # Not by sys.exit: the parent's threads count as alive here, and Python would wait for them.
        say(told_by_child(enter if last else lambda: child(enter), fork, leave=os._exit))
        for thread in threads:
            thread.join()
    say(call_all(manager, 3))
    """
    )
    assert told == [*([expected, 2] for expected in list(_ENTRANCES.values())[:-1]), None, 3]
