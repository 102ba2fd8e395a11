"""Scripts end at once in every way, with their own status, without output, and leave no process behind."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.processes.conftest import ROOT
from tests.marks import sample

PATIENCE = 6.0
RUNNER = str(Path(__file__).with_name("runner.py"))

_PREAMBLE = """
import atexit, gc, json, multiprocessing, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from tests.integration.processes.host import *
from tests.processes import children
from tests.timing import until

WHERE = json.loads(sys.argv[1])
HUNG = {"seconds": 5}

def report(value):
    print(json.dumps(value), flush=True)

def last():
    print("last", time.monotonic(), flush=True)

def interrupt(number, seconds=0.1):
    # Sends the signal once the main thread is inside the call that is to be interrupted.
    def work():
        time.sleep(seconds)
        last()
        os.kill(os.getpid(), number)
    threading.Thread(target=work, daemon=True).start()

def made(*names, **more):
    wanted = configuration(WHERE)
    wanted["plugins"] = [{**plugin, **more} for plugin in wanted["plugins"] if plugin["name"] in names]
    wanted["load_balancers"] = []
    for plugin in wanted["plugins"]:
        if plugin["name"] == "exec":
            plugin["args"] = [*plugin["args"], "--deaf"]
            plugin["connection"] = {"max_connections": 4}
    manager = Manager()
    manager.load_from_config(wanted)
    for name in names:
        assert call(manager, name) == 1, call(manager, name)
    return manager

def hang(manager, *names, way="thread"):
    for name in names:
        if way == "thread":
            threading.Thread(target=call, args=(manager, name, HUNG, 60), daemon=True).start()
        else:
            manager.submit(name, HUNG, timeout=60)
    time.sleep(0.2)
