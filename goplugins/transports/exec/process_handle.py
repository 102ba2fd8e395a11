"""One plugin process, as a connection of the pool."""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable

from goplugins.errors import ConnectionLostError, PluginError, PluginTimeoutError, TruncatedReplyError
from goplugins.runtime.clock import Clock, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.transports.exec.channel import ExecChannel, State
from goplugins.transports.exec.stderr_log import StderrLog

_END_TIMEOUT = 0.05
"""Seconds that a failed call waits for the end of its process: pipes close a moment before."""


class Command(enum.Enum):
    """A command to the supervisor thread about one process."""

    WATCH = "watch"
    AWAIT_START = "await start"
    END_LOST = "end lost"
    CLOSE = "close"
    KILL = "kill"


class Process:
    """A running plugin process: its pipes, its process group, and how it ended.

    Callers exchange lines with it and post a command when they are done. Everything else, including closing the
    descriptors, runs on the supervisor thread, where no signal handler can interrupt it between two steps.

    Args:
        popen: the process; leader of its own session and process group.
        stdin: our end of its stdin; non-blocking, like the next two.
        stdout: our end of its stdout.
        stderr: our end of its stderr.
        name: the plugin's name.
        limit: maximum bytes of a reply.
        start_timeout: seconds from its start until it must have answered its first request.
        post: sends a command to the supervisor, which alone reaps the process; takes no lock.
        clock: source of time.
        scrub: removes credentials from what it prints.
        on_reaped: called by the supervisor thread once it was reaped.

    Attributes:
        channel: exchanges lines with it.
        stdin: our end; -1 once closed, like the next three.
        pidfd: becomes readable when it ends; -1 also where the system has no such descriptor.
        ended: set once it was reaped.
        end: how it ended, as text; empty until it was reaped.
        fault: why goplugins ended it; empty if it did not, or if the process ended on its own.
        closing: whether it was closed after use; it may take some time to exit.
        closed_normally: whether it was closed without a fault.
        timed_out: whether its last call ended at the deadline.
        failed: whether its last call failed otherwise, or its start timeout has passed.
        wrote_unasked: whether it wrote to stdout outside of a call.
        started: time of its start, on the clock's monotonic scale.
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
        start_timeout: float,
        post: Callable[[Command, Process], None],
        clock: Clock,
        scrub: Callable[[str], str],
        on_reaped: Callable[[], None],
    ) -> None:
        self.popen = popen
        self.pid = popen.pid
        self.name = name
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.pidfd = _pidfd(popen.pid)
        self.log = StderrLog(name, clock, scrub)
        self.ended = Waiter()
        self.end = ""
        self.fault = ""
        self.closing = False
        self.closed_normally = False
        self.timed_out = False
        self.failed = False
        self.wrote_unasked = False
        self.started = clock.monotonic()
        self.on_reaped = on_reaped
        self._post = post
        self._handle: weakref.ref[Handle] | None = None
        self._lock = threading.Lock()  # no signal may be sent once the pid can belong to another process
        self._reaped = False
        self.channel = ExecChannel(
            stdin, stdout, limit=limit, start_timeout=start_timeout, clock=clock, pidfd=self.pidfd
        )

    # --- for the owner of the handle ---------------------------------------------------------------------------

    def attach(self, handle: Handle) -> None:
        """Records the handle whose loss ends the process."""
        self._handle = weakref.ref(handle)

    @property
    def is_lost(self) -> bool:
        """Whether its handle was garbage collected without having been closed."""
        return self._handle is not None and self._handle() is None

    def close(self, *, at_once: bool = False) -> None:
        """Closes it after use: a process that owes no reply may exit on its own, any other is killed.

        A process that owes a reply could delay it indefinitely, and would exceed ``max_connections`` meanwhile.

        Args:
            at_once: kills it in any case.
        """
        self.closing = True
        channel = self.channel
        if channel.surplus:
            self.set_wrote_unasked()
        # Gone without a fault: it has closed its output before it has read the request, and is about to exit.
        in_order = channel.clean or self.wrote_unasked or (channel.gone and not self.fault and not channel.sent)
        if in_order and not at_once:
            self.closed_normally = not self.wrote_unasked
            self._post(Command.CLOSE, self)
        else:
            too_many = "too many processes of the plugin were about to exit"
            self.fault = self.fault or (too_many if in_order else "it was closed before it had answered")
            self._post(Command.KILL, self)

    def keep_starting(self) -> None:
        """Hands it to the supervisor until it has started, failed or timed out."""
        self.fault = ""
        self.timed_out = self.failed = False
        self.channel.set_starting()
        self._post(Command.AWAIT_START, self)

    def lost(self) -> None:
        """Finalizer of the handle. Takes no lock: the garbage collector may run it at any point of any thread."""
        if self.channel.state is not State.CLOSED:
            self._post(Command.END_LOST, self)

    @property
    def failure(self) -> str:
        """Why it ended, if it neither exited with status 0 nor was closed in order; empty while it runs."""
        return "" if self.closed_normally or not self.popen.returncode else self.fault or self.end

    @property
    def is_waiting(self) -> bool:
        """Whether it sleeps, as in a read from an empty pipe. Always False where the system does not say so."""
        try:
            with open(f"/proc/{self.pid}/stat", encoding="utf-8", errors="replace") as stat:
                return stat.read().rpartition(") ")[2][:1] == "S"
        except OSError:
            return False

    def is_dead(self) -> bool:
        """Whether an idle process can't be used any more."""
        if self.channel.state is State.CLOSED:
            self.channel.clean = False
            return True
        if self.channel.state is State.STARTING:
            return False  # its output is the reply to its first request
        found = self.channel.poll_idle()
        if found & select.POLLIN:
            self.set_wrote_unasked()
        return bool(found)

    def set_wrote_unasked(self) -> None:
        """Records why it is not called any more. It owes no reply, so it is closed and not killed."""
        self.wrote_unasked = True
        self.fault = "it wrote to stdout outside of a call"

    def signal(self, number: int) -> None:
        """Sends a signal to the whole process group, unless it was reaped. Takes the lock."""
        with self._lock:
            if not self._reaped:
                # PermissionError: some systems report it for a group of zombies.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)

    def kill_and_reap(self) -> None:
        """Ends a process that the supervisor does not watch yet."""
        self.signal(signal.SIGKILL)
        self.reap()
        self.close_all()

    # --- for the supervisor ------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Waits for its exit status; called once it has ended. Takes the lock."""
        with self._lock:
            if not self._reaped:
                code = self.popen.wait()
                self._reaped = True
                self.end = _describe(code)
        self.ended.set()

    def has_ended(self) -> bool:
        """Whether it has ended, for systems without ``pidfd``. Takes the lock."""
        with self._lock:
            return self._reaped or self.popen.poll() is not None

    # Each number is forgotten before it is closed: closing it twice could close a file opened by another thread.

    def close_pipes(self) -> None:
        """Closes our ends of stdin and stdout."""
        stdin, self.stdin = self.stdin, -1
        stdout, self.stdout = self.stdout, -1
        _close(stdin, stdout)

    def close_stdin(self) -> None:
        """Signals the end of input: no more calls will come."""
        stdin, self.stdin = self.stdin, -1
        _close(stdin)

    def close_stderr(self) -> None:
        """Closes our end of stderr."""
        stderr, self.stderr = self.stderr, -1
        _close(stderr)

    def close_all(self) -> None:
        """Closes all its descriptors. A caller may wait for the pidfd until then."""
        self.close_pipes()
        self.close_stderr()
        pidfd, self.pidfd = self.pidfd, -1
        _close(pidfd)

    def disown(self) -> None:
        """In a forked child: the process is the parent's, and is never called, signalled or reaped from here."""
        self._lock = threading.Lock()
        self._reaped = True
        self.popen.returncode = 0  # or its finalizer would wait for it, and warn
        self.channel.disown()
        self.close_all()


