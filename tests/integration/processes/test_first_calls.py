"""The first call of a process and the forks right after it, and what a call must not leave for later: imports."""

from __future__ import annotations

import pytest

DELAYS = (0.0, 0.005, 0.02, 0.05, 0.2)

_FIRST = """
    manager = everything(WHERE)

    def first(name, delay):
        assert call(manager, name) == 1
        time.sleep(delay)
        return in_child(lambda: call_all(manager, 2), leave=os._exit)

    def wrong(name, delay):
        found = in_child(lambda: first(name, delay), leave=os._exit, patience=20)
        return [] if found == 2 else [f"{name}, fork after {delay} s: {found}"]
"""


def test_a_fork_right_after_the_first_call_of_a_process(run):
    assert run(_FIRST + "\n    report(wrong('http', 0.0))", timeout=60) == [[]]


@pytest.mark.processes
@pytest.mark.parametrize("delay", DELAYS)
def test_a_fork_soon_after_the_first_call_over_any_transport(run, delay):
    script = f"\n    report([text for name in NAMES if name != 'cached' for text in wrong(name, {delay})])"
    assert run(_FIRST + script, timeout=200) == [[]]


@pytest.mark.processes
@pytest.mark.parametrize("delay", DELAYS)
def test_a_pool_of_multiprocessing_after_the_first_call(run, delay):
    reports = run(
        f"""
    manager = everything(WHERE)
    assert call(manager, "http") == 1
    time.sleep({delay})
    def work(name):
        return call(manager, name)
    globals()["work"] = work
    with multiprocessing.get_context("fork").Pool(3) as pool:
        report(pool.map_async(work, NAMES * 2, 1).get(30))
    """
    )
    (answers,) = reports
    assert set(answers) == {1}


# --- imports -------------------------------------------------------------------------------------------------------

_IMPORTED = """
    manager = everything(WHERE)
    before = set(sys.modules)
    def imported(what):
        found = sorted(set(sys.modules) - before)
        before.update(found)
        if found:
            report([what, found])
"""


@pytest.mark.parametrize(
    "end", ["answer", "typed", *(pytest.param(each, marks=pytest.mark.processes) for each in ("timeout", "refused"))]
)
def test_calls_import_nothing(run, end):
    """All that a call needs was imported when its plugin was built: imports know no deadline, and a fork cuts them."""
    actions = {
        "answer": """
    assert call_all(manager) == 1
    imported("calls")
    assert manager.submit("http", 1).result()["request"] == 1
    assert [each["request"] for each in manager.map("grpc", [1, 2])] == [1, 2]
    imported("submit and map")
    manager.health(), manager.overall_health(), [manager.explain(name) for name in NAMES], manager.metrics()
    imported("health")
    """,
        "typed": """
    import attrs
    from google.protobuf.struct_pb2 import Struct
    Pair = attrs.make_class("Pair", {"request": attrs.field(type=dict[str, float]), "pid": attrs.field(type=int)})
    calls = [manager.bind(name, kind, answer) for name in ("http", "grpc", "unix", "exec") for kind, answer in
             [(dict[str, float], Pair), (Struct, Struct), (list[int], Pair)]]
    before = set(sys.modules)
    message = Struct()
    message["a"] = 1
    for number, value in enumerate([{"a": 1.0}, message, [1]] * 4):
        try:
            assert calls[number](value, timeout=5)
        except PluginError as error:
            assert number % 3 == 2, error  # the answer's list is no dictionary
        imported(number)
    """,
        "timeout": """
    for name in NAMES:
        call(manager, name, {"seconds": 0.3}, 0.1)
        imported(name)
    """,
        "refused": """
    gone = {key: value for key, value in WHERE.items()}
    for key in ("http", "https", "grpc"):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            gone[key] = f"{key}://127.0.0.1:{sock.getsockname()[1]}"
    gone["unix"] = "unix:///nowhere/socket"
    manager = everything(gone)
    before = set(sys.modules)
    for name in ("http", "requests", "https", "grpc", "unix", "group", "hedged"):
        assert "Error" in call(manager, name, 1, 1.0)
        imported(name)
    """,
    }
    assert run(_IMPORTED + actions[end]) == []


_SLOW_IMPORTS = """
import importlib.abc, sys, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if armed:
            time.sleep(0.15)  # as on a network's file system
        return None

armed = False
sys.meta_path.insert(0, Slow())
"""


