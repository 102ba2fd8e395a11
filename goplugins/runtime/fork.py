"""What survives a fork, and how: the one piece of global state, a list of the parts that a child must renew.

A child is told of its fork by Python. A process that was forked by C code is told nothing (uWSGI's workers are, unless
it is asked otherwise): it finds out by ``FORK_MARK``, with the first call that it makes.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import sys
import threading
import weakref
from functools import partial
from typing import Final, Protocol

__all__ = ["FORK_MARK", "Forkable", "Mark", "keep_from_children", "register_forkable", "renew_after_fork"]

logger = logging.getLogger("goplugins.processes")


class Forkable(Protocol):
    """A part with locks, threads, connections or counts that a child process can't use."""

    def after_fork_in_child(self) -> None:
        """Renews them. Runs in the child, on its only thread; closes what it inherited, never shuts it down."""
        ...


# --- the mark --------------------------------------------------------------------------------------------------


class Mark(Protocol):
    """One byte: 1 in the process that has written it, 0 in its children."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class _MarkByPid:
    """For systems that can't empty a page: asks for the process's number each time."""

    def __init__(self) -> None:
        self._pid = 0

    def __getitem__(self, index: int) -> int:
        return int(self._pid == os.getpid())

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid()


_WIPE_ON_FORK = 18  # MADV_WIPEONFORK, which the mmap module does not name
_NO_ADVICE = -1


def _page() -> Mark | None:
    """Memory that the kernel empties in a child; to read it costs a tenth of asking for the process's number."""
    platform: str = sys.platform
    if platform != "linux":
        return None
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, ValueError):
        page.madvise(_NO_ADVICE)
        return None  # an emulator that takes any advice, and follows none
    try:
        page.madvise(_WIPE_ON_FORK)
    except (OSError, ValueError):  # an old kernel
        return None
    return memoryview(page)


FORK_MARK: Final[Mark] = _page() or _MarkByPid()
"""``if not FORK_MARK[0]: renew_after_fork()``: at the entrances, where a process first touches what it inherited."""

FORK_MARK[0] = 1


# --- what is renewed -------------------------------------------------------------------------------------------

# Dicts, since their operations are atomic: another thread may be registering at the moment of the fork.
_forkables: dict[int, weakref.ref[Forkable]] = {}
_descriptors: dict[int, int] = {}  # descriptor -> inode
_turns: dict[int, threading.RLock] = {}  # process -> held by the thread that renews
_renewing: dict[int, bool] = {}  # process -> whether it is at it
_renewed: dict[int, set[int]] = {}  # process -> the parts that it has done, and will not do again after an interrupt
_hooked = False


def register_forkable(part: Forkable) -> None:
    """Has ``part.after_fork_in_child`` called in every child process, as long as ``part`` lives."""
    global _hooked  # noqa: PLW0603 - the hook can be registered only once a process and never be taken back
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=renew_after_fork)
    key = id(part)
    # All C: an interrupt that hits within a callback of Python's own is printed and lost.
    _forkables[key] = weakref.ref(part, partial(_forkables.pop, key))


def keep_from_children(descriptor: int) -> None:
    """Has a socket or pipe closed in children if it is still open then, and none of their parts has done it.

    For what belongs to nobody yet, such as a connection that is being opened by another thread than the one that
    forks. Nothing has to be taken back: a descriptor that is something else by then is left alone.
    """
    _descriptors[descriptor] = os.fstat(descriptor).st_ino


def renew_after_fork() -> None:
    """Renews all parts in a child, once; threads that come meanwhile wait until that is done."""
    # setdefault is atomic, and this process's own lock was held by nobody at its fork.
    turn = _turns.setdefault(os.getpid(), threading.RLock())
    with turn:
        # Marked before: a log handler, or a signal's, may call a plugin on this very thread.
        if FORK_MARK[0] or _renewing.get(os.getpid()):
            return
        _renewing[os.getpid()] = True
        try:
            _renew()
        finally:
            _renewing.clear()


def _renew() -> None:
    done = _renewed.setdefault(os.getpid(), set())
    # Its keys, for which nothing has to be made: a collection amid that would change the dict.
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
    _let_go()
    _renewed.clear()
    for pid in set(_turns) - {os.getpid()}:
        del _turns[pid]
    FORK_MARK[0] = 1


def _let_go() -> None:
    """Closes what a thread of the parent's was opening."""
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
        nothing = os.open(os.devnull, os.O_RDWR)
    except OSError:
        logger.warning("%d connections of the parent process stay open in this one", len(left))
        return
    for descriptor in left:
        # The number stays taken: an object in a frame that will never run again may yet close it.
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)
