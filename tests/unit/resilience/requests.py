"""Caches, and requests that are held until the test lets them end."""

from __future__ import annotations

import threading

from goplugins.config import CacheConfig
from goplugins.resilience.cache import ResponseCache
from goplugins.runtime.deadline import Deadline


def cache_of(clock, ttl=60.0, **fields):
    bounds = {name: fields.pop(name) for name in ("size_of", "max_size") if name in fields}
    return ResponseCache(CacheConfig(ttl=ttl, **fields), clock=clock, **bounds)


class Server:
    """Counts requests and holds each until :meth:`answer`."""

    def __init__(self):
        self.requests = 0
        self.arrived = threading.Semaphore(0)
        self.outcomes = []
        self.released = threading.Semaphore(0)
        self._lock = threading.Lock()

    def make(self):
        with self._lock:
            self.requests += 1
        self.arrived.release()
        assert self.released.acquire(timeout=20)
        with self._lock:
            outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def answer(self, outcome):
        with self._lock:
            self.outcomes.append(outcome)
        self.released.release()

    def wait_for_request(self):
        assert self.arrived.acquire(timeout=20)


def wait_until(condition):
    for _ in range(20_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("the condition did not become true")


def submit(pool, cache, server, count, timeout=20.0, key="key"):
    return [pool.submit(cache.fetch, key, server.make, Deadline.after(timeout)) for _ in range(count)]


def fetch(cache, clock, key="key", answer="answer", timeout=30.0):
    return cache.fetch(key, lambda: answer, Deadline.after(timeout, clock))
