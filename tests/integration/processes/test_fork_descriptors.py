"""Parent and child share no socket and no pipe: the one's close would else be hidden by the other's."""

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


def test_after_calls_on_all_wires(run):
    told = run(
        _SETUP
        + """
    parents = ours()
    say(len(parents) > 10)
    say(told_by_child(lambda: [shared(parents), call_all(manager, 2), shared(parents), len(ours() - parents) > 10]))
    say([sorted(parents - ours()), call_all(manager, 3)])
    """
    )
    assert told == [True, [[], 2, [], True], [[], 3]]


def test_while_other_threads_are_inside_calls(run):
    told = run(
        _SETUP
        + """
    threads = [threading.Thread(target=call, args=(manager, name, {"seconds": 0.7})) for name in NAMES for _ in "ab"]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    parents = ours()
    say(told_by_child(lambda: [shared(parents), call_all(manager, 2), shared(parents)]))
    for thread in threads:
        thread.join()
    """
    )
    assert told == [[[], 2, []]]


def test_while_other_threads_are_connecting(run):
    """Nobody has these connections yet: only the threads that open them know of them."""
    told = run(
        _SETUP
        + """
    def full(listener, address):
        listener.bind(address)
        listener.listen(0)
        waiting = []
        for _ in range(3):  # nobody takes them: the next one has to wait
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
    other._registry.plugins["hedged"].hedger.policy.record(0.01)
    before = ours()
    threads = [threading.Thread(target=call, args=(other, name, 1, 1.0)) for name in names]
    for thread in threads:
        thread.start()
    time.sleep(0.4)
    parents = ours() - before
    say(len(parents))
    say(told_by_child(lambda: [shared(parents), call_all(manager, 2)], leave=os._exit))
    for thread in threads:
        thread.join()
    say(len(ours() & parents))
    os._exit(0)  # or Python would complain of the sockets here that nobody has closed
    """
    )
    connecting, child, left = told
    assert connecting >= 5
    assert child == [[], 2]
    assert left == 0
