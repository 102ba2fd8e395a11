"""A manager in a server's master: calls are made, nothing runs beside them, and the workers begin by themselves."""

from __future__ import annotations

import pytest

_UWSGI = """
import os, sys, types
uwsgi = types.ModuleType("uwsgi")  # as in its master
uwsgi.masterpid, uwsgi.numproc, uwsgi.opt = (lambda master=os.getpid(): master), 2, {"master": True}
uwsgi.worker_id = lambda: int(os.getpid() != uwsgi.masterpid())
sys.modules["uwsgi"] = uwsgi
"""

_SETUP = """
    import logging
    lines = []
    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())
    logging.getLogger("goplugins.doctor").addHandler(Keep())
    logging.getLogger("goplugins.doctor").setLevel("WARNING")
    manager = everything(WHERE)

    def threads():
        return sorted(each.name for each in threading.enumerate() if each.name.startswith("goplugins"))

    def child():
        at_first = threads()
        answered = call_all(manager, 2, [name for name in NAMES if name != "grpc"])
        status = lambda: str(manager.list_plugins()["first"].status)
        until(lambda: status() == "healthy", 10)
        return [at_first, answered, status(), "goplugins-scheduler" in threads()]
"""

GOOD = [[], 2, "healthy", True]


@pytest.mark.parametrize("fork", ["os.fork", "c_fork"])
def test_no_thread_in_uwsgis_master_and_health_checks_in_its_workers(run, fork):
    reports = run(
        _SETUP
        + f"""
    c_fork = ctypes.PyDLL(None).fork
    report([line.partition("]")[0] for line in lines])
    others = [name for name in NAMES if name not in ("grpc", "exec")]
    assert call_all(manager, 1, others) == 1
    until(lambda: not threads(), 5)  # those of submitted work end with it
    report([in_child_of_c_fork(child, {fork}, os._exit) for _ in range(2)])
    report([call_all(manager, 3, others), str(manager.list_plugins()["first"].status)])
    """,
        before=_UWSGI,
    )
    assert reports == [["[uwsgi-threads", "[uwsgi-fork-hooks", "[limit-per-worker"], [GOOD, GOOD], [3, "unknown"]]


@pytest.mark.processes
def test_a_watched_configuration_is_followed_in_the_worker_only(run, tmp_path):
    path = tmp_path / "plugins.json"
    reports = run(
        f"""
    path = {str(path)!r}
    def write(name):
        with open(path, "w") as file:
            json.dump({{"plugins": [{{**configuration(WHERE)["plugins"][0], "name": name}}]}}, file)
    write("one")
    manager = Manager()
    manager.watch(path, interval=0.05)
    assert call(manager, "one") == 1
    report(sorted(each.name for each in threading.enumerate() if each.name.startswith("goplugins")))
    def child():
        assert call(manager, "one") == 1
        write("another")
        until(lambda: "another" in manager.list_plugins(), 10)
        return call(manager, "another", 2)
    report(in_child(child, leave=os._exit))
    """,
        before=_UWSGI,
    )
    assert reports == [[], 2]
