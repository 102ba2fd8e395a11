"""Interrupts (Ctrl-C, a worker's time limit): at every point where one can come, or at random on threads."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Interrupt", "alarms_interrupt", "interrupted", "interrupted_at", "swallowed_by_finalisers"]


class Interrupt(BaseException):
    """What breaks in: a host throws it into whatever code happens to run."""


@contextlib.contextmanager
def swallowed_by_finalisers() -> Iterator[None]:
    """Within the block, an interrupt that hits in a finaliser is told to nobody: there it can go nowhere.

    pytest's own hook formats a traceback on the very thread that is struck, where the next one may hit it.
    """
    told = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, Interrupt):
            told(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = told


class _Alarm:
    """Interrupts what the main thread does, by SIGALRM."""

    def __init__(self) -> None:
        self._armed = False

    def strike(self, *_: object) -> None:
        if self._armed:
            raise Interrupt

    def __call__(self, after: float, work: Callable[[], object], *, again: float = 0.0) -> bool:
        """Runs ``work`` with an interrupt after so many seconds; whether one came within it, and nowhere else.

        Args:
            after: seconds until the first one.
            work: what to interrupt.
            again: seconds between further ones; 0 for none. For work that ends by no other means: one that comes in
                the moment before a system call does not end that, and one in a finaliser is lost.
        """
        hit = False
        try:
            try:
                self._armed = True
                signal.setitimer(signal.ITIMER_REAL, after, again)
                work()
            finally:
                self._armed = False
        except Interrupt:
            hit = True
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        return hit


@contextlib.contextmanager
def alarms_interrupt() -> Iterator[_Alarm]:
    """Within the block, ``struck(seconds, work)`` throws an interrupt into whatever the main thread does then."""
    alarm = _Alarm()
    before = signal.signal(signal.SIGALRM, alarm.strike)
    try:
        with swallowed_by_finalisers():
            yield alarm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupted_at(number: int, work: Callable[[], object], within: tuple[str, ...] = ("",)) -> bool:
    """Runs ``work`` on this thread with an interrupt at its ``number``-th chance; False if it has fewer.

    Only code in files whose names end with one of ``within`` is interrupted: the test's own need not stand it.
    CPython looks for signals when it enters a Python function and when a C function has returned.
    """
    left = number

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        if event in {"call", "c_return"} and frame.f_code.co_filename.endswith(within):
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise Interrupt

    before = sys.getprofile()
    gc.disable()  # or it may hit in a finaliser, where Python swallows it
    sys.setprofile(profile)
    try:
        work()
    except Interrupt:
        return True
    finally:
        sys.setprofile(before)
        gc.enable()
    return left < 0


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
    with swallowed_by_finalisers():
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
