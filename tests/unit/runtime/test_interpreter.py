"""At which points of Python code CPython raises an exception of a signal handler, or of another thread.

"No call between these lines" in goplugins relies on it. Signal handlers run, and an exception that
PyThreadState_SetAsyncExc sent is raised, only where the interpreter checks its eval breaker:

- when a Python function begins, also one that an operator, a property or a finaliser runs,
- after a call of C code has returned (after some builtin functions, such as len(), only while the code is cold),
- at a backward jump, which ends each round of a loop.

Signal handlers run also in C code that checks for signals itself: conversion to text by str(), repr() or an f-string,
regular expressions, arithmetic with very long integers, system calls that wait.

Assignments, comparisons, arithmetic, `if`, `raise`, `except`, `return`, and acquiring a C lock by `with` are none of
these: an interrupt that was sent before them is raised after them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.interrupts import Interrupt


class BySignal(int):
    """An integer whose attribute ``send`` sends the signal of that number, without a call in the bytecode."""

    send = property(ctypes.PyDLL(None)["raise"])


class ByThread(int):
    """The same for an exception as another thread sends it. The C function ignores its third argument, the integer."""

    send = property(
        functools.partial(
            ctypes.pythonapi.PyThreadState_SetAsyncExc,
            ctypes.c_ulong(threading.main_thread().ident or 0),
            ctypes.py_object(Interrupt),
        )
    )


@pytest.fixture(params=[BySignal, ByThread])
def sender(request: pytest.FixtureRequest) -> Iterator[Any]:
    def on_signal(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, on_signal)
    yield request.param(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


def compiled(statement: str) -> Callable[..., None]:
    """A function that sends an interrupt, runs the statement and then sets ``seen.behind``."""
    lines = "".join(f"    {line}\n" for line in statement.split("\n"))
    scope: dict[str, Any] = {}
    exec(
        f"def run(sender, seen, number, mapping, lock, function):\n    sender.send\n{lines}    seen.behind = True\n",
        scope,
    )
    run: Callable[..., None] = scope["run"]
    return run


def is_raised_in(statement: str, sender: Any, lock: Any) -> bool:
    """Whether an interrupt that is pending before the statement is raised in it, and not behind it."""
    run = compiled(statement)
    seen = SimpleNamespace(behind=False)
    try:
        run(sender, seen, 1, {"a": 1}, lock, lambda: None)
        os.getpid()  # a call of C code: raised here at the latest
    except Interrupt:
        return not seen.behind
    raise AssertionError("no interrupt was raised")


@pytest.mark.parametrize(
    "statement",
    [
        "a = b = number",
        "a, b = number, seen",
        "seen.value = number",
        "number += 1",
        "mapping['b'] = mapping['a']",
        "del mapping['a']",
        "a = number > 0 and seen is not None",
        "if number: a = 1\nelse: a = 2",
        "a = f'{\"text\"}'",
        "a = [number, {number: seen}]",
        "try: raise KeyError\nexcept KeyError: a = 1",
        "try: a = 1\nfinally: a = 2",
        "def inner(): pass",
        "if number:\n    seen.behind = True\n    return",
    ],
)
def test_not_raised_in(statement: str, sender: Any) -> None:
    assert not is_raised_in(statement, sender, threading.Lock())


@pytest.mark.parametrize(
    "statement",
    [
        "function()",
        "mapping.get('a')",
        "lock.acquire(False)",
        "for _ in (1,): pass",
        "while number < 3: number += 1",
        "a = [each for each in (1,)]",
    ],
)
def test_raised_in(statement: str, sender: Any) -> None:
    assert is_raised_in(statement, sender, threading.Lock())


@pytest.mark.parametrize("statement", ["a = f'{number}'", "a = f'{mapping!r}'"])
def test_signal_handlers_run_in_conversions_to_text(statement: str, sender: Any) -> None:
    assert is_raised_in(statement, sender, threading.Lock()) == isinstance(sender, BySignal)


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_a_lock_is_entered_and_left_whole(kind: Callable[[], Any], sender: Any) -> None:
    """Between the lock's acquisition and the first line of the block nothing is raised; after its release it is."""
    lock = kind()
    run = compiled("with lock:\n    seen.within = True")
    seen = SimpleNamespace(within=False, behind=False)
    with pytest.raises(Interrupt):
        run(sender, seen, 1, {}, lock, None)
    assert (seen.within, seen.behind) == (True, False)
    assert lock.acquire(blocking=False)


def test_a_call_of_c_code_has_done_its_work_when_it_is_raised(sender: Any) -> None:
    """So what the call returns is lost: a lock that `acquire()` took, an item that `pop()` removed."""
    lock = threading.Lock()
    assert is_raised_in("a = lock.acquire()", sender, lock)
    assert lock.locked()
