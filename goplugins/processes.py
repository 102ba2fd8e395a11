"""What survives a fork, and how: the one piece of global state, a list of the parts that a child must renew."""

from __future__ import annotations

import logging
import os
import weakref
from functools import partial
from typing import Protocol

__all__ = ["Forkable", "register_forkable"]

logger = logging.getLogger("goplugins.processes")


class Forkable(Protocol):
    """A part with locks, threads, connections or counts that a child process can't use."""

    def after_fork_in_child(self) -> None:
        """Renews them. Runs in the child, on its only thread; closes what it inherited, never shuts it down."""
        ...


# A dict, since its operations are atomic: another thread may be registering at the moment of the fork.
_forkables: dict[int, weakref.ref[Forkable]] = {}
_hooked = False


def register_forkable(part: Forkable) -> None:
    """Has ``part.after_fork_in_child`` called in every child process, as long as ``part`` lives."""
    global _hooked  # noqa: PLW0603 - the hook can be registered only once a process and never be taken back
    if not _hooked:
        _hooked = True
        os.register_at_fork(after_in_child=_renew_all)
    key = id(part)
    # All C: an interrupt that hits within a callback of Python's own is printed and lost.
    _forkables[key] = weakref.ref(part, partial(_forkables.pop, key))


def _renew_all() -> None:
    for reference in list(_forkables.values()):
        part = reference()
        if part is None:
            continue
        try:
            part.after_fork_in_child()
        except Exception:
            logger.exception("could not renew %s after a fork", type(part).__name__)
