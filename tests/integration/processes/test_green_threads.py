"""gevent and eventlet, which patch the standard library: before all imports, later, and after calls and a fork."""

from __future__ import annotations

import importlib.util

import pytest

# Both come with the packages of `make hosts`.
pytestmark = [pytest.mark.hosts, pytest.mark.timeout(120)]

_IGNORE = "import warnings; warnings.simplefilter('ignore')"

_PATCH = {
    "gevent": f"{_IGNORE}; import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": f"{_IGNORE}; import eventlet; eventlet.monkey_patch()",
}

_SPAWN = {
    "gevent": "import gevent.pool; pool = gevent.pool.Pool(20); spawn = pool.spawn",
    "eventlet": "import eventlet; pool = eventlet.GreenPool(20); spawn = pool.spawn",
}

_GREEN = """
    others = [name for name in NAMES if name != "grpc"]  # whose calls block all greenlets

    def at_once(make, count=5):
        started, made = time.monotonic(), []
        for number in range(count):
            spawn(lambda number=number: made.append(make(number)))
        (pool.join if hasattr(pool, "join") else pool.waitall)()
        return sorted(made, key=str), time.monotonic() - started

    def green(manager):
        wrong = []
        if (found := call_all(manager, 2)) != 2:
            wrong.append(found)
        for name in others:
            made, took = at_once(lambda number: call(manager, name, {"seconds": 0.6, "number": number}))
            if len(made) != 5 or "Error" in str(made) or (took > 2.4 and name != "exec"):
                wrong.append([name, made, took])
            if name == "python":
                continue  # it runs on the caller's thread, and is not interrupted
            made, took = at_once(lambda number: call(manager, name, {"seconds": 3, "number": number}, 0.3), 2)
            if str(made).count("PluginTimeoutError") != 2 or took > 2.4:
                wrong.append([name, made, took])
        if manager.submit("http", 3).result(5)["request"] != 3:
            wrong.append("submit")
        if [each["request"] for each in manager.map("unix", [1, 2, 3])] != [1, 2, 3]:
            wrong.append("map")
        until(lambda: str(manager.list_plugins()["first"].status) == "healthy", 10)
        return wrong
"""


def _needs(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")


@pytest.mark.parametrize("library", _PATCH)
def test_patched_before_all_imports(run, library):
    _needs(library)
    script = (
        f"{_GREEN}\n    {_SPAWN[library]}\n    report(green(everything(WHERE)))\n    sys.stdout.flush(); os._exit(0)"
    )
    assert run(script, before=f"{_PATCH[library]}\n", timeout=100) == [[]]


BEFORE = {
    "a manager was made": "",
    "a call was made": "call(manager, 'http')",
    "all transports were called": "call_all(manager, 1, others)",
    "calls were submitted": "manager.submit('http', 1).result(), list(manager.map('unix', [1, 2]))",
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("library", _PATCH)
def test_patched_in_a_child(run, library, before):
    """As gunicorn's workers do with ``--preload``."""
    _needs(library)
    reports = run(
        f"""{_GREEN}
    manager = everything(WHERE)
    {BEFORE[before]}

    def child():
        global pool, spawn
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # eventlet lists the locks that it could not replace
        {_PATCH[library]}
        {_SPAWN[library]}
        return green(manager)

    report(in_child(child, leave=os._exit, patience=45))
    os._exit(0)
    """,
        timeout=100,
    )
    assert reports == [[]]


@pytest.mark.parametrize("library", _PATCH)
def test_patched_after_a_call_in_the_same_process(run, library):
    """Connections from before are replaced. Threads and processes from before are not: both libraries warn of that."""
    _needs(library)
    names = ("http", "requests", "https", "unix")
    reports = run(
        f"""{_GREEN}
    manager = everything(WHERE, interval=60)
    call_all(manager, 1, {names})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    {_PATCH[library]}
    {_SPAWN[library]}
    for name in {names}:
        made, took = at_once(lambda number: call(manager, name, {{"seconds": 0.6, "number": number}}))
        report([name, str(made).count("Error"), len(made), took < 2.4])
    sys.stdout.flush()
    os._exit(0)
    """,
        timeout=60,
    )
    assert reports == [[name, 0, 5, True] for name in names]
