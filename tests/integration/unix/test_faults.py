"""Faults of sockets and servers: each is an error of its own in time, and does not affect later calls."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from goplugins import serve as serve_module
from goplugins.config import AuthConfig, PluginConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    ConfigError,
    ConnectionLostError,
    InvalidEndpointFormatError,
    MissingSocketPathError,
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
    ReplyTooLargeError,
    SaturatedError,
    TruncatedReplyError,
)
from goplugins.transports.unix import UnixSocketPlugin, UnixSocketPluginFactory
from tests.integration.unix.conftest import call, echo, new_call, ok, read_line, replies, reply_ok
from tests.processes import in_child, run
from tests.servers import Peer
from tests.timing import Stopwatch, time_limit


def _plugin(function):
    return serve_module.plugin(request=Any, response=Any)(function)


def _until(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.002)


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=20, check=False
    )
    return done.stdout + done.stderr


class TestConnecting:
    def test_missing_socket(self, make, path):
        with pytest.raises(PluginConnectionError, match=f"there is no socket {path}") as caught:
            call(make())
        assert caught.value.replay is Replay.ALWAYS
        assert make().health(1).status is PluginStatus.OFFLINE

    def test_no_listener(self, make, path):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
            with pytest.raises(PluginConnectionError, match="no process listens on") as caught:
                call(make())
        assert caught.value.replay is Replay.ALWAYS

    def test_a_file_that_is_not_a_socket(self, make, path):
        Path(path).touch()
        with pytest.raises(PluginConnectionError, match="no process listens on"):
            call(make())

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
    def test_permission_denied_is_not_retried(self, serve, path):
        serve()
        os.chmod(os.path.dirname(path), 0o755)
        code = (
            "import os, sys\n"
            "from goplugins.config import PluginConfig\n"
            "from goplugins.transports.unix import UnixSocketPlugin\n"
            "plugin = UnixSocketPlugin(PluginConfig(transport='unix', endpoint=sys.argv[1]))\n"
            "os.setuid(65534)\n"
            "try: plugin.execute(1)\n"
            "except ConnectionError as error: print(error.message, error.replay.value)\n"
        )
        found = _python(code, path)
        assert "Permission denied never" in found

    def test_backlog_of_the_listener_is_full(self, make, path):
        """A non-blocking connect() would fail at once."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(path)
                for stopwatch in time_limit(0.3, at_least=0.19):
                    with stopwatch, pytest.raises(PluginTimeoutError, match="timed out while connecting") as caught:
                        call(make(), timeout=0.2)
                assert caught.value.replay is Replay.ALWAYS
                for stopwatch in time_limit(0.2):
                    with stopwatch, pytest.raises(PluginTimeoutError):
                        call(make(connection_timeout=0.1), timeout=5)

    def test_a_signal_within_connect_is_not_taken_for_a_connection(self, make, path):
        """After a signal, Python takes an unconnected socket for a connected one: sending on it fails."""
        signals: list[int] = []
        earlier = signal.signal(signal.SIGUSR1, lambda number, _: signals.append(number))
        try:
            with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as threads:
                listener.bind(path)
                listener.listen(0)
                listener.settimeout(5)
                with socket.socket(socket.AF_UNIX) as first:
                    first.connect(path)
                    main = threading.get_ident()

                    def serve() -> None:
                        for _ in range(3):
                            time.sleep(0.05)
                            signal.pthread_kill(main, signal.SIGUSR1)
                        time.sleep(0.05)
                        listener.accept()[0].close()
                        sock, _ = listener.accept()
                        with sock, sock.makefile("rb") as lines:
                            sock.sendall(ok(json.loads(lines.readline()), "in the end"))

                    served = threads.submit(serve)
                    assert call(make()) == "in the end"
                    served.result(5)
                assert signals
        finally:
            signal.signal(signal.SIGUSR1, earlier)

    @pytest.mark.parametrize(
        ("endpoint", "error"),
        [("", MissingSocketPathError), ("@", MissingSocketPathError), ("/" + "x" * 200, InvalidEndpointFormatError)],
    )
    def test_invalid_address_is_a_configuration_error(self, endpoint, error):
        config = PluginConfig(name="p", transport="unix", endpoint=endpoint)
        factory = UnixSocketPluginFactory()
        with pytest.raises(error):
            factory.validate_config(config)
        with pytest.raises(error):
            factory.create_plugin(config)