class Handle:
    """The pool's reference to a process. If it is lost, as by an interrupted call, its finalizer ends the process."""

    __slots__ = ("__weakref__", "channel", "exchange", "process")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.channel = process.channel
        self.exchange = process.channel.exchange
        process.attach(self)
        weakref.finalize(self, process.lost).atexit = False

    # --- for Exchanges -----------------------------------------------------------------------------------------

    @property
    def clean(self) -> bool:
        return self.channel.clean

    @clean.setter
    def clean(self, value: bool) -> None:
        self.channel.clean = value

    @property
    def sent(self) -> int:
        return self.channel.sent

    def interrupt(self) -> None:
        """Does nothing: a call of a process can't be cancelled, so it is never hedged."""

    def is_gone(self, exc: Exception) -> bool:
        return self.channel.is_gone(exc)

    def error_of(self, exc: PluginError, deadline: Deadline) -> PluginError:
        """The error, with the way in which the process ended; notes whether the process may be used again."""
        process, clock = self.process, deadline.clock
        process.timed_out = isinstance(exc, PluginTimeoutError)
        process.failed = not process.timed_out or clock.monotonic() >= process.channel.start_ends
        if not isinstance(exc, ConnectionLostError | TruncatedReplyError):
            process.fault = exc.message
            return exc
        if not process.end:
            clock.wait(process.ended, max(0.0, min(_END_TIMEOUT, deadline.remaining())))
        if process.end:
            exc.message = f"{exc.message}: {process.end}"
        return exc

    # --- for the pool ------------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Nothing: in a forked child the supervisor closes the descriptors."""

    def is_dead(self) -> bool:
        """See :meth:`Process.is_dead`."""
        return self.process.is_dead()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)


def _pidfd(pid: int) -> int:
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or a sandbox that forbids it
        return -1


def _describe(code: int) -> str:
    if code >= 0:
        return f"it ended with exit status {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
