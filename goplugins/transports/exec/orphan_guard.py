"""Kills plugin processes whose host was killed: a shell process that waits for the host's end.

A killed host closes its pipes and does nothing else. Most plugins exit at the end of their stdin. For those that
don't, the orphan guard reads from one more pipe, and kills all registered process groups when that pipe ends. It is a
shell, since a host's ``sys.executable`` need not be a Python, and since a shell starts in a millisecond.
(A parent-death signal would do less: it is sent when the *thread* that started a process ends, does not reach
grandchildren, and can't be set without code that runs between fork and exec.)
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading

from goplugins.transports.exec import sigpipe
from goplugins.transports.exec.popen import popen_class

logger = logging.getLogger("goplugins.exec")

_END_TIMEOUT = 1.0
"""Seconds to wait for the end of a killed guard."""

_SHELL = "/bin/sh"
_SCRIPT = """
groups=
while read -r what group; do
    case $what in
    +) groups="$groups $group" ;;
    -)
        rest=
        for one in $groups; do [ "$one" = "$group" ] || rest="$rest $one"; done
        groups=$rest
        ;;
    esac
done
[ -n "$groups" ] || exit 0
for one in $groups; do kill -s TERM -- "-$one"; done
sleep 1
for one in $groups; do kill -s KILL -- "-$one"; done
"""


class OrphanGuard:
    """The guard process and the process groups registered with it; one per host process, started at first use.

    Used by start threads and by the supervisor thread, never by a caller's thread: no signal handler interrupts it.

    Attributes:
        shell: the guard process; None before the first group.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self.shell: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._warned = False

    def protect(self, group: int) -> None:
        """Registers a process group, to be killed when this process ends in any way. Takes the lock."""
        # The lock is held while the guard starts: a second thread must not return before its group is registered.
        with self._lock:
            self._groups.add(group)
            self._send(f"+ {group}\n")

    def release(self, group: int) -> None:
        """Removes a group; called before its number can be reused. Takes the lock."""
        with self._lock:
            self._groups.discard(group)
            if self._pipe >= 0:
                self._send(f"- {group}\n")

    def _send(self, line: str) -> None:
        """Writes to the guard, and to a new one if it was killed or is stuck. Expects the lock; never blocks."""
        if self._pipe >= 0:
            with contextlib.suppress(OSError):
                if sigpipe.write(self._pipe, line.encode()) == len(line):
                    return
        self._stop()
        try:
            self._start()
        except OSError as exc:
            self._stop()
            if not self._warned:
                self._warned = True
                logger.warning(
                    "the orphan guard process could not be started (%s): if this process is killed, plugins that "
                    "ignore the end of their stdin keep running",
                    exc,
                )

    def _start(self) -> None:
        reader, self._pipe = os.pipe()
        try:
            self.shell = popen_class()(
                [_SHELL, "-c", _SCRIPT],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.defpath},
                cwd="/",
                start_new_session=True,  # out of reach of signals to the host's group or terminal
            )
        finally:
            os.close(reader)
        os.set_blocking(self._pipe, False)
        sigpipe.write(self._pipe, "".join(f"+ {group}\n" for group in self._groups).encode())

    def _stop(self) -> None:
        pipe, self._pipe = self._pipe, -1
        shell, self.shell = self.shell, None
        if shell is not None:
            shell.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # a process in the kernel may not end at once
                shell.wait(_END_TIMEOUT)
        if pipe >= 0:
            os.close(pipe)

    def detach(self) -> None:
        """Lets the guard outlive this process without a ResourceWarning."""
        if self.shell is not None:
            self.shell.returncode = 0

    def after_fork_in_child(self) -> None:
        """Forgets the parent's guard, which waits for the parent's end and not for this process's."""
        self._lock = threading.Lock()
        self._groups = set()
        self.detach()
        self.shell = None
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            os.close(pipe)