class TestReplies:
    def test_hangs(self, raw, make):
        raw(Peer.hang)
        for stopwatch in time_limit(0.25):
            with stopwatch, pytest.raises(PluginTimeoutError):
                call(make(), timeout=0.15)

    def test_slow_reply(self, raw, make):
        raw(lambda peer: (read_line(peer), peer.drip(b"x" * 1000, 0.01)))
        for stopwatch in time_limit(0.25):
            with stopwatch, pytest.raises(PluginTimeoutError):
                call(make(), timeout=0.15)

    def test_truncated(self, raw, make):
        raw(replies(lambda request: ok(request)[:-5]))
        with pytest.raises(TruncatedReplyError):
            call(make())

    def test_closes_without_a_reply(self, raw, make):
        raw(lambda peer: read_line(peer) and None)
        with pytest.raises(ConnectionLostError) as caught:
            call(make())
        assert caught.value.replay is Replay.IF_IDEMPOTENT

    def test_too_large(self, raw, make):
        raw(replies(lambda request: ok(request, "x" * 2000)))
        with pytest.raises(ReplyTooLargeError):
            call(make(max_response_bytes=1000))

    @pytest.mark.parametrize(
        "bad",
        [
            lambda request: b"garbage\n",
            lambda request: ok({**request, "request_id": "other"}),
            lambda request: ok(request) + b"left over",
            lambda request: ok(request) + ok(request, "late"),
            lambda request: ok(request, "x" * 5000),
        ],
        ids=["garbage", "wrong id", "left over", "two lines", "too large"],
    )
    def test_connection_of_a_bad_reply_is_closed(self, raw, make, bad):
        server = raw(replies(bad))
        plugin = make(max_response_bytes=1000)
        with contextlib.suppress(PluginError):
            call(plugin)
        assert plugin.pool.open == 0
        server.handler = reply_ok
        assert call(plugin) == "ok"
        assert server.connections == 2


def test_known_fault_a_late_reply_answered_the_next_call(raw, make):
    late = threading.Event()

    def handler(peer: Peer) -> None:
        while (request := read_line(peer)) is not None:
            if request["data"] == "slow":
                late.wait(5)
            peer.send(ok(request, request["data"]))

    raw(handler)
    plugin = make(max_connections=1)
    with pytest.raises(PluginTimeoutError):
        call(plugin, "slow", 0.1, request_id="slow")
    late.set()
    for number in range(10):
        assert call(plugin, number, request_id=str(number)) == number


def test_known_fault_more_connections_than_allowed(raw, make):
    server = raw()
    plugin = make(max_connections=5)
    with ThreadPoolExecutor(51) as pool:
        assert set(pool.map(lambda number: call(plugin, request_id=str(number)), range(500))) == {"ok"}
    assert server.open_most <= 5
    assert server.connections <= 5


def test_a_caller_beyond_the_limit_is_rejected_in_time(raw, make):
    raw(Peer.hang)
    plugin = make(max_connections=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(call, plugin, timeout=0.5)
        while not plugin.pool.open:
            time.sleep(0.001)
        with pytest.raises(SaturatedError):
            call(plugin, timeout=0.1)
        assert plugin.health(0.1).status is PluginStatus.UNKNOWN
        with pytest.raises(PluginTimeoutError):
            first.result()


def test_known_fault_execute_racing_with_close_crashed(serve, make):
    serve()
    for _ in range(20):
        plugin = make(max_connections=4)
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(call, plugin, 1, request_id=str(number)) for number in range(40)]
            plugin.close()
        for future in futures:
            error = future.exception()
            assert error is None or isinstance(error, PluginClosedError)
        assert plugin.pool.open == 0


