"""The server's socket: ownership of the path, permissions, and closing of idle connections under a limit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import threading
import time
from typing import Any

import pytest

from goplugins import serve as serve_module
from goplugins.errors import ConfigError
from goplugins.serve import _unix
from goplugins.serve._unix_listener import Listener
from goplugins.testing import ManualClock
from tests.integration.unix.conftest import call
from tests.timing import until


def leave_stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)


def ping(sock: socket.socket, request_id: str = "r") -> bytes:
    sock.sendall(b'{"type":"ping","request_id":"%b"}\n' % request_id.encode())
    return sock.recv(4096)


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(path)
    return sock


class TestPath:
    def test_known_fault_two_servers_both_took_a_stale_socket(self, path, monkeypatch):
        """One server removes the socket that the other has just created."""
        leave_stale(path)
        won, others = [], []

        def compete() -> None:
            with contextlib.suppress(ConfigError):
                won.append(Listener(path))

        remove = os.unlink

        def unlink(name: Any) -> None:
            if name == path and not others:
                others.append(threading.Thread(target=compete))
                others[0].start()
                others[0].join(0.1)  # until it blocks
            remove(name)

        monkeypatch.setattr(os, "unlink", unlink)
        compete()
        others[0].join(10)
        assert len(won) == 1
        connect(path).close()
        won[0].close()

    def test_one_of_many_concurrent_servers_gets_the_path(self, path):
        for _ in range(20):
            leave_stale(path)
            barrier, won, lost = threading.Barrier(4), [], []

            def compete(barrier=barrier, won=won, lost=lost) -> None:
                barrier.wait()
                try:
                    won.append(Listener(path))
                except ConfigError as exc:
                    lost.append(exc.message)

            threads = [threading.Thread(target=compete) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            assert len(won) == 1
            assert set(lost) == {f"can't listen on {path}: a server is listening there"}
            won[0].close()
            assert os.listdir(os.path.dirname(path)) == []

    def test_the_socket_is_never_open_to_other_users(self, path, monkeypatch):
        monkeypatch.setattr(os, "chmod", lambda *_: pytest.fail("it was not private when it was made"))
        before = os.umask(0)
        try:
            listener = Listener(path)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        finally:
            os.umask(before)
        listener.close()

    def test_no_file_is_left(self, path):
        Listener(path).close()
        assert os.listdir(os.path.dirname(path)) == []

    def test_a_lock_of_a_killed_server_does_not_block(self, path):
        with open(f"{path}.lock", "w"):
            pass
        Listener(path).close()
        assert os.listdir(os.path.dirname(path)) == []

    def test_a_server_that_hangs_at_its_start_does_not_block_others(self, path):
        clock = ManualClock(auto_advance=True)
        with open(f"{path}.lock", "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(ConfigError, match="the lock of another starting server was held for 5 s") as caught:
                Listener(path, clock=clock)
            assert caught.value.fix == f"find the process that holds {path}.lock"

    def test_a_symbolic_link_as_lock_file_is_not_followed(self, path):
        os.symlink(f"{path}-precious", f"{path}.lock")
        with pytest.raises(ConfigError, match=r"can't listen on .*\.lock: "):
            Listener(path)
        assert not os.path.exists(f"{path}-precious")

    def test_a_directory_that_is_missing(self):
        with pytest.raises(ConfigError, match=r"can't listen on /nonexistent/x\.sock") as caught:
            Listener("/nonexistent/x.sock")
        assert caught.value.fix == "create its directory first"

    def test_the_error_for_a_busy_path_has_a_fix(self, path):
        listener = Listener(path)
        with pytest.raises(ConfigError) as caught:
            Listener(path)
        assert caught.value.fix == "stop it, or use another path"
        listener.close()


BEGUN: list[float] = []


@serve_module.plugin(name="slow")
def slow(request: float) -> float:
    BEGUN.append(request)
    time.sleep(request)
    return request


class TestCrowd:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch):
        monkeypatch.setattr(_unix, "_CONNECTIONS", 3)

    def test_known_fault_idle_connections_shut_newcomers_out(self, serve, path):
        serve()
        sockets = [connect(path) for _ in range(3)]
        for sock in (sockets[1], sockets[2], sockets[0]):
            assert ping(sock)
            time.sleep(0.02)  # the reply has arrived; now the server has noted it, too
        for _ in range(2):
            sockets.append(connect(path))
            assert b'"success":true' in ping(sockets[-1])
        assert (sockets[1].recv(1), sockets[2].recv(1)) == (b"", b"")  # the two that were idle longest
        for sock in (sockets[0], *sockets[3:]):
            assert ping(sock)
        for sock in sockets:
            sock.close()

    def test_connections_without_a_request_count_as_idle(self, serve, path):
        serve()
        sockets = [connect(path) for _ in range(12)]
        assert ping(sockets[-1])
        for sock in sockets:
            sock.close()

    def test_a_call_in_flight_is_not_cut_and_the_new_connection_waits(self, serve, make, path, caplog):
        BEGUN.clear()
        serve(slow)
        busy = [connect(path) for _ in range(3)]
        for number, sock in enumerate(busy):
            sock.sendall(b'{"type":"execute","request_id":"%d","data":0.5}\n' % number)
        until(lambda: len(BEGUN) == 3)
        started = time.monotonic()
        newcomer = connect(path)
        assert b'"success":true' in ping(newcomer)
        assert 0.1 < time.monotonic() - started < 2.0
        # The slot is that of a connection whose call has ended.
        assert all(b'"data":0.5' in sock.recv(4096) for sock in busy)
        assert "all 3 connections have a call in flight" in caplog.text
        for sock in (*busy, newcomer):
            sock.close()

    def test_a_connection_with_half_a_line_is_not_closed(self, serve, path):
        serve()
        halves = [connect(path) for _ in range(2)]
        for sock in halves:
            sock.sendall(b'{"type":"ping",')
        time.sleep(0.05)
        others = [connect(path) for _ in range(4)]
        assert ping(others[-1])
        for sock in halves:
            sock.sendall(b'"request_id":"r"}\n')
            assert b'"success":true' in sock.recv(4096)
        for sock in (*halves, *others):
            sock.close()

    def test_a_client_whose_idle_connection_was_closed_reconnects(self, serve, make, path):
        serve()
        plugin = make(max_connections=1)
        assert call(plugin, 1) == 1
        crowd = [connect(path) for _ in range(6)]
        assert ping(crowd[-1])
        assert call(plugin, 2) == 2
        for sock in crowd:
            sock.close()
