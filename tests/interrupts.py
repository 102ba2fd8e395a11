"""Interrupts (Ctrl-C, a worker's time limit): at each point where one can be raised, or at random on threads."""

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
    """Stands for an exception that an application throws into the code that runs, whatever that is."""


@contextlib.contextmanager
def swallowed_by_finalisers() -> Iterator[None]:
    """Within the block, an interrupt that is raised in a finaliser is not reported: Python can't propagate it there.

    pytest's own hook formats a traceback on the interrupted thread, where the next interrupt may be raised.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, Interrupt):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


class _Alarm:
    """Interrupts the main thread by SIGALRM."""

    def __init__(self) -> None:
        self._armed = False

    def on_signal(self, *_: object) -> None:
        if self._armed:
            raise Interrupt

    def __call__(self, after: float, work: Callable[[], object], *, again: float = 0.0) -> bool:
        """Runs ``work`` with an interrupt after so many seconds; returns whether one was raised within ``work``.

        Args:
            after: seconds until the first one.
            work: what to interrupt.
            again: seconds between further ones; 0 for none. For work that ends by no other means: a signal that
                arrives just before a system call does not end that, and one in a finaliser is lost.
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
    """Yields a function ``alarm(seconds, work)`` that interrupts ``work`` on the main thread."""
    alarm = _Alarm()
    before = signal.signal(signal.SIGALRM, alarm.on_signal)
    try:
        with swallowed_by_finalisers():
            yield alarm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupted_at(number: int, work: Callable[[], object], within: tuple[str, ...] = ("",)) -> bool:
    """Runs ``work`` on this thread with an interrupt at its ``number``-th chance; False if it has fewer.

    Only code in files whose names end with one of ``within`` is interrupted, so that the test's own code is not.
    CPython handles signals when a Python function begins, after a call of C code, and at backward jumps: see
    tests/unit/runtime/test_interpreter.py.
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
    gc.disable()  # or it may be raised in a finaliser, where Python discards it
    sys.setprofile(profile)
    try:
        work()
    except Interrupt:
        return True
    finally:
        sys.setprofile(before)
        gc.enable()
    return left < 0


class _InterruptedThread:
    """A thread that repeats an action. Interrupts are raised anywhere in the action, and not in the rest of it."""

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
                for _ in range(50):  # an interrupt that was sent before is raised here at the latest
                    pass
                return
            except Interrupt:
                self.hit += 1

    def interrupt(self) -> None:
        """Sends one interrupt to the action under way, and no second one, which might hit its cleanup."""
        with self.lock:
            if self.exposed and self.thread.ident is not None:
                self.exposed = False
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self.thread.ident), ctypes.py_object(Interrupt)
                )


@contextlib.contextmanager
def interrupted(action: Callable[[], object], *, threads: int, hits: int, seed: int = 1) -> Iterator[None]:
    """Repeats ``action`` on many threads and interrupts them; the block begins when all threads have ended."""
    rng, over = random.Random(seed), threading.Event()
    with swallowed_by_finalisers():
        victims = [_InterruptedThread(action, over) for _ in range(threads)]
        pause = threading.Event()
        while sum(victim.hit for victim in victims) < hits:
            rng.choice(victims).interrupt()
            pause.wait(rng.random() * 2e-4)
            assert all(victim.error is None for victim in victims), [victim.error for victim in victims]
        over.set()
        for victim in victims:
            victim.thread.join(30)
            assert not victim.thread.is_alive(), "an interrupt left something that a thread waits for"
            assert victim.error is None, victim.error
    assert sum(victim.done for victim in victims) > 0
    yield
