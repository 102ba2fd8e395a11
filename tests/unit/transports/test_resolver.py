"""Name resolution on helper threads."""

from __future__ import annotations

import socket
import threading

import pytest

from goplugins.errors import NameResolutionError, PluginTimeoutError
from goplugins.runtime.deadline import Deadline
from goplugins.transports.resolver import ThreadedResolver, literal_address


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


def test_hung_lookups_hold_a_bounded_number_of_threads(monkeypatch):
    release, running = threading.Event(), []
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *_, **__: running.append(host) or (release.wait(5) and []))
    resolver = ThreadedResolver(max_threads=2)
    for number in range(5):
        with pytest.raises(PluginTimeoutError):
            resolver.resolve(f"h{number}.example", 80, Deadline.after(0.01))
    assert len(running) == 2
    release.set()


def test_each_caller_gets_its_own_error():
    def fail(job):
        raise RuntimeError("no worker")

    resolver = ThreadedResolver(fail)
    with pytest.raises(RuntimeError):
        resolver.resolve("a.example", 80, Deadline.after(1))
    with pytest.raises(NameResolutionError):
        ThreadedResolver(lambda job: job()).resolve("no-such-host.invalid", 80, Deadline.after(5))


def test_after_a_fork_lookups_of_the_parent_are_forgotten(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("10.0.0.1", 80))])
    stuck: list[object] = []
    resolver = ThreadedResolver(stuck.append)
    with pytest.raises(PluginTimeoutError):
        resolver.resolve("a.example", 80, Deadline.after(0.01))
    resolver.after_fork_in_child()
    resolver._submit = lambda job: job()
    assert resolver.resolve("a.example", 80, Deadline.after(1))