"""


class End(NamedTuple):
    """A script, the status that it has to end with, and the last line of its stderr."""

    script: str
    status: int = 0
    stderr: str = ""


ENDS = {
    "normal": End("""
        manager = everything(WHERE)
        assert call_all(manager) == 1
        last()
    """),
    "exception": End(
        """
        manager = made("exec", "http")
        last()
        raise ValueError("the end")
        """,
        1,
        "ValueError: the end",
    ),
    "sys.exit": End(
        """
        manager = made("exec", "http")
        hang(manager, "exec", "http")
        last()
        sys.exit(3)
        """,
        3,
    ),
    "SIGTERM": End(
        """
        manager = made("exec", "http")
        hang(manager, "exec")
        interrupt(signal.SIGTERM)
        call(manager, "http", HUNG, 60)
        """,
        -15,
    ),
    "SIGTERM, handled": End(
        """
        manager = made("exec", "http")
        hang(manager, "exec")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
        interrupt(signal.SIGTERM)
        manager.execute("http", HUNG, timeout=60)
        """,
        4,
    ),
    "SIGINT in a call": End(
        """
        manager = made("exec", "http")
        interrupt(signal.SIGINT)
        manager.execute("exec", HUNG, timeout=60)
        """,
        -2,
        "KeyboardInterrupt",
    ),
    "SIGINT in a gRPC call": End(
        """
        manager = made("grpc")
        interrupt(signal.SIGINT)
        manager.execute("grpc", HUNG, timeout=60)
        """,
        -2,
        "KeyboardInterrupt",
    ),
    "SIGINT in a batch": End(
        """
        manager = made("exec", "http")
        interrupt(signal.SIGINT, 0.3)
        for value in manager.map("http", (HUNG for _ in range(1000)), timeout=60):
            pass
        """,
        -2,
        "KeyboardInterrupt",
    ),
    "SIGINT in a batch, out of order, within with": End(
        """
        with made("exec", "http") as manager:
            interrupt(signal.SIGINT, 0.3)
            for result in manager.map_results("exec", (HUNG for _ in range(1000)), timeout=60, ordered=False):
                pass
        """,
        -2,
        "KeyboardInterrupt",
    ),
    "SIGINT in result()": End(
        """
        manager = made("exec", "http")
        future = manager.submit("http", HUNG, timeout=60)
        interrupt(signal.SIGINT)
        future.result()
        """,
        -2,
        "KeyboardInterrupt",
    ),
    "SIGKILL": End(
        """
        manager = made("exec")
        hang(manager, "exec")
        last()
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        -9,
    ),
    "os._exit": End(
        """
        manager = made("exec", "http")
        hang(manager, "exec", "http")
        last()
        os._exit(5)
        """,
        5,
    ),
    "os._exit in a child": End("""
        manager = made("exec", "http")
        pid = os.fork()
        if pid == 0:
            hang(manager, "exec", "http")
            os._exit(5)
        report(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5)
        last()
    """),
    "sys.exit in a child": End("""
        manager = made("exec", "http", "grpc")
        hang(manager, "exec")
        pid = os.fork()
        if pid == 0:
            started = time.monotonic()
            call(manager, "http"), call(manager, "grpc")
            hang(manager, "exec", "http")
            last_line = time.monotonic()
            atexit.register(lambda: None)
            sys.exit(6)
        report(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6)
        last()
    """),
    "a child that outlives its parent": End("""
        manager = made("exec", "http")
        if os.fork() == 0:
            sys.stdout = sys.stderr = open(os.devnull, "w")
            os.dup2(sys.stdout.fileno(), 1), os.dup2(sys.stdout.fileno(), 2)
            time.sleep(0.3)
            call(manager, "exec")
            sys.exit(0)
        last()
    """),
    "multiprocessing": End("""
        manager = made("exec", "http")
        context = multiprocessing.get_context("fork")
        def work():
            hang(manager, "exec", "http")
        process = context.Process(target=work)
        process.start()
        process.join(3)
        report(process.exitcode == 0)
        last()
    """),
    "hung exec plugin, abandoned": End("""
        manager = made("exec")
        hang(manager, "exec", "exec", "exec", way="submit")
        last()
    """),
    "hung HTTP call on a worker": End("""
        manager = made("http", "requests", "https", "unix")
        hang(manager, "http", "requests", "https", "unix", way="submit")
        last()
    """),
    "hung gRPC calls": End("""
        manager = made("grpc")
        hang(manager, "grpc")
        hang(manager, "grpc", way="submit")
        last()
    """),
    "hung plugins in this process": End("""
        manager = made("isolated", "python")
        hang(manager, "isolated")
        hang(manager, "python", way="submit")
        last()
    """),
    "waits for the limiter, a bulkhead, a connection, a retry": End("""
        manager = Manager()
        http = {"transport": "http", "endpoint": WHERE["http"], "health_check": {"enabled": False}}
        waits = {"initial_interval": 50, "max_interval": 50}
        limit = {"enabled": True, "requests_per_second": 0.01, "burst_size": 1, "max_wait": 60}
        manager.load_from_config({"log_level": "critical", "plugins": [
            {"name": "limiter", **http, "rate_limit": limit},
            {"name": "bulkhead", **http, "bulkhead": {"max_concurrent": 1, "max_waiting": 9}},
            {"name": "connection", **http, "connection": {"max_connections": 1}},
            {"name": "retry", "transport": "unix", "endpoint": "/nowhere", "retry": waits},
        ]})
        hang(manager, *["limiter", "bulkhead", "connection", "retry"] * 2)
        last()
    """),
    "in a reference cycle": End("""
        class Application:
            def __init__(self):
                self.manager = made("exec", "http")
                self.itself = self
        application = Application()
        hang(application.manager, "exec", way="submit")
        del application
        last()
    """),
    "shutdown at exit": End("""
        manager = made("exec", "http", "grpc")
        atexit.register(manager.shutdown)
        last()
    """),
    "a call at exit": End("""
        manager = made("exec", "http", "grpc")
        atexit.register(lambda: report([call(manager, name) for name in ("http", "grpc")]))
        last()
    """),
    "busy daemon threads": End("""
        manager = made("exec", "http", "grpc", "unix")
        def work(name):
            while True:
                call(manager, name)
        for name in ["exec", "http", "grpc", "unix"]:
            threading.Thread(target=work, args=(name,), daemon=True).start()
        time.sleep(0.3)
        last()
    """),
    "within with": End("""
        with made("exec", "http", "grpc") as manager:
            manager.submit("http", 1)
        last()
    """),
    "an abandoned batch": End("""
        manager = made("exec", "http")
        results = manager.map("http", [1, *[HUNG] * 99], timeout=60)
        report(next(results)["request"] == 1)
        last()
    """),
    "watching": End("""
        path = "/tmp/gp-%d.json" % os.getpid()
        with open(path, "w") as file:
            json.dump({"plugins": [{"name": "http", "transport": "http", "endpoint": WHERE["http"]}]}, file)
        manager = Manager()
        manager.watch(path, interval=0.01, signal=True)
        call(manager, "http")
        os.unlink(path)
        time.sleep(0.1)
        last()
    """),
    "checking a plugin that hangs": End("""
        import socket
        listener = socket.create_server(("127.0.0.1", 0))
        manager = Manager()
        health = {"enabled": True, "interval": 0.1, "timeout": 60}
        manager.load_from_config({"plugins": [{
            "name": "hangs", "transport": "http", "endpoint": "http://127.0.0.1:%d" % listener.getsockname()[1],
            "health_check": health, "retry": {"max_retries": 0},
        }]})
        call(manager, "hangs", 1, 0.2)
        time.sleep(0.3)
        listener.close()
        last()
    """),
    "both attempts of a hedged call hang": End("""
        manager = made("hedged")
        manager._registry.plugins["hedged"].pipeline.hedger.policy.record(0.01)
        hang(manager, "hedged")
        report(manager.metrics().active_requests == 1)
        last()
    """),
    "shutdown twice": End("""
        manager = made("exec", "http", "grpc")
        manager.shutdown()
        manager.shutdown()
        last()
    """),
    "shutdown is under way": End("""
        manager = made("exec", "http")
        hang(manager, "exec", "http")
        threading.Thread(target=manager.shutdown, daemon=True).start()
        time.sleep(0.1)
        last()
    """),
    "shutdown gave up on a hung plugin": End("""
        manager = made("exec", "http")
        hang(manager, "exec", "http", way="submit")
        manager.shutdown(0.1)
        last()
    """),
    "a subscriber that hangs": End("""
        manager = made("http")
        manager.subscribe(lambda event: time.sleep(60))
        call(manager, "http")
        time.sleep(0.1)
        last()
    """),
}

