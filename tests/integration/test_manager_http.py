"""The whole way: configuration, manager, policies, HTTP, a real server, and back."""

import contextlib
import gc
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
import pytest
import waitress

from goplugins import (
    CircuitBreakerOpenError,
    ExecutionContext,
    Manager,
    PluginConnectionError,
    PluginExecutionError,
    PluginTimeoutError,
    ReplyTypeError,
    SaturatedError,
    deadline,
    serve,
)
from tests.interrupts import alarms_interrupt
from tests.processes import in_child, run
from tests.timing import time_limit, until


@attrs.frozen
class Ask:
    number: int
    text: str = ""


@attrs.frozen
class Answer:
    number: int
    text: str
    request_id: str


@serve.plugin(name="echo")
def echo(request: Ask, context: ExecutionContext) -> Answer:
    if request.text == "reject":
        raise serve.Rejected("not accepted", code="REFUSED")
    if request.text == "sleep":
        time.sleep(request.number / 1000)
    return Answer(request.number, request.text, context.request_id or "")


class ConnectionCounter:
    """A WSGI middleware that counts the server's connections by their remote port."""

    def __init__(self, app):
        self.app = app
        self.ports = set()
        self.busy = 0
        self.most_busy = 0
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        with self.lock:
            self.ports.add(environ["REMOTE_PORT"])
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        try:
            return self.app(environ, start_response)
        finally:
            with self.lock:
                self.busy -= 1


@pytest.fixture
def other_process():
    """The same plugin in a process of its own, so that the sockets counted here are the client's."""
    command = [sys.executable, "-m", "goplugins", "serve", f"{__name__}:echo", "--http", "127.0.0.1:0"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="module")
def server():
    with serve.start(echo, "http://127.0.0.1:0", threads=16) as running:
        yield running


def manager_for(url, **sections):
    manager = Manager(Ask, Answer)
    plugin = {"name": "echo", "transport": "http", "endpoint": url, "health_check": {"enabled": False}, **sections}
    manager.load_from_config({"plugins": [plugin], "log_level": "warning"})
    return manager


