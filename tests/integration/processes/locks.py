"""Finds every lock that can be reached from some objects, and holds them."""

from __future__ import annotations

import _queue
import _thread
import contextlib
import gc
import sys
import threading
import types
from collections.abc import Iterable
from typing import Any

LOCKS = (_thread.LockType, _thread.RLock, _queue.SimpleQueue)
_NOT_ENTERED = (types.ModuleType, types.FrameType, types.CodeType, threading.Thread, str, bytes, int, float)


def package_globals() -> list[Any]:
    """What the package's modules hold."""
    return [vars(module) for name, module in list(sys.modules.items()) if name.split(".")[0] == "goplugins"]


def find(roots: Iterable[Any]) -> dict[str, list[Any]]:
    """All locks within reach, by where they are: ``class.attribute`` of the nearest object that has a name for them.

    Entered is whatever the objects refer to, save other packages' modules and classes: what those hold is theirs.
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
        if isinstance(thing, type) and not str(thing.__module__).startswith("goplugins"):
            continue
        ours = type(thing).__module__.startswith("goplugins")
        attributes = _attributes(thing)
        seen.add(id(getattr(thing, "__dict__", None)))
        waiting += [(part, owner) for part in gc.get_referents(thing)]
        # Last, so that they are looked at first, under their own names.
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
