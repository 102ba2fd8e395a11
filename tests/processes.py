"""Child processes of the test's own process. Other workers of the same run start programs of the same name."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["children"]


def children(command: str = "") -> set[int]:
    """Process ids of the children of this process, zombies included.

    Args:
        command: only those whose command line contains this; a zombie has none.
    """
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
        except OSError:  # the thread has just ended
            continue
    return {pid for pid in found if command in _command_line(pid)} if command else found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