class TestReconnecting:
    def test_connection_is_reused_without_a_ping(self, raw, make):
        server = raw()
        plugin = make()
        for _ in range(5):
            call(plugin)
        assert server.connections == 1
        assert len(server.requests) == 5

    def test_without_keep_alive_each_call_opens_a_connection(self, raw, make):
        server = raw()
        plugin = make(keep_alive=False)
        for _ in range(3):
            call(plugin)
        assert server.connections == 3
        assert plugin.pool.open == 0

    def test_dead_idle_connection_is_replaced_silently(self, raw, make):
        server = raw(replies(ok))
        plugin = make()
        for _ in range(3):
            assert call(plugin) == "ok"
            time.sleep(0.02)
        assert server.connections == 3

    def test_known_fault_a_plugin_that_went_away_stayed_dead(self, serve, make):
        first = serve()
        plugin = make()
        assert call(plugin, 1) == 1
        first.stop()
        with pytest.raises(PluginConnectionError) as caught:
            call(plugin, 1)
        assert caught.value.replay is Replay.ALWAYS
        serve()
        assert call(plugin, 1) == 1

    def test_an_idempotent_call_reconnects_once_after_a_reused_connection_broke(self, raw, make):
        def handler(peer: Peer) -> None:
            peer.send(ok(read_line(peer)))
            read_line(peer)

        server = raw(handler)
        plugin = make()
        call(plugin)
        with pytest.raises(ConnectionLostError):
            call(plugin)
        call(plugin)
        made = new_call(idempotent=True)
        plugin.prepare(made)
        assert plugin.send(made) == "ok"
        assert made.reconnected
        with pytest.raises(ConnectionLostError):
            plugin.send(made)
        assert server.connections == 3

    def test_server_restarts_under_load(self, serve, make):
        """Calls in flight finish; the only errors are those of failed connects."""

        @_plugin
        def slow(request):
            time.sleep(0.005)
            return request

        plugin = make(max_connections=8)
        server = serve(slow)
        stop = threading.Event()
        done, errors = [], []

        def work(number: int) -> None:
            while not stop.is_set():
                try:
                    assert call(plugin, number, request_id=f"{number}-{len(done)}") == number
                    done.append(number)
                except PluginError as error:
                    errors.append(error)
                    time.sleep(0.002)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            time.sleep(0.1)
            server.stop()
            server = serve(slow)
        time.sleep(0.1)
        stop.set()
        for thread in threads:
            thread.join()
        assert len(done) > 100
        assert {error.replay for error in errors} <= {Replay.ALWAYS}, errors[:3]

    def test_thirty_two_threads_over_four_connections(self, serve, make):
        serve()
        plugin = make(max_connections=4)
        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(lambda number: call(plugin, number, 20.0, request_id=str(number)), range(1000)))
        assert found == list(range(1000))
        assert plugin.pool.open <= 4


def fork_with_a_connection(path):
    plugin = UnixSocketPlugin(PluginConfig(name="p", transport="unix", endpoint=path))
    assert call(plugin, 1) == 1
    child = in_child(lambda: [plugin.pool.open, call(plugin, 2), call(plugin, 3)])
    assert [call(plugin, number) for number in range(20)] == list(range(20))
    found = child, plugin.pool.open
    plugin.close()
    return found


def test_forked_child_opens_a_connection_and_the_parent_keeps_its_own(serve, path):
    serve()
    assert run(fork_with_a_connection, path) == [[0, 2, 3], 1]