def open_files():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.stress
def test_ten_thousand_calls_from_32_threads_get_their_own_replies(server):
    threads_before, files_before = threading.active_count(), open_files()
    wrong, done = [], []
    with manager_for(server.url, connection={"max_connections": 8, "max_idle_connections": 8}) as manager:
        pool = manager.get_plugin("echo").sender._engine.pool
        most_open = 0

        def work(first):
            nonlocal most_open
            for number in range(first, 10_000, 32):
                context = ExecutionContext(request_id=f"call-{number}")
                answer = manager.execute("echo", Ask(number, f"text {number}"), context)
                if answer != Answer(number, f"text {number}", f"call-{number}"):
                    wrong.append(answer)
                done.append(number)
                most_open = max(most_open, pool.open)

        workers = [threading.Thread(target=work, args=(first,)) for first in range(32)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        assert wrong == []
        assert sorted(done) == list(range(10_000))
        assert 1 <= most_open <= 8
        counts = manager.metrics()
        assert (counts.requests_success, counts.requests_failure, counts.attempts_total) == (10_000, 0, 10_000)
    for _ in range(100):
        if threading.active_count() <= threads_before and open_files() <= files_before:
            break
        time.sleep(0.05)
    # The server's side of the connections lives in this process too, and closes a moment later.
    assert threading.active_count() <= threads_before
    assert open_files() <= files_before


def test_the_server_sees_at_most_max_connections():
    door = ConnectionCounter(serve.wsgi(echo))
    app = waitress.create_server(door, host="127.0.0.1", port=0, threads=16)

    def run():
        with contextlib.suppress(OSError, ValueError):  # of the select() that a close interrupts
            app.run()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{app.effective_port}"
    with manager_for(url, connection={"max_connections": 3, "max_idle_connections": 3}) as manager:
        list(manager.map("echo", [Ask(20, "sleep")] * 30, concurrency=12))
        assert door.most_busy <= 3
        assert len(door.ports) <= 3
    app.close()
    thread.join(5)


def test_a_wait_for_a_connection_ends_in_a_saturated_error(server):
    with manager_for(server.url, connection={"max_connections": 1}) as manager:
        pool = manager.get_plugin("echo").sender._engine.pool
        busy = manager.submit("echo", Ask(1000, "sleep"))
        until(lambda: pool.open)
        for stopwatch in time_limit(0.3):
            with stopwatch, pytest.raises(SaturatedError) as caught:
                manager.execute("echo", Ask(1), timeout=0.2)
        assert caught.value.attempts == 0
        assert busy.result(5).number == 1000


def test_a_call_of_a_slow_plugin_ends_at_its_deadline(server):
    with manager_for(server.url) as manager:
        for stopwatch in time_limit(0.4):
            with stopwatch, pytest.raises(PluginTimeoutError):
                manager.execute("echo", Ask(2000, "sleep"), timeout=0.3)
        for stopwatch in time_limit(0.4):
            with stopwatch, deadline(0.3), pytest.raises(PluginTimeoutError):
                manager.execute("echo", Ask(2000, "sleep"))
        assert manager.execute("echo", Ask(1)).number == 1


def test_a_rejection_keeps_its_text_and_code_and_is_no_failure(server):
    with manager_for(server.url, circuit_breaker={"failure_threshold": 1, "min_request_threshold": 1}) as manager:
        for _ in range(3):
            with pytest.raises(PluginExecutionError, match="not accepted") as caught:
                manager.execute("echo", Ask(1, "reject"))
        assert caught.value.details["metadata"]["error_code"] == "REFUSED"
        assert manager.execute("echo", Ask(1)).number == 1


def test_a_reply_of_a_wrong_type_names_the_field(server):
    @attrs.frozen
    class Other:
        number: str

    with manager_for(server.url) as manager, pytest.raises(ReplyTypeError, match=r"data\.number"):
        manager.bind("echo", Ask, Other)(Ask(1))


def test_calls_of_a_dead_plugin_fail_in_microseconds_and_succeed_after_its_restart():
    running = serve.start(echo, "http://127.0.0.1:0")
    breaker = {"failure_threshold": 3, "recovery_timeout": "200ms", "success_threshold": 1}
    with manager_for(running.url, circuit_breaker=breaker, retry={"max_retries": 0}) as manager:
        assert manager.execute("echo", Ask(1)).number == 1
        url = running.url
        running.stop()
        for _ in range(3):
            with pytest.raises(PluginConnectionError):
                manager.execute("echo", Ask(1))
        started = time.thread_time()
        for _ in range(100):
            with pytest.raises(CircuitBreakerOpenError):
                manager.execute("echo", Ask(1))
        assert (time.thread_time() - started) / 100 < 0.001
        with serve.start(echo, url):
            time.sleep(0.25)
            assert manager.execute("echo", Ask(2)).number == 2


def sockets():
    """The inodes of this process's sockets."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if link.startswith("socket:"):
            found.add(link)
    return found


def fork_with_connections(url):
    before = sockets()
    with manager_for(url) as manager:
        list(manager.map("echo", [Ask(n) for n in range(20)]))
        kept = sockets() - before
        assert kept

        def child():
            shared = sorted(sockets() & kept)
            answers = [manager.execute("echo", Ask(n), timeout=5).number for n in range(5)]
            answers += [answer.number for answer in manager.map("echo", [Ask(n) for n in range(5)])]
            return shared, answers

        return in_child(child), manager.execute("echo", Ask(3)).number


def test_a_forked_child_calls_on_connections_of_its_own(other_process):
    assert run(fork_with_connections, other_process) == [[[], [*range(5), *range(5)]], 3]


def test_background_threads_start_with_the_first_call():
    script = """
import os, threading, sys
from goplugins import Manager
manager = Manager()
manager.load_from_config({"plugins": [{"name": "echo", "transport": "http", "endpoint": sys.argv[1]}]})
assert threading.active_count() == 1, threading.enumerate()
assert len(os.listdir("/proc/self/fd")) == 4, os.listdir("/proc/self/fd")
answer = manager.execute("echo", {"number": 1, "text": ""})
assert "goplugins-scheduler" in [thread.name for thread in threading.enumerate()]
pid = os.fork()
if pid == 0:
    assert threading.active_count() == 1
    manager.execute("echo", {"number": 1, "text": ""})
    assert "goplugins-scheduler" in [thread.name for thread in threading.enumerate()]
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
    with serve.start(echo, "http://127.0.0.1:0") as running:
        done = subprocess.run(
            # From Python 3.12 on, forking beside threads warns; that it works is the point here.
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, running.url],
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_idle_connections_are_closed_without_further_calls(server):
    with manager_for(server.url, connection={"idle_timeout": "100ms"}) as manager:
        manager.execute("echo", Ask(1))
        pool = manager.get_plugin("echo").sender._engine.pool
        manager._lifecycle.maintenance._sweep()
        assert pool.open == 1
        time.sleep(0.15)
        manager._lifecycle.maintenance._sweep()
        assert pool.open == 0
        assert manager.execute("echo", Ask(2)).number == 2


def test_a_dead_plugin_without_calls_is_detected_within_its_health_interval():
    running = serve.start(echo, "http://127.0.0.1:0")
    health = {"enabled": True, "interval": "100ms", "timeout": "500ms", "failure_limit": 2}
    with manager_for(running.url, health_check=health) as manager:
        assert manager.list_plugins()["echo"].status == "unknown"
        assert manager.health()["echo"].status == "healthy"
        running.stop()
        for _ in range(100):
            if manager.list_plugins()["echo"].status == "offline":
                break
            time.sleep(0.02)
        assert manager.list_plugins()["echo"].status == "offline"
        assert manager.overall_health().status == "unhealthy"
        assert "echo is offline" in manager.overall_health().message
        assert manager.metrics().health_check_failures >= 2


def test_interrupts_at_random_moments_leak_no_connections_and_no_counts(server):
    """What a task's time limit does: an exception out of a signal handler, between any two steps of a call."""
    random.seed(7)
    struck = 0
    with (
        alarms_interrupt() as alarm,
        manager_for(server.url, connection={"max_connections": 1}, circuit_breaker={"enabled": False}) as manager,
    ):

        def ask() -> None:
            with deadline(5.0):
                manager.execute("echo", Ask(number))

        manager.execute("echo", Ask(0))
        for number in range(600):
            struck += alarm(random.uniform(1e-6, 2.5e-3), ask)
            assert manager.execute("echo", Ask(number), timeout=2).number == number
            assert manager.explain("echo").in_flight == 0
    assert struck > 50
