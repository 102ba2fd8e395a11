"""Every lock of the package, held by another thread at the moment of a fork."""

from __future__ import annotations

import pytest

PARTS = 3


_SETUP = """
    from tests.integration.processes import locks

    folder = {folder!r}
    with open(folder + "/config.json", "w") as file:
        json.dump(configuration(WHERE), file)
    manager = Manager()
    watch = manager.watch(folder + "/config.json", interval=60)
    subscription = manager.subscribe(lambda event: None)
    assert call_all(manager) == 1
    manager.submit("http", 1).result()
    manager.health()

    def find():
        return locks.find([manager, watch, *locks.package_globals()])
"""


@pytest.mark.processes
@pytest.mark.parametrize("part", range(PARTS))
def test_forks_while_another_thread_holds_a_lock(run, part, tmp_path):
    """One lock after the other, of all that can be reached from the manager and the package's modules."""
    reports = run(
        _SETUP.format(folder=str(tmp_path))
        + f"""
    found = find()

    def child():
        return call_all(manager, 2, within=1.0)

    for name in sorted(found)[{part}::{PARTS}]:
        with locks.held(found[name]):
            result = in_child(child, leave=os._exit, patience=3)
        report([name, result, call_all(manager, 3)])
    """
    )
    assert {name: results for name, *results in reports if results != [2, 3]} == {}
    assert len(reports) > 8


@pytest.mark.processes
def test_no_lock_is_held_in_a_child(run, tmp_path):
    """Another thread of the parent holds all locks at the fork, also those that the child's first calls do not need."""
    reports = run(
        _SETUP.format(folder=str(tmp_path))
        + """
    found = find()
    with locks.held([lock for name in found for lock in found[name]]):
        report(in_child(lambda: [len(threading.enumerate()), locks.stuck(find())], leave=os._exit))
    report(call_all(manager, 3))
    """
    )
    assert reports == [[1, []], 3]


def test_the_search_finds_the_locks_of_every_package(run):
    """Else the tests above would pass because they found nothing."""
    (names,) = run("""
    from tests.integration.processes import locks
    manager = everything(WHERE)
    call_all(manager)
    report(sorted(locks.find([manager, *locks.package_globals()])))
    """)
    packages = {name.split(".")[1] for name in names if name.startswith("goplugins.")}
    assert packages >= {"manager", "pipeline", "resilience", "runtime", "transports"}
    classes = {name.split(".")[-2] for name in names if "." in name}
    assert classes >= {"CircuitBreaker", "ConnectionPool", "RateLimiter", "Registry", "Scheduler"}
    assert len(names) > 24
