"""Fork support: the process-wide list of locks and parts that a child process renews.

A fork waits for imports of other threads, since a child can't complete them. After ``os.fork`` Python runs the hook in
the child. A process that was forked by C code (uWSGI's workers, unless it is configured otherwise) runs no hook: its
first call finds that ``FORK_MARK`` is 0, and renews then.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import mmap
import os
import sys
import threading
import weakref
from functools import partial
from typing import Any, Final, Protocol

from goplugins.runtime.clock import SYSTEM_CLOCK, Waiter

logger = logging.getLogger("goplugins.processes")


class Forkable(Protocol):
    """A part whose threads, connections or counts a child process can't use. For locks see :func:`create_lock`."""

    def after_fork_in_child(self) -> None:
        """Renews them. Runs in the child, on its only thread; closes inherited descriptors, never shuts them down."""
        ...


# --- the mark --------------------------------------------------------------------------------------------------


class Mark(Protocol):
    """One byte: 1 in the process that has written it, 0 in its children."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class _MarkByPid:
    """For systems without MADV_WIPEONFORK: compares the process id at each read."""

    def __init__(self) -> None:
        self._pid = 0

    def __getitem__(self, index: int) -> int:
        return int(self._pid == os.getpid())

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid()


_WIPE_ON_FORK = 18  # MADV_WIPEONFORK, which the mmap module does not define
_NO_ADVICE = -1


def _page() -> Mark | None:
    """A page that the kernel zeroes in a child; reading it costs a tenth of ``os.getpid()``."""
    platform: str = sys.platform
    if platform != "linux":
        return None
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, ValueError):
        page.madvise(_NO_ADVICE)
        return None  # an emulator that accepts any advice and follows none
    try:
        page.madvise(_WIPE_ON_FORK)
    except (OSError, ValueError):  # a kernel before 4.14
        return None
    return memoryview(page)


FORK_MARK: Final[Mark] = _page() or _MarkByPid()
"""``if not FORK_MARK[0]: renew_after_fork()`` stands where a call or a method of the manager begins."""

FORK_MARK[0] = 1


# --- imports -----------------------------------------------------------------------------------------------------

_IMPORT_TIMEOUT = 5.0
"""Seconds that a fork waits for imports of other threads."""

_POLL_INTERVAL = 0.002

_unawaited: set[tuple[str, int]] = set()  # imports that have lasted longer; later forks do not wait for them


def _await_imports() -> None:
    """Before a fork: in a child, an import of another thread never ends, and blocks every later one of the module."""
    end = SYSTEM_CLOCK.monotonic() + _IMPORT_TIMEOUT
    while found := _imports_elsewhere() - _unawaited:
        if SYSTEM_CLOCK.monotonic() >= end:
            _unawaited.update(found)
            break
        Waiter().wait(_POLL_INTERVAL)


def _imports_elsewhere() -> set[tuple[str, int]]:
    """The modules that other threads are importing, each with its thread."""
    locks: Any = getattr(getattr(importlib, "_bootstrap", None), "_module_locks", {})  # CPython's, not public
    owners = {(name, getattr(lock(), "owner", None)) for name, lock in list(locks.items())}
    return {(name, owner) for name, owner in owners if owner not in (None, threading.get_ident())}


# --- renewed in a child ----------------------------------------------------------------------------------------

# Dicts, since their operations are atomic: another thread may be registering at the moment of the fork.
_forkables: dict[int, weakref.ref[Forkable]] = {}
_locks: dict[tuple[int, str], tuple[weakref.ref[Any], str]] = {}  # (id of the owner, attribute) -> owner, kind
_descriptors: dict[int, int] = {}  # descriptor -> inode
_renewal_locks: dict[int, threading.RLock] = {}  # process -> held by the thread that renews
_renewing: dict[int, bool] = {}  # process -> whether its renewal is under way
_renewed: dict[int, set[object]] = {}  # process -> keys of what is renewed, and is skipped after an interrupt
_hooked = False


def register_forkable(part: Forkable) -> None:
    """Has ``part.after_fork_in_child`` called in every child process, as long as ``part`` lives."""
    _add_hook()
    key = id(part)
    # All C: an interrupt that hits within a callback of Python's own is printed and lost.
    _forkables[key] = weakref.ref(part, partial(_forkables.pop, key))


def create_lock(owner: object, attribute: str = "_lock") -> threading.Lock:
    """A lock to be kept as ``owner.<attribute>``, where every child process finds an unlocked one.

    In a child the lock is replaced, before any :meth:`Forkable.after_fork_in_child` runs, and not released: the thread
    that forked may itself be inside ``with owner._lock``, and releases the lock that it took. Under gevent that holds
    for every greenlet, since all of them go on in the child.

    Args:
        owner: the object that keeps the lock; held weakly.
        attribute: the name under which it does.

    >>> class Tally:
    ...     def __init__(self):
    ...         self._lock = create_lock(self)
    >>> tally = Tally()
    >>> with tally._lock:
    ...     pass
    """
    _renew_in_children(owner, attribute, "Lock")
    return threading.Lock()


def create_rlock(owner: object, attribute: str = "_lock") -> threading.RLock:
    """A reentrant lock; otherwise as :func:`create_lock`."""
    _renew_in_children(owner, attribute, "RLock")
    return threading.RLock()


def _renew_in_children(owner: object, attribute: str, kind: str) -> None:
    _add_hook()
    key = (id(owner), attribute)
    _locks[key] = (weakref.ref(owner, partial(_locks.pop, key)), kind)


def _add_hook() -> None:
    global _hooked  # noqa: PLW0603 - the hook can be registered only once a process and never be removed
    if not _hooked:
        _hooked = True
        os.register_at_fork(before=_await_imports, after_in_child=renew_after_fork)


def close_in_children(descriptor: int) -> None:
    """Has a socket or pipe closed in children if it is still open then, and no part of theirs has closed it.

    For descriptors without an owner yet, such as a connection that another thread than the forking one is opening.
    Nothing has to be undone: a descriptor that was closed and reused before the fork is recognised by its inode.
    """
    _descriptors[descriptor] = os.fstat(descriptor).st_ino


def renew_after_fork() -> None:
    """Renews all locks and parts in a child, once; other threads of the child wait here until that is done."""
    # setdefault is atomic, and no thread held this process's own lock at its fork.
    lock = _renewal_locks.setdefault(os.getpid(), threading.RLock())
    with lock:
        # Set before: a log handler or signal handler may call a plugin on this very thread.
        if FORK_MARK[0] or _renewing.get(os.getpid()):
            return
        _renewing[os.getpid()] = True
        try:
            _renew()
        finally:
            _renewing.clear()


def _renew() -> None:
    done = _renewed.setdefault(os.getpid(), set())
    # The keys, which need no new objects: a garbage collection in between would change the dict.
    for place in list(_locks):
        found = _locks.get(place)
        owner = None if found is None else found[0]()
        if found is None or owner is None or place in done:
            continue
        setattr(owner, place[1], getattr(threading, found[1])())  # by name: gevent replaces these classes
        done.add(place)
    for key in list(_forkables):
        reference = _forkables.get(key)
        part = None if reference is None else reference()
        if part is None or key in done:
            continue
        try:
            part.after_fork_in_child()
        except Exception:
            logger.exception("could not renew %s after a fork", type(part).__name__)
        done.add(key)
    _close_inherited()
    _renewed.clear()
    for pid in set(_renewal_locks) - {os.getpid()}:
        del _renewal_locks[pid]
    FORK_MARK[0] = 1


def _close_inherited() -> None:
    """Closes the descriptors that a thread of the parent was opening."""
    noted = list(_descriptors.items())
    _descriptors.clear()
    left = []
    for descriptor, inode in noted:
        with contextlib.suppress(OSError):  # closed long ago
            if os.fstat(descriptor).st_ino == inode:
                left.append(descriptor)
    if not left:
        return
    try:
        null = os.open(os.devnull, os.O_RDWR)
    except OSError:
        logger.warning("connections of the parent process that stay open in this one: %d", len(left))
        return
    for descriptor in left:
        # The number stays taken: an object in a frame that will never run again may yet close it.
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)
