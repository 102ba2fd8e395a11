"""One plugin process as a connection of the pool."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from goplugins._clock import Clock
from goplugins.transports._lines import LineChannel
from goplugins.transports.exec._stderr import StderrLog

if TYPE_CHECKING:
    from goplugins.transports.exec._keeper import Keeper

__all__ = ["Handle", "Process"]


class Process:
    """A running plugin: its pipes, its process group, and how it ended.

    Args:
        popen: the process, leader of its own session and group.
        stdin: our end of its stdin; does not block, like the two others.
        stdout: our end of its stdout.
        stderr: our end of its stderr; read by the keeper.
        name: the plugin's.
        keeper: watches over it; the only one that reaps it.
        clock: measures.

    Attributes:
        channel: its lines.
        end_sign: a descriptor that becomes readable when it ends; -1 where the system has none.
        over: set once it has ended and was reaped.
        end: how it ended, in words.
        fault: why it was killed; empty if it was not, or ended by itself.
        retired: whether it was asked to leave without a fault.
        started: when, on the clock's monotonic scale.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        stdin: int,
        stdout: int,
        stderr: int,
        *,
        name: str,
        keeper: Keeper,
        clock: Clock,
        scrub: Callable[[str], str],
    ) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.name = name
        self.stderr = stderr
        self.end_sign = _end_sign(popen.pid)
        self.log = StderrLog(name, clock, scrub)
        self.over = threading.Event()
        self.end = ""
        self.fault = ""
        self.retired = False
        self.started = clock.monotonic()
        self._pipes: tuple[int, ...] = (stdin, stdout)
        self._keeper = keeper
        self._lock = threading.Lock()  # guards the pid from being signalled once it is another's
        self._reaped = False
        self.channel = LineChannel(
            stdout, stdin, lambda size: os.read(stdout, size), lambda data: os.write(stdin, data), clock
        )

    def close(self) -> None:
        """Lets go of it: a clean one is asked to leave, any other is killed at once.

        A process that owes a reply may hold it back for as long as it likes, and would be one more than
        ``max_connections`` all that time.
        """
        clean = self.channel.clean
        self._close_pipes()
        if clean:
            self.retired = True
            self._keeper.stop(self)
        else:
            self.signal(signal.SIGKILL)

    def _close_pipes(self) -> None:
        pipes, self._pipes = self._pipes, ()
        for descriptor in pipes:
            os.close(descriptor)

    def lost(self) -> None:
        """Lets go of it where nobody did. Takes no lock: it runs wherever the collector happens to."""
        if self._pipes:
            self.fault = "its call was interrupted"
            self._close_pipes()
            self._keeper.stop(self)

    def drop(self) -> None:
        """Closes this process's descriptors of the pipes: after a fork, the plugin is the parent's."""
        self._close_pipes()

    def signal(self, number: int) -> None:
        """Signals the whole group, unless it is gone. Takes the lock."""
        with self._lock:
            if not self._reaped:
                # PermissionError: some systems say so of a group that is all zombies.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)

    def is_dead(self) -> bool:
        """Whether an idle process can't be used any more."""
        found = self.channel.look()
        if found & select.POLLIN:
            self.fault = "it wrote to stdout without being asked"
        return bool(found)

    def abandon(self) -> None:
        """Kills and reaps a process that nobody watches yet."""
        self._close_pipes()
        self.signal(signal.SIGKILL)
        self.bury()

    # --- for the keeper ----------------------------------------------------------------------------------------

    def bury(self) -> None:
        """Reaps it, once it has ended. Takes the lock."""
        with self._lock:
            if not self._reaped:
                code = self.popen.wait()
                self._reaped = True
                self.end = _words(code)
        self._close_signs()
        self.over.set()

    def has_ended(self) -> bool:
        """Whether it has ended, for systems without ``end_sign``. Takes the lock."""
        with self._lock:
            return self._reaped or self.popen.poll() is not None

    def _close_signs(self) -> None:
        # Taken in one step each: closing a number twice may close what somebody else has opened meanwhile.
        stderr, self.stderr = self.stderr, -1
        end_sign, self.end_sign = self.end_sign, -1
        for descriptor in (stderr, end_sign):
            if descriptor >= 0:
                os.close(descriptor)

    def forget(self) -> None:
        """In a forked child: neither signals nor reaps, now or at any later time."""
        self._lock = threading.Lock()
        self._reaped = True
        self.popen.returncode = 0  # or it would look for a child that it has not, and warn of it
        self.drop()
        self._close_signs()


class Handle:
    """The pool's hold on a process. One that is lost, as by a call that was interrupted, lets go of its process."""

    __slots__ = ("__weakref__", "channel", "process")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.channel = process.channel
        weakref.finalize(self, process.lost).atexit = False

    def drop(self) -> None:
        """See :meth:`Process.drop`."""
        self.process.drop()

    def is_dead(self) -> bool:
        """See :meth:`Process.is_dead`."""
        return self.process.is_dead()


def _end_sign(pid: int) -> int:
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or a sandbox that forbids it
        return -1


def _words(code: int) -> str:
    if code >= 0:
        return f"it ended with exit status {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