class TestServer:
    def test_only_this_user_may_connect_whatever_the_umask(self, serve, path):
        before = os.umask(0)
        try:
            serve()
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        finally:
            os.umask(before)

    def test_socket_is_removed_after_the_stop(self, serve, path):
        serve().stop()
        assert not os.path.exists(path)

    def test_stale_socket_is_replaced(self, serve, make, path):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
        serve()
        assert call(make(), 1) == 1

    def test_live_server_is_not_replaced(self, serve, make):
        serve()
        with pytest.raises(ConfigError, match="a server is listening there"):
            serve()
        assert call(make(), 1) == 1

    def test_other_files_are_not_replaced(self, serve, path):
        Path(path).write_text("precious")
        with pytest.raises(ConfigError, match="no socket"):
            serve()
        assert Path(path).read_text() == "precious"

    def test_socket_of_a_successor_is_not_removed(self, serve, make, path):
        first = serve()
        os.unlink(path)
        serve()
        first.stop()
        assert call(make(), 1) == 1

    def test_directory_that_is_missing(self, serve):
        with pytest.raises(ConfigError, match="can't listen"):
            serve(echo, "/nonexistent/x.sock")

    def test_abstract_name(self, serve, make, path):
        name = "@" + path
        serve(echo, name)
        assert call(make(name), 1) == 1
        assert not os.path.exists(path)

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
    def test_abstract_socket_requires_credentials_of_other_users(self, serve, path):
        code = (
            "import os, sys\n"
            "from goplugins.config import PluginConfig, AuthConfig\n"
            "from goplugins.transports.unix import UnixSocketPlugin\n"
            "auth = AuthConfig(method='bearer', token='s3cret')\n"
            "plugin = UnixSocketPlugin(PluginConfig(transport='unix', endpoint=sys.argv[1], auth=auth))\n"
            "os.setuid(65534)\n"
            "try: print(plugin.execute(1))\n"
            "except ConnectionError as error: print(type(error).__name__)\n"
        )
        serve(echo, f"@{path}-private")
        assert "ConnectionLostError" in _python(code, f"@{path}-private")
        serve(echo, f"@{path}-shared", auth=AuthConfig(method="bearer", token="s3cret"))
        assert _python(code, f"@{path}-shared").strip() == "1"

    def test_stop_waits_for_calls_in_flight(self, serve, make):
        entered, leave = threading.Semaphore(0), threading.Event()

        @_plugin
        def slow(request):
            entered.release()
            leave.wait(5)
            return request

        server = serve(slow)
        plugin = make()
        with ThreadPoolExecutor(4) as pool:
            futures = [pool.submit(call, plugin, number, 5.0, request_id=str(number)) for number in range(4)]
            for _ in range(4):
                entered.acquire()
            server.server.stop(5)
            _until(lambda: not os.path.exists(server.server.endpoint))
            with pytest.raises(PluginConnectionError):
                call(plugin)
            leave.set()
            assert [future.result() for future in futures] == [0, 1, 2, 3]
        server.thread.join(2)
        assert not server.thread.is_alive()

    def test_stop_ends_after_its_grace(self, serve, make, caplog):
        entered, leave = threading.Event(), threading.Event()

        @_plugin
        def hung(request):
            entered.set()
            leave.wait(5)

        server = serve(hung)
        plugin = make()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(call, plugin, 1, 5.0)
            entered.wait(5)
            with Stopwatch() as stopwatch:
                server.stop(0.1)
            assert stopwatch.seconds < 0.5
            with pytest.raises(ConnectionLostError):
                future.result()
            leave.set()
        assert "1 call(s) in flight" in caplog.text

    def test_idle_connections_do_not_delay_stop(self, serve, make):
        server = serve()
        call(make(), 1)
        with Stopwatch() as stopwatch:
            server.stop(5)
        assert stopwatch.seconds < 0.5

    def test_concurrent_calls_are_bounded_and_health_does_not_wait_for_them(self, serve, make):
        now, most, lock = [0], [0], threading.Lock()

        @_plugin
        def counted(request):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.02)
            with lock:
                now[0] -= 1

        serve(counted, threads=2)
        plugin = make(max_connections=11)
        with ThreadPoolExecutor(10) as pool:
            futures = [pool.submit(call, plugin, request_id=str(number)) for number in range(20)]
            assert plugin.health(1).status in {PluginStatus.HEALTHY, PluginStatus.UNKNOWN}
            for future in futures:
                future.result()
        assert most[0] == 2

    def test_waiting_for_a_slot_counts_against_the_callers_deadline(self, serve, make):
        ran = []

        @_plugin
        def slow(request):
            ran.append(request)
            time.sleep(0.3)

        serve(slow, threads=1)
        plugin = make()
        with ThreadPoolExecutor(2) as pool:
            pool.submit(call, plugin, "first", 2.0)
            _until(lambda: ran)
            with pytest.raises(PluginTimeoutError):
                call(plugin, "second", 0.1)
        assert ran == ["first"]

    def test_no_thread_and_no_descriptor_is_left(self, serve, make):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            server = serve()
            plugin = make()
            call(plugin, 1)
            plugin.close()
            server.stop()
        _until(lambda: not [one for one in threading.enumerate() if one.name == "goplugins-unix"])
        assert len(os.listdir("/proc/self/fd")) <= before  # descriptors of other tests may be closed meanwhile
