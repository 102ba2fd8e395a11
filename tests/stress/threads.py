"""Threads that start together, end together, and may be interrupted at any moment."""

from __future__ import annotations

import contextlib
import ctypes
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Interrupt", "interrupted", "run_threads"]


class Interrupt(BaseException):
    """What a host throws into whatever code happens to run."""


def run_threads(count: int, work: Callable[[int], Any], timeout: float = 60.0) -> list[Any]:
    """Runs ``work(0)`` to ``work(count - 1)``, each on a thread of its own, released at once; what they returned."""
    start = threading.Barrier(count)
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            start.wait()
            results[number] = work(number)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


class _Victim:
    """A thread that repeats an action, which may be interrupted anywhere; the rest of the thread may not."""

    def __init__(self, action: Callable[[], object], over: threading.Event) -> None:
        self.exposed = False  # whether an interrupt may be thrown now
        self.lock = threading.Lock()
        self.hit = self.done = 0
        self.error: BaseException | None = None
        self._action, self._over = action, over
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                try:
                    self.exposed = True
                    self._action()
                    self.done += 1
                finally:
                    self._cover()
            except Interrupt:
                self.hit += 1
            except BaseException as exc:
                self.error = exc
                return

    def _cover(self) -> None:
        while True:
            try:
                with self.lock:
                    self.exposed = False
                for _ in range(50):  # what was thrown before arrives here at the latest
                    pass
                return
            except Interrupt:
                self.hit += 1

    def strike(self) -> None:
        """Throws one interrupt into the action under way; a second one into its cleaning up would be too much."""
        with self.lock:
            if self.exposed and self.thread.ident is not None:
                self.exposed = False
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self.thread.ident), ctypes.py_object(Interrupt)
                )


@contextlib.contextmanager
def interrupted(action: Callable[[], object], *, threads: int, hits: int, seed: int = 1) -> Iterator[None]:
    """Repeats ``action`` on many threads while interrupts are thrown at them; the block begins when all are out."""
    rng, over = random.Random(seed), threading.Event()
    victims = [_Victim(action, over) for _ in range(threads)]
    pause = threading.Event()
    while sum(victim.hit for victim in victims) < hits:
        rng.choice(victims).strike()
        pause.wait(rng.random() * 2e-4)
        assert all(victim.error is None for victim in victims), [victim.error for victim in victims]
    over.set()
    for victim in victims:
        victim.thread.join(30)
        assert not victim.thread.is_alive(), "an interrupt left something that a thread waits for"
        assert victim.error is None, victim.error
    assert sum(victim.done for victim in victims) > 0
    yield
