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

from goplugins.runtime.clock import Clock, Waiter
from goplugins.transports.exec.channel import ExecChannel, State
from goplugins.transports.exec.stderr_log import StderrLog

if TYPE_CHECKING:
    from goplugins.transports.exec.supervisor import Supervisor

__all__ = ["Handle", "Process"]


class Process:
    """A running plugin: its pipes, its process group, and how it ended.

    Callers speak to it and leave word when they let go of it. All else, closing its descriptors included, is done
    by the keeper on its own thread, where no signal's handler can interrupt it between two steps.

    Args:
        popen: the process, leader of its own session and group.
        stdin: our end of its stdin; does not block, like the two others.
        stdout: our end of its stdout.
        stderr: our end of its stderr.
        name: the plugin's.
        limit: bytes that a reply may have.
        patience: seconds that it has to come up.
        keeper: watches over it; the only one that reaps it.
        clock: measures.
        scrub: takes credentials out of what it prints.
        on_end: called by the keeper once it was reaped.

    Attributes:
        channel: its lines.
        stdin: our end; -1 once it is closed, like the three others.
        end_sign: a descriptor that becomes readable when it ends; -1 where the system has none, too.
        over: wakes whoever waits for its end.
        end: how it ended, in words; empty until it was reaped.
        fault: why it was killed; empty if it was not, or ended by itself.
        retired: whether it was asked to leave without a fault.
        timed_out: whether its last call ended at its deadline.
        failed: whether its last call failed for another reason, or it was no longer to be waited for.
        was_noisy: whether it wrote to stdout without being asked.
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
        limit: int,
        patience: float,
        keeper: Supervisor,
        clock: Clock,
        scrub: Callable[[str], str],
        on_end: Callable[[], None],
    ) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.name = name
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.end_sign = _end_sign(popen.pid)
        self.log = StderrLog(name, clock, scrub)
        self.over = Waiter()
        self.end = ""
        self.fault = ""
        self.retired = False
        self.timed_out = False
        self.failed = False
        self.was_noisy = False
        self.started = clock.monotonic()
        self._keeper = keeper
        self.on_end = on_end
        self._handle: weakref.ref[Handle] | None = None
        self._lock = threading.Lock()  # guards the pid from being signalled once it is another's
        self._reaped = False
        self.channel = ExecChannel(stdin, stdout, limit=limit, patience=patience, clock=clock)

    # --- for whoever has it ------------------------------------------------------------------------------------

    def held_by(self, handle: Handle) -> None:
        """Remembers who would have to let go of it."""
        self._handle = weakref.ref(handle)

    @property
    def is_lost(self) -> bool:
        """Whether nobody is left to let go of it."""
        return self._handle is not None and self._handle() is None

    def close(self) -> None:
        """Lets go of it: a clean one is asked to leave, any other is killed.

        A process that owes a reply may hold it back for as long as it likes, and would be one more than
        ``max_connections`` all that time.
        """
        if self.channel.clean or self.was_noisy:
            self.retired = not self.was_noisy
            self._keeper.order("leave", self)
        else:
            self._keeper.order("kill", self)

    def keep_starting(self) -> None:
        """Leaves it to the keeper for as long as it may still come up."""
        self.fault = ""
        self.timed_out = self.failed = False
        self.channel.set_starting()
        self._keeper.order("start", self)

    def lost(self) -> None:
        """Lets go of it where nobody did. Takes no lock: it runs wherever the collector happens to."""
        if self.channel.state is not State.LEAVING:
            self._keeper.order("lost", self)

    def is_dead(self) -> bool:
        """Whether an idle process can't be used any more."""
        if self.channel.state is State.LEAVING:
            self.channel.clean = False
            return True
        if self.channel.state is State.STARTING:
            return False  # what it has written is the reply that it owes
        found = self.channel.look()
        if found & select.POLLIN:
            self.found_noisy()
        return bool(found)

    def found_noisy(self) -> None:
        """Notes why it will not be called any more. It owes nothing, so it may leave in peace."""
        self.was_noisy = True
        self.fault = "it wrote to stdout without being asked"

    def signal(self, number: int) -> None:
        """Signals the whole group, unless it is gone. Takes the lock."""
        with self._lock:
            if not self._reaped:
                # PermissionError: some systems say so of a group that is all zombies.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)

    def abandon(self) -> None:
        """Kills and reaps a process that nobody watches yet."""
        self.signal(signal.SIGKILL)
        self.bury()
        self.close_all()

    # --- for the keeper ----------------------------------------------------------------------------------------

    def bury(self) -> None:
        """Reaps it, once it has ended. Takes the lock."""
        with self._lock:
            if not self._reaped:
                code = self.popen.wait()
                self._reaped = True
                self.end = _words(code)
        self.over.set()

    def has_ended(self) -> bool:
        """Whether it has ended, for systems without ``end_sign``. Takes the lock."""
        with self._lock:
            return self._reaped or self.popen.poll() is not None

    # Each number is forgotten before it is closed: closed twice, it may be what somebody else has opened meanwhile.

    def close_pipes(self) -> None:
        """Closes our ends of stdin and stdout."""
        stdin, self.stdin = self.stdin, -1
        stdout, self.stdout = self.stdout, -1
        _close(stdin, stdout)

    def close_stdin(self) -> None:
        """Tells it that no more calls will come."""
        stdin, self.stdin = self.stdin, -1
        _close(stdin)

    def close_signs(self) -> None:
        """Closes what is watched of it."""
        stderr, self.stderr = self.stderr, -1
        end_sign, self.end_sign = self.end_sign, -1
        _close(stderr, end_sign)

    def close_all(self) -> None:
        """Closes all its descriptors."""
        self.close_pipes()
        self.close_signs()

    def forget(self) -> None:
        """In a forked child: neither speaks to it nor signals nor reaps it, now or at any later time."""
        self._lock = threading.Lock()
        self._reaped = True
        self.popen.returncode = 0  # or it would look for a child that it has not, and warn of it
        self.channel.renew()
        self.close_all()


class Handle:
    """The pool's hold on a process. One that is lost, as by a call that was interrupted, lets go of its process."""

    __slots__ = ("__weakref__", "channel", "process")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.channel = process.channel
        process.held_by(self)
        weakref.finalize(self, process.lost).atexit = False

    def drop(self) -> None:
        """Nothing: the keeper has closed this process's descriptors by itself, in a forked child."""

    def is_dead(self) -> bool:
        """See :meth:`Process.is_dead`."""
        return self.process.is_dead()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


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
