"""Finds every lock that can be reached from some objects, and has another thread hold it."""

from __future__ import annotations

import _queue
import _thread
import contextlib
import gc
import queue
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any

LOCKS = (_thread.LockType, _thread.RLock, _queue.SimpleQueue)
_NOT_ENTERED = (types.ModuleType, types.FrameType, types.CodeType, threading.Thread, str, bytes, int, float)


def package_globals() -> list[Any]:
    """Globals of the package's modules."""
    return [vars(module) for name, module in list(sys.modules.items()) if name.split(".")[0] == "goplugins"]


def find(roots: Iterable[Any]) -> dict[str, list[Any]]:
    """All locks that the objects refer to, by ``class.attribute`` of the nearest object of this package.

    Left out are modules and classes of other packages, and grpc's channels: a fork waits for all calls that may hold a
    lock of those, or calls in the child fail with a reason.
    """
    foreign = {id(vars(module)) for name, module in list(sys.modules.items()) if name.split(".")[0] != "goplugins"}
    found: dict[str, list[Any]] = {}
    seen = {id(found)}
    waiting: list[tuple[Any, str]] = [(root, "") for root in roots]
    while waiting:
        thing, owner = waiting.pop()
        if id(thing) in seen or id(thing) in foreign or isinstance(thing, _NOT_ENTERED):
            continue
        seen.add(id(thing))
        if isinstance(thing, LOCKS):
            found.setdefault(owner, []).append(thing)
            continue
        if type(thing).__module__.startswith("grpc"):
            continue
        if isinstance(thing, type) and not str(thing.__module__).startswith("goplugins"):
            continue
        ours = type(thing).__module__.startswith("goplugins")
        attributes = _attributes(thing)
        seen.add(id(getattr(thing, "__dict__", None)))
        waiting += [(part, owner) for part in gc.get_referents(thing)]
        # Last in, first out: so they are found under their own names.
        waiting += [(value, f"{_name(thing)}.{name}" if ours else owner) for name, value in attributes.items()]
    return found


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _attributes(thing: Any) -> dict[str, Any]:
    if isinstance(thing, dict | list | tuple | set | frozenset | type | types.FunctionType | types.MethodType):
        return {}
    found = dict(getattr(thing, "__dict__", {}))
    for kind in type(thing).__mro__:
        for slot in getattr(kind, "__slots__", ()):
            with contextlib.suppress(AttributeError):
                found[slot] = getattr(thing, slot)
    return found


def stuck(found: dict[str, list[Any]]) -> list[str]:
    """Names of the locks that can't be acquired now, without those that a waiting thread holds until it is woken."""
    return [
        name
        for name, locks in sorted(found.items())
        if not name.endswith(".Waiter._asleep")
        and any(hasattr(lock, "acquire") and not lock.acquire(blocking=False) for lock in locks)
    ]


@contextlib.contextmanager
def held(locks: Iterable[Any], longest: float = 1.5) -> Iterator[None]:
    """Another thread holds all of them within the block, for ``longest`` seconds at most."""
    ready, over = threading.Event(), threading.Event()

    def work() -> None:
        taken = [lock for lock in locks if hasattr(lock, "acquire") and lock.acquire(timeout=0.2)]
        ready.set()
        for each in locks:
            if hasattr(each, "get"):
                with contextlib.suppress(queue.Empty):
                    each.put(each.get(timeout=0.3))  # within, a queue's own lock is held
        over.wait(longest)
        for lock in taken:
            lock.release()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(10)
    try:
        yield
    finally:
        over.set()
        thread.join()