DAILY = {"normal", "exception", "SIGTERM", "SIGINT in a call", "os._exit in a child", "hung gRPC calls"}
"""Of ``ENDS``, what `make test` runs; `make processes` runs all."""


def end(script: str, where: dict[str, str]) -> Any:
    command = [
        sys.executable,
        "-I",
        "-S",
        RUNNER,
        str(PATIENCE),
        _PREAMBLE + textwrap.dedent(script),
        json.dumps(where),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def usual() -> float:
    """Seconds that a script takes to end at present which has loaded the same packages and made no manager.

    A tenth of a second on an idle machine; on a busy one, all ends take as many times longer.
    """
    return end("import goplugins.manager.manager, grpc, requests\nlast()", {})["took"]


@pytest.mark.parametrize("name", sample(ENDS, DAILY, pytest.mark.processes))
def test_a_script_ends(name, where):
    expected = ENDS[name]
    for _ in range(3):
        result = end(expected.script, where)
        last_line = result["stderr"].strip().splitlines()[-1:] or [""]
        assert result["status"] == expected.status, result["stderr"]
        assert last_line == [expected.stderr], result["stderr"]
        assert all(value in (True, [1, 1]) for value in result["reports"])
        assert result["left"] is not None, "it has left processes behind"
        if result["took"] < 1.0 and result["left"] < 3.0:
            return
        limit = max(1.0, 8 * usual())
        assert result["left"] < 2 + limit
        if result["took"] < limit:
            return
    pytest.fail(f"it took {result['took']:.2f} s to end")


@pytest.mark.processes
def test_a_manager_without_references_leaks_no_threads_connections_or_processes(run):
    """No threads, connections, processes; the scheduler's thread ends once it has been idle for a while."""
    reports = run("""
    from goplugins.runtime.scheduler import get_scheduler

    def held():
        return sum(link.startswith(("socket", "pipe")) for link in links().values())

    get_scheduler()._idle = 0.1
    at_first = held()
    manager = everything(WHERE)
    assert call_all(manager) == 1
    manager.submit("http", 1).result()
    manager.health()
    results = manager.map("unix", iter(range(99)))
    next(results)
    batch = manager.bind("http")
    batch(1)
    report([threading.active_count() > 5, held() > 10, len(children())])
    del manager, results, batch
    end = time.monotonic() + 10
    # Kept by the process: the pipe that wakes the supervisor, and that of the orphan guard.
    while time.monotonic() < end and (threading.active_count() > 1 or held() > at_first + 3):
        gc.collect()  # again and again: a worker that was within a call held the manager, too
        time.sleep(0.01)
    report([[thread.name for thread in threading.enumerate()], held() - at_first, len(children())])
    """)
    assert reports == [[True, True, 2], [["MainThread"], 3, 1]]
