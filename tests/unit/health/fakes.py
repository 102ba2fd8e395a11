"""Plugins with scripted health, and waits that end as soon as their condition holds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from goplugins import HealthCheckConfig, HealthChecker, HealthStatus, PluginStatus
from goplugins.runtime.scheduler import Scheduler
from goplugins.testing import ManualClock

HEALTHY = HealthStatus(PluginStatus.HEALTHY)
DEGRADED = HealthStatus(PluginStatus.DEGRADED, "slow disk")
UNHEALTHY = HealthStatus(PluginStatus.UNHEALTHY, "no database")
OFFLINE = HealthStatus(PluginStatus.OFFLINE, "connection refused")
UNKNOWN = HealthStatus(PluginStatus.UNKNOWN, "no free connection")

Job = Callable[[], object]
Answer = HealthStatus | BaseException


class FakePlugin:
    """Answers health checks with a status or an exception; or hangs until it is released."""

    def __init__(self, answer: Answer = HEALTHY) -> None:
        self.answer = answer
        self.checks = 0
        self.timeouts: list[float] = []
        self.running = 0
        self.max_running = 0
        self.checked = threading.Event()
        self.hanging = threading.Event()
        self.released: threading.Event | None = None
        self._lock = threading.Lock()

    def hang(self) -> threading.Event:
        """From now on a check lasts until the returned event is set."""
        self.released = threading.Event()
        return self.released

    def health(self, timeout: float) -> HealthStatus:
        with self._lock:
            self.checks += 1
            self.timeouts.append(timeout)
            self.running += 1
            self.max_running = max(self.max_running, self.running)
        self.checked.set()
        try:
            if self.released is not None:
                self.hanging.set()
                self.released.wait(30.0)
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer
        finally:
            with self._lock:
                self.running -= 1


@contextmanager
def hanging(plugins: Sequence[FakePlugin]) -> Iterator[None]:
    """Checks of the plugins hang within the block and end after it."""
    events = [plugin.hang() for plugin in plugins]
    try:
        yield
    finally:
        for event in events:
            event.set()


def inline(job: Job) -> None:
    """Runs a job at once, in the place of a pool's ``submit``."""
    job()


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


def threads(prefix: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


CONFIG = HealthCheckConfig(enabled=True, interval=10.0, timeout=2.0, failure_limit=3)


class Bench:
    """A checker on a manual clock. Its checks run inline; with ``queue()`` they are kept in ``jobs``."""

    def __init__(self, plugin: FakePlugin | None = None, config: HealthCheckConfig = CONFIG) -> None:
        self.plugin = plugin or FakePlugin()
        self.jobs: list[Job] = []
        self.submit: Callable[[Job], object] = inline
        self.clock = ManualClock(auto_advance=False)
        self.scheduler = Scheduler(clock=self.clock, threaded=False)
        self.changes: list[tuple[str, str]] = []
        self.checker = HealthChecker(
            self.plugin,
            config,
            name="auth",
            clock=self.clock,
            on_change=lambda old, new: self.changes.append((str(old.status), str(new.status))),
            scheduler=self.scheduler,
            submit=lambda job: self.submit(job),  # noqa: PLW0108 - queue() replaces it
            rng=random.Random(1),
        )

    def queue(self) -> None:
        self.submit = self.jobs.append

    def check(self, answer: Answer | None = None) -> PluginStatus:
        if answer is not None:
            self.plugin.answer = answer
        return self.checker.check().status

    def pass_time(self, seconds: float) -> None:
        """Moves the clock in small steps, so that each check begins when it is due."""
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            self.scheduler.run_due()
