"""A process at its limit of descriptors or threads: over every transport, calls fail by one name and count for nothing.

The system refuses; nothing is replaced. Each test has a process of its own.
"""

from __future__ import annotations

import errno
import sys
import textwrap

import pytest

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="the limits are Linux's"),
]

_SETUP = '''
import contextlib, ctypes, resource, struct
import requests
from goplugins import HTTPPlugin, PluginConfig
from tests.processes import few_descriptors


BREAKER = {"failure_threshold": 1, "min_request_threshold": 1}

def limited_manager(keep_alive):
    settings = configuration(WHERE)
    plugins = settings["plugins"]
    plugins.append({"name": "named", "transport": "http", "endpoint": WHERE["http"].replace("127.0.0.1", "localhost")})
    for plugin in plugins:
        plugin["retry"] = {**plugin.get("retry", {}), "max_retries": 0}
        plugin["circuit_breaker"] = BREAKER
        if plugin["transport"] not in ("exec", "python"):
            plugin["connection"] = {"keep_alive": keep_alive}
    settings["load_balancers"][0]["retry"] = {"max_retries": 0}
    manager = Manager()
    manager.load_from_config(settings)
    own = {"name": "session", "transport": "http", "endpoint": WHERE["http"]}
    with_session = HTTPPlugin(PluginConfig.from_mapping(own), session=requests.Session())
    policies = {"retry": {"max_retries": 0}, "circuit_breaker": BREAKER}
    manager.register(with_session, PluginConfig.from_mapping({"name": "session", **policies}), name="session")
    return manager

@contextlib.contextmanager
def no_threads(_):
    threading.stack_size(1 << 47)  # more than any address space has
    try:
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=int).start()
            raise SystemExit("this system gives threads stacks of any size")
        yield
    finally:
        threading.stack_size(0)

NUMBERS = {
    "x86_64": {"socket": 41, "connect": 42, "sendto": 44, "recvfrom": 45},
    "aarch64": {"socket": 198, "connect": 203, "sendto": 206, "recvfrom": 207},
}

def refuse_on_this_thread(call, code):
    """Has the kernel refuse a system call with an error number: a filter of seccomp, which the thread can't remove."""
    number = NUMBERS[os.uname().machine][call]
    program = struct.pack(
        "HBBI" * 4,
        *(0x20, 0, 0, 0),  # load the number of the system call
        *(0x15, 0, 1, number),  # if it is another one, skip the next line
        *(0x06, 0, 0, 0x00050000 | code),  # return the error
        *(0x06, 0, 0, 0x7FFF0000),  # allow it
    )
    lines = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", 4, ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.create_string_buffer(header, len(header)), 0, 0):
        raise SystemExit("this system has no filters of system calls")

def run_refused(call, code, keep_alive):
    manager = limited_manager(keep_alive)
    names = (*NAMES, "named", "session")
    call_all(manager, names=names)
    plugins = manager._registry.plugins
    found = []

    def refused():
        refuse_on_this_thread(call, code)
        found.append({name: outcome(manager, name) for name in names})
        found.append({name: str(plugins[name].health(1.0).status) for name in plugins})

    thread = threading.Thread(target=refused)
    thread.start()
    thread.join()
    standing = {name: str(plugin.status()) for name, plugin in plugins.items()}
    breakers = {name: str(plugin.pipeline.breaker.state) for name, plugin in plugins.items()}
    ejected = [each.name for each in plugins["group"].wire.explain().members if each.failures]
    report([*found, standing, breakers, ejected, call_all(manager, names=names)])
    sys.stdout.flush()
    os._exit(0)

def outcome(manager, name):
    started = time.monotonic()
    try:
        manager.execute(name, 1, timeout=3)
        found = "ok"
    except PluginError as error:
        found = type(error).__name__
    return found if time.monotonic() - started < 2 else f"{found} at the deadline"

def run(limit, free, keep_alive, warm):
    manager = limited_manager(keep_alive)
    names = (*NAMES, "named", "session")
    if warm:
        call_all(manager, names=names)
    plugins = manager._registry.plugins
    with limit(free):
        calls = {name: outcome(manager, name) for name in names}
        health = {name: str(plugins[name].health(1.0).status) for name in plugins}
        standing = {name: str(plugin.status()) for name, plugin in plugins.items()}
    breakers = {name: str(plugin.pipeline.breaker.state) for name, plugin in plugins.items()}
    ejected = [each.name for each in plugins["group"].wire.explain().members if each.failures]
    report([calls, health, standing, breakers, ejected, call_all(manager, names=names)])
    sys.stdout.flush()
    os._exit(0)
'''