@pytest.mark.processes
@pytest.mark.parametrize("name", ["http", "grpc"])
def test_slow_imports_do_not_delay_a_first_call_with_retries(run, name):
    """A first call that fails, with its retries, ends by its deadline."""
    reports = run(
        f"""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        refusing = f"127.0.0.1:{{sock.getsockname()[1]}}"
    manager = everything({{**WHERE, "http": "http://" + refusing, "grpc": "grpc://" + refusing}})
    armed = True
    started = time.monotonic()
    assert "Error" in call(manager, {name!r}, 1, 0.5)
    report(time.monotonic() - started)
    """,
        before=_SLOW_IMPORTS,
    )
    assert reports[0] < 0.8


# --- what another thread is doing ----------------------------------------------------------------------------------


def test_a_fork_waits_for_imports_of_other_threads(run, tmp_path):
    (tmp_path / "slow_module.py").write_text("import time\nstarted = True\ntime.sleep(0.3)\nvalue = 7\n")
    reports = run(
        f"""
    sys.path.insert(0, {str(tmp_path)!r})
    manager = everything(WHERE)
    threading.Thread(target=__import__, args=("slow_module",)).start()
    until(lambda: hasattr(sys.modules.get("slow_module"), "started"))
    report(in_child(lambda: __import__("slow_module").value, leave=os._exit))
    """
    )
    assert reports == [7]


@pytest.mark.processes
def test_an_import_without_end_delays_one_fork_and_no_other(run, tmp_path):
    (tmp_path / "endless_module.py").write_text("import time\nstarted = True\ntime.sleep(60)\n")
    reports = run(
        f"""
    from goplugins.runtime import fork
    fork._IMPORT_TIMEOUT = 0.5
    sys.path.insert(0, {str(tmp_path)!r})
    manager = everything(WHERE)
    threading.Thread(target=__import__, args=("endless_module",), daemon=True).start()
    until(lambda: hasattr(sys.modules.get("endless_module"), "started"))
    def forked():
        started = time.monotonic()
        in_child(lambda: 1, leave=os._exit)
        return time.monotonic() - started
    report([forked(), forked()])
    """
    )
    first, second = reports[0]
    assert 0.5 <= first < 5
    assert second < 0.5


@pytest.mark.processes
def test_a_fork_waits_for_the_first_grpc_channel_of_another_thread(run):
    reports = run(
        """
    import grpc
    manager = everything(WHERE)
    create, entered = grpc.insecure_channel, threading.Event()
    def slowly(*args, **options):
        entered.set()
        time.sleep(0.3)
        return create(*args, **options)
    grpc.insecure_channel = slowly
    thread = threading.Thread(target=call, args=(manager, "grpc"))
    thread.start()
    entered.wait(10)
    report(in_child(lambda: call(manager, "grpc", 2), leave=os._exit))
    thread.join()
    report(call(manager, "grpc", 3))
    """
    )
    assert reports == [2, 3]


@pytest.mark.processes
def test_a_fork_ends_health_checks_over_grpc_and_does_not_wait_for_them(run):
    """A plugin that accepts connections and never answers: its checks would last until their timeout."""
    reports = run(
        """
    silent = socket.create_server(("127.0.0.1", 0))
    where = {"transport": "grpc", "endpoint": f"127.0.0.1:{silent.getsockname()[1]}"}
    check = {"enabled": True, "interval": 0.05, "timeout": 20}
    manager = Manager()
    plugins = [each for each in configuration(WHERE)["plugins"] if each["name"] in ("http", "grpc")]
    plugins += [{"name": f"silent{number}", **where, "health_check": check} for number in range(3)]
    manager.load_from_config({"default_health_check": {"enabled": False}, "plugins": plugins, "log_level": "error"})
    assert call(manager, "http") == 1
    from goplugins.transports.grpc.fork_support import FORK_GUARD
    until(lambda: FORK_GUARD.calls, 10)
    started = time.monotonic()
    report([in_child(lambda: call(manager, "grpc", 2), leave=os._exit), time.monotonic() - started])
    report([call(manager, "grpc", 3), str(manager.list_plugins()["silent0"].status)])
    os._exit(0)
    """
    )
    (child, took), parent = reports
    assert child == 2
    assert took < 1.0
    assert parent == [3, "unknown"]
