"""``goplugins ctl``, ``top`` and ``dashboard``: actions on a process, frames in a pipe and a terminal, a web page."""

from __future__ import annotations

import builtins
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.error
import urllib.request

import pytest

from goplugins import ExecutionContext, Manager, OperationConfig, PluginConfig
from goplugins.cli import main
from goplugins.contrib import dashboard
from goplugins.contrib.dashboard._server import PageServer
from tests.unit.contrib.dashboards import FakePlugin, call

pytestmark = pytest.mark.usefixtures("folder")


def run(*arguments, capsys):
    code = main(list(arguments))
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def page():
    """The dashboard of a manager that has made calls."""
    with Manager() as manager:
        manager.register(FakePlugin("lively\x1b[2J[bold]"))
        app = dashboard.wsgi(manager)
        with PageServer(app, "127.0.0.1", 0) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            app.board.request()
            app.board.wait(5)
            call(manager, "lively\x1b[2J[bold]", 30)
            app.board.sample()
            yield server.url
            server.shutdown()
            thread.join()


@pytest.fixture
def rest_page():
    """The dashboard of a manager that has called operations."""
    with Manager() as manager:
        operations = {"get_item": OperationConfig(), "save": OperationConfig()}
        manager.register(FakePlugin("shop"), PluginConfig(name="shop", operations=operations))
        app = dashboard.wsgi(manager)
        with PageServer(app, "127.0.0.1", 0) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            app.board.request()
            app.board.wait(5)
            for _ in range(3):
                manager.execute("shop", "", operation="get_item")
            app.board.sample()
            yield server.url
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("option", [[], ["--operations"]])
def test_top_shows_the_operations_of_plugins_below_them(rest_page, option, capsys):
    code, out, _ = run("top", "--once", "--url", rest_page, *option, capsys=capsys)
    assert code == 0
    lines = out.splitlines()
    assert "shop" in lines[2]
    assert [line.split()[0] for line in lines[3:]] == (["get_item"] if option else [])


# --- ctl -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def operated():
    """A manager, and the URL of its dashboard, which lets those act who send a header."""
    with Manager() as manager:
        manager.register(FakePlugin("auth"))
        allowed = lambda environ: environ.get("HTTP_X_OPERATOR") == "ada"  # noqa: E731
        app = dashboard.wsgi(manager, authorize=allowed, actor=lambda environ: environ["HTTP_X_OPERATOR"])
        with PageServer(app, "127.0.0.1", 0) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            yield manager, server.url
            server.shutdown()
            thread.join()


def test_ctl_acts_on_a_running_process(operated, capsys):
    manager, url = operated
    ctl = ["--url", url, "--header", "X-Operator=ada"]
    for action, admits, text in (
        ("disable", False, "auth takes no calls until it is enabled"),
        ("enable", True, "auth takes calls"),
        ("open", False, "the circuit breaker of auth is open"),
        ("close", True, "the circuit breaker of auth is closed"),
        ("open", False, "the circuit breaker of auth is open"),
        ("reset", True, "the circuit breaker of auth is closed"),
        ("check", True, "auth is healthy"),
    ):
        assert run("ctl", action, "auth", *ctl, capsys=capsys) == (0, f"{text}\n", "")
        assert manager.explain("auth").admits is admits


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["disable", "auth"], 1, "not allowed to act"),
        (["disable", "none", "--header", "X-Operator=ada"], 1, "no plugin of this name"),
        (["disable", "auth", "--member", "x", "--header", "X-Operator=ada"], 1, "no member 'x'"),
        (["disable", "auth", "--header", "X-Operator"], 2, "expected NAME=VALUE"),
        (["disable", "auth", "--url", "http://127.0.0.1:1"], 2, "no answer from http://127.0.0.1:1"),
        (["disable", "auth", "--url", "ftp://x"], 2, "expected http:// or https://"),
        (["enable", "auth", "--drain-timeout", "1"], 2, "with the action disable"),
        (["disable", "auth", "--drain-timeout", "-1"], 2, "expected seconds, 0 or more"),
        (["disable", "auth", "--drain-timeout", "inf"], 2, "expected seconds, 0 or more"),
        (["disable", "auth", "--drain-timeout", "nan"], 2, "expected seconds, 0 or more"),
        (["disable", "auth", "--drain-timeout", "301", "--header", "X-Operator=ada"], 1, "seconds from 0 to 300"),
    ],
)
def test_ctl_says_what_was_refused(operated, arguments, code, text, capsys):
    manager, url = operated
    found, out, err = run("ctl", *([] if "--url" in arguments else ["--url", url]), *arguments, capsys=capsys)
    assert (found, out) == (code, "")
    assert text in err
    assert manager.explain("auth").admits


@pytest.mark.parametrize("member", [[], ["--member", "slow"]])
def test_ctl_waits_for_calls_in_flight(operated, capsys, member):
    manager, url = operated
    begun, go_on = threading.Event(), threading.Event()

    def slow(request: int) -> int:
        begun.set()
        assert go_on.wait(30)
        return request

    manager.register(slow, name="slow")
    manager.reload_config({"load_balancers": [{"name": "group", "members": ["slow", "auth"], "strategy": "priority"}]})
    name = "group" if member else "slow"
    preferring = ExecutionContext(preferences=["slow"])
    call = manager.submit(name, 5, context=preferring, timeout=30)
    assert begun.wait(10)
    ctl = ["ctl", "disable", name, *member, "--url", url, "--header", "X-Operator=ada", "--drain-timeout"]
    code, out, err = run(*ctl, "0.05", capsys=capsys)
    assert (code, out) == (1, "")
    assert "takes no calls until it is enabled; calls are still in flight after 0.05 s" in err
    threading.Timer(0.1, go_on.set).start()
    code, out, err = run(*ctl, "20", capsys=capsys)
    assert (code, err) == (0, "")
    assert out.endswith("no call is in flight\n")
    assert call.result(10) == 5


