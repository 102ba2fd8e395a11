"""Plugins whose health is scripted, and waiting without sleeping longer than needed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from goplugins import HealthStatus, PluginStatus

HEALTHY = HealthStatus(PluginStatus.HEALTHY)
DEGRADED = HealthStatus(PluginStatus.DEGRADED, "slow disk")
UNHEALTHY = HealthStatus(PluginStatus.UNHEALTHY, "no database")
OFFLINE = HealthStatus(PluginStatus.OFFLINE, "connection refused")
UNKNOWN = HealthStatus(PluginStatus.UNKNOWN, "no free connection")

Answer = HealthStatus | BaseException


class FakePlugin:
    """Answers as told: with a status, an exception, or not before it is let go."""

    def __init__(self, answer: Answer = HEALTHY) -> None:
        self.answer = answer
        self.looks = 0
        self.timeouts: list[float] = []
        self.running = 0
        self.most_running = 0
        self.looked = threading.Event()
        self.hanging = threading.Event()
        self.let_go: threading.Event | None = None
        self._lock = threading.Lock()

    def hang(self) -> threading.Event:
        """From now on a look lasts until the returned event is set."""
        self.let_go = threading.Event()
        return self.let_go

    def health(self, timeout: float) -> HealthStatus:
        with self._lock:
            self.looks += 1
            self.timeouts.append(timeout)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.looked.set()
        try:
            if self.let_go is not None:
                self.hanging.set()
                self.let_go.wait(30.0)
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer
        finally:
            with self._lock:
                self.running -= 1


@contextmanager
def hanging(plugins: list[FakePlugin]) -> Iterator[None]:
    """The plugins hang within the block; afterwards their workers are free again."""
    events = [plugin.hang() for plugin in plugins]
    try:
        yield
    finally:
        for event in events:
            event.set()


def inline(job: Callable[[], object]) -> None:
    """A pool of no workers."""
    job()


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


def threads(prefix: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]
