"""Parent and child share no socket and no pipe: else a peer would not notice that one of them closed it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.processes

_SETUP = """
    at_first = links()
    manager = everything(WHERE)
    assert call_all(manager) == 1

    def ours():
        return {name for number, name in links().items() if at_first.get(number) != name and "anon_inode" not in name}

    def shared(parents):
        return sorted(parents & ours())
"""


def test_after_calls_over_all_transports(run):
    reports = run(
        _SETUP
        + """
    parents = ours()
    report(len(parents) > 10)
    report(in_child(lambda: [shared(parents), call_all(manager, 2), shared(parents), len(ours() - parents) > 10]))
    report([sorted(parents - ours()), call_all(manager, 3)])
    """
    )
    assert reports == [True, [[], 2, [], True], [[], 3]]


def test_while_other_threads_are_inside_calls(run):
    reports = run(
        _SETUP
        + """
    threads = [threading.Thread(target=call, args=(manager, name, {"seconds": 1.0})) for name in NAMES for _ in "ab"]
    for thread in threads:
        thread.start()
    until(lambda: manager.metrics().active_requests >= len(threads))
    time.sleep(0.2)  # for the last of them to be sent
    parents = ours()
    report(in_child(lambda: [shared(parents), call_all(manager, 2), shared(parents)]))
    for thread in threads:
        thread.join()
    """
    )
    assert reports == [[[], 2, []]]


def test_while_other_threads_are_connecting(run):
    """No pool has these connections yet: only the threads that open them refer to them."""
    reports = run(
        _SETUP
        + """
    def full(listener, address):
        listener.bind(address)
        listener.listen(0)
        waiting = []
        for _ in range(3):  # they fill the queue, so the next connection has to wait
            waiting.append(socket.socket(listener.family))
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        return listener.getsockname(), [listener, *waiting]

    (host, port), keep = full(socket.socket(), ("127.0.0.1", 0))
    path, keep_too = full(socket.socket(socket.AF_UNIX), "\\0gp-%d" % os.getpid())
    handshake = socket.create_server(("127.0.0.1", 0))
    def plugin(name, transport, endpoint, **more):
        return {"name": name, "transport": transport, "endpoint": endpoint, **more}
    other = Manager()
    once = {"max_retries": 0, "idempotent": True}
    hedge = {"enabled": True, "delay": 0.05}
    other.load_from_config({"log_level": "critical", "default_health_check": {"enabled": False}, "plugins": [
        plugin("tcp", "http", f"http://{host}:{port}/x"),
        plugin("session", "http", f"http://{host}:{port}/x", options={"engine": "requests"}),
        plugin("tls", "https", f"https://127.0.0.1:{handshake.getsockname()[1]}/x"),
        plugin("unix", "unix", "@" + path[1:].decode()),
        plugin("hedged", "http", f"http://{host}:{port}/x", retry=once, hedge=hedge),
    ]})
    names = ["tcp", "session", "tls", "unix", "hedged"]
    other._registry.plugins["hedged"].pipeline.hedger.policy.record(0.01)
    before = ours()
    threads = [threading.Thread(target=call, args=(other, name, 1, 1.0)) for name in names]
    for thread in threads:
        thread.start()
    until(lambda: len(ours() - before) >= 5)
    parents = ours() - before
    report(len(parents))
    report(in_child(lambda: [shared(parents), call_all(manager, 2)], leave=os._exit))
    for thread in threads:
        thread.join()
    report(len(ours() & parents))
    os._exit(0)  # or Python would warn of the sockets that are open here
    """
    )
    connecting, child, left = reports
    assert connecting >= 5
    assert child == [[], 2]
    assert left == 0
