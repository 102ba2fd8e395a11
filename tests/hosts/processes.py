"""Processes of a server, read from /proc."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["adopt_orphans", "descendants", "links", "names"]


def _parents() -> dict[int, int]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:  # has ended meanwhile
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(entry)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    """The process and all its descendants."""
    parents = _parents()
    found = {pid} & set(parents)
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def adopt_orphans() -> None:
    """Makes this process the parent of orphaned descendants, so that :func:`descendants` finds them."""
    subreaper = 36  # PR_SET_CHILD_SUBREAPER
    assert ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0) == 0


def names(pids: Iterable[int]) -> dict[int, str]:
    """Command lines by process id, without processes that have ended."""
    found = {}
    for pid in pids:
        try:
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def links(pid: int) -> set[str]:
    """Open sockets and pipes of a process: ``socket:[4711]``."""
    found = set()
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            try:
                link = os.readlink(f"/proc/{pid}/fd/{entry}")
            except FileNotFoundError:  # closed meanwhile
                continue
            if link.startswith(("socket:", "pipe:")):
                found.add(link)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found
