"""Name resolution on helper threads."""

from __future__ import annotations

import socket
import threading
from functools import partial

import pytest

from goplugins.errors import LocalResourceError, NameResolutionError, PluginError, PluginTimeoutError, Verdict
from goplugins.runtime.deadline import Deadline
from goplugins.transports.resolver import ThreadedResolver, literal_address
from tests.interrupts import interrupted_at
from tests.processes import in_child


def test_literals_need_no_lookup():
    assert literal_address("10.0.0.1", 80) == (socket.AF_INET, ("10.0.0.1", 80))
    assert literal_address("::1", 80) == (socket.AF_INET6, ("::1", 80, 0, 0))
    assert literal_address("example.com", 80) is None


def test_callers_of_one_name_share_a_lookup(monkeypatch):
    release, lookups = threading.Event(), []

    def lookup(host, port, **_):
        lookups.append(host)
        release.wait(5)
        return [(socket.AF_INET, 1, 6, "", ("10.0.0.1", port))]

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    resolver = ThreadedResolver()
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(resolver.resolve("a.example", 80, Deadline.after(5))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    release.set()
    for thread in threads:
        thread.join(5)
    assert found == [[(socket.AF_INET, ("10.0.0.1", 80))]] * 8
    assert len(lookups) < 8


@pytest.mark.parametrize("hung", [3, 4, 40, 100])
def test_names_that_hang_delay_no_other(monkeypatch, hung):
    release, running = threading.Event(), []

    def lookup(host, port, **_):
        if host.startswith("dead"):
            running.append(host)
            release.wait(30)
            return []
        return [(socket.AF_INET, 1, 6, "", ("10.0.0.1", port))]

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    resolver = ThreadedResolver(32)
    for _ in range(2):  # the second time, they hang already
        for number in range(hung):
            with pytest.raises(PluginTimeoutError if number < 32 else PluginError):
                resolver.resolve(f"dead{number}.example", 80, Deadline.after(0.001))
        assert resolver.resolve("good.example", 80, Deadline.after(20)) == [(socket.AF_INET, ("10.0.0.1", 80))]
    assert len(running) == len(set(running)), "a name holds one thread"
    release.set()


def test_a_lookup_that_waits_for_a_thread_is_no_failure_of_the_plugin(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: release.wait(30) and [])
    resolver = ThreadedResolver(1)
    with pytest.raises(PluginTimeoutError) as hung:
        resolver.resolve("a.example", 80, Deadline.after(0.01))
    with pytest.raises(LocalResourceError) as waited:
        resolver.resolve("b.example", 80, Deadline.after(0.01))
    assert (hung.value.verdict, waited.value.verdict) == (Verdict.FAILURE, Verdict.IGNORED)
    release.set()


def test_each_caller_gets_its_own_error():
    resolver, errors = ThreadedResolver(), []
    for _ in range(2):
        with pytest.raises(NameResolutionError) as caught:
            resolver.resolve("no-such-host.invalid", 80, Deadline.after(20))
        errors.append(caught.value)
    assert errors[0] is not errors[1]


def test_a_thread_that_is_refused_fails_one_call_at_once(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    resolver = ThreadedResolver()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(LocalResourceError, match="no free thread to resolve the name 'localhost'"):
                resolver.resolve("localhost", 80, Deadline.after(60))
    assert resolver.resolve("localhost", 80, Deadline.after(20))


def test_a_call_that_is_interrupted_leaves_no_lookup_that_never_runs():
    for number in range(100):
        resolver = ThreadedResolver()
        resolve = partial(resolver.resolve, "localhost", 80, Deadline.after(20))
        interrupted_at(number, resolve, within=("resolver.py", "workers.py"))
        assert resolve(), number


def test_after_a_fork_lookups_of_the_parent_are_forgotten(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: release.wait(30) and [])
    resolver = ThreadedResolver()
    with pytest.raises(PluginTimeoutError):
        resolver.resolve("a.example", 80, Deadline.after(0.01))

    def child():
        socket.getaddrinfo = lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 80))]
        return resolver.resolve("a.example", 80, Deadline.after(20))[0][1]

    assert in_child(child) == ["10.0.0.1", 80]
    release.set()