# --- top -------------------------------------------------------------------------------------------------------------


def test_one_frame_of_a_file(capsys):
    code, out, _ = run("top", "-c", "mixed.yaml", "--once", capsys=capsys)
    first, head, *rows = out.splitlines()
    assert code == 0
    assert first.startswith("1 down, 0 degraded, 1 healthy; ")
    assert head.split()[0] == "plugin"
    assert [row.split()[:2] for row in rows] == [["■", "gone"], ["●", "greet"]]
    assert "connection refused" in rows[0]


def test_one_frame_of_a_running_process(page, capsys):
    code, out, _ = run("top", "--url", page, capsys=capsys)
    assert code == 0
    assert "; 0 calls/s" not in out.splitlines()[0]
    assert "\x1b" not in out
    assert "[bold]" in out


def test_without_rich_one_frame_is_printed(page, capsys, monkeypatch):
    monkeypatch.setattr("goplugins.cli._common.has_rich", lambda: False)
    assert run("top", "--url", page, "--once", capsys=capsys)[0] == 0


def test_without_rich_a_live_view_names_the_package_to_install(page, capsys, monkeypatch):
    monkeypatch.setattr("goplugins.cli.top.has_rich", lambda: False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, _, err = run("top", "--url", page, capsys=capsys)
    assert code == 2
    assert "pip install goplugins[cli]" in err


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:1/", "no answer from http://127.0.0.1:1/"),
        ("http://me:hunter2@127.0.0.1:1/", "no answer from http://127.0.0.1:1/"),
        ("ftp://127.0.0.1/", "expected http"),
        ("plugins.yaml", "expected http"),
    ],
)
def test_a_url_without_a_server(url, message, capsys):
    code, _, err = run("top", "--url", url, "--once", capsys=capsys)
    assert code == 2
    assert message in err
    assert "hunter2" not in err


def test_a_url_that_is_no_dashboard(server, capsys):
    code, _, err = run("top", "--url", server.url, "--once", capsys=capsys)
    assert code == 2
    assert server.url in err


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_live_view_in_a_terminal(page, width):
    shown, code = in_terminal("top", "--url", page, until="Ctrl-C ends", width=width)
    assert "Ctrl-C ends" in shown
    assert "healthy" in shown
    assert ("limiter" in shown) == (width == 160)
    assert code == 0


# Makes the terminal the controlling one, so that Ctrl-C typed there sends SIGINT.
IN_TERMINAL = """
import fcntl, runpy, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("goplugins", run_name="__main__", alter_sys=True)
"""


def in_terminal(*arguments, until, width):
    """Types Ctrl-C in a terminal of ``width`` columns once it shows ``until``; returns the output and the exit code."""
    terminal, other_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *arguments],
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(width)},
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        start_new_session=True,
    )
    os.close(other_end)
    shown, end, typed = b"", time.monotonic() + 30, False
    while time.monotonic() < end:
        if until.encode() in shown and not typed:
            os.write(terminal, b"\x03")
            typed = True
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the process has ended
                break
            shown += data
    else:
        process.kill()
    code = process.wait(10)
    os.close(terminal)
    return shown.decode(errors="replace"), code


# --- dashboard -------------------------------------------------------------------------------------------------------


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as reply:
        return reply.read().decode()


@pytest.fixture
def served(folder):
    command = [sys.executable, "-m", "goplugins", "dashboard", "-c", "mixed.yaml", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("dashboard at http://127.0.0.1:"), process.communicate()
    yield process, line.removeprefix("dashboard at ").strip()
    process.kill()
    process.communicate()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_until_a_signal(served, end):
    process, url = served
    assert "static/app.js" in get(url)
    deadline = time.monotonic() + 20
    while json.loads(get(url + "state"))["summary"].get("down") != 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert 'content=""' in get(url)
    assert "hunter2" not in get(url + "config")
    process.send_signal(end)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert err == ""


def test_requests_for_another_host_name_are_rejected(served):
    _, url = served
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        get(url + "state", Host="rebound.example.com")
    refused.value.close()


def test_a_port_in_use(page, capsys):
    port = re.search(r":(\d+)/", page)[1]
    code, _, err = run("dashboard", "-c", "plugins.yaml", "--port", port, capsys=capsys)
    assert code == 2
    assert f"port {port}" in err


def test_allow_actions_needs_a_local_host(capsys):
    code, _, err = run(
        "dashboard", "-c", "plugins.yaml", "--host", "0.0.0.0", "--port", "0", "--allow-actions", capsys=capsys
    )
    assert code == 2
    assert "--allow-actions" in err


def test_call_and_health_do_not_import_rich(monkeypatch, capsys):
    real = builtins.__import__

    def without_rich(name, *arguments, **options):
        assert name.partition(".")[0] != "rich"
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert run("call", "-c", "plugins.yaml", "greet", "{}", capsys=capsys)[0] == 0
    assert run("health", "-c", "plugins.yaml", capsys=capsys)[0] == 0