_NOT_REFUSED = {"ok", "LocalResourceError"}
_NO_VERDICT = {"unknown", "healthy"}


def _check(found, may_be_refused, always_served):
    calls, health, standing, breakers, ejected, afterwards = found
    refused = {name for name, outcome in calls.items() if outcome != "ok"}
    assert {calls[name] for name in refused} <= {"LocalResourceError"}, str(calls)
    assert refused <= set(may_be_refused), calls
    assert not refused & set(always_served), calls
    assert set(health.values()) <= _NO_VERDICT, health
    assert set(standing.values()) <= _NO_VERDICT, standing
    assert set(breakers.values()) == {"closed"}, breakers
    assert ejected == []
    assert afterwards == 1


_WIRES = ("http", "requests", "https", "grpc", "unix", "group", "hedged", "cached", "limited", "named", "session")


@pytest.mark.parametrize("free", [0, 1, 2, 3, 5, 8, 12])
def test_the_first_calls_of_a_process_at_its_limit_of_descriptors(run, free):
    (found,) = run(_SETUP + f"run(few_descriptors, {free}, keep_alive=True, warm=False)")
    _check(found, (*_WIRES, "exec"), ("python", "isolated"))
    if not free:
        assert {found[0][name] for name in (*_WIRES, "exec")} == {"LocalResourceError"}


@pytest.mark.parametrize("free", [0, 1, 4])
def test_new_connections_of_a_process_at_its_limit_of_descriptors(run, free):
    (found,) = run(_SETUP + f"run(few_descriptors, {free}, keep_alive=False, warm=True)")
    _check(found, _WIRES, ("python", "isolated", "exec"))


def test_kept_connections_need_no_descriptor(run):
    (found,) = run(_SETUP + "run(few_descriptors, 0, keep_alive=True, warm=True)")
    _check(found, (), (*_WIRES, "exec", "python", "isolated"))


@pytest.mark.parametrize("warm", [False, True])
def test_calls_of_a_process_at_its_limit_of_threads(run, warm):
    (found,) = run(_SETUP + f"run(no_threads, 0, keep_alive=True, warm={warm})")
    _check(found, ("named", "exec", "isolated", "hedged", "grpc"), ("http", "requests", "https", "unix", "python"))


_REFUSALS = [
    *(("socket", code) for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)),
    *(("connect", code) for code in (errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL)),
    *(("sendto", code) for code in (errno.ENOMEM, errno.ENOBUFS)),
    *(("recvfrom", code) for code in (errno.ENOMEM, errno.ENOBUFS)),
]


@pytest.mark.parametrize(
    ("call", "code"), _REFUSALS, ids=[f"{call}-{errno.errorcode[code]}" for call, code in _REFUSALS]
)
def test_system_calls_that_the_kernel_refuses(run, call, code):
    keep_alive = call in ("sendto", "recvfrom")
    (found,) = run(_SETUP + f"run_refused({call!r}, {code}, keep_alive={keep_alive})")
    plaintext = {"http", "requests", "unix", "group", "cached", "limited", "named"}
    if keep_alive:  # a session keeps its connections in any case
        plaintext.add("session")
    _check(found, _WIRES, ("python", "isolated", "exec"))
    assert {found[0][name] for name in plaintext} == {"LocalResourceError"}


def test_health_checks_over_grpc_end_also_where_threads_were_refused(run):
    """grpc's futures need a thread: after one was refused, no future of that channel would ever end."""
    script = """
    manager = limited_manager(keep_alive=True)
    plugin = manager._registry.plugins["grpc"]
    call(manager, "grpc")
    with no_threads(0):
        refused = [str(plugin.health(1.0).status) for _ in range(3)]
        answered = call(manager, "grpc")
    started = time.monotonic()
    healthy = [str(plugin.health(5.0).status) for _ in range(3)]
    with no_threads(0):
        plugin.health(1.0)
    manager.shutdown(5.0)
    report([refused, answered, healthy, time.monotonic() - started < 5.0])
    sys.stdout.flush()
    os._exit(0)
    """
    (found,) = run(_SETUP + textwrap.dedent(script))
    refused, *rest = found
    assert set(refused) <= _NO_VERDICT
    assert rest == [1, ["healthy"] * 3, True]
