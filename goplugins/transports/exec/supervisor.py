"""Supervisor thread: drains stderr of running processes, terminates and reaps them."""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import posix
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

import attrs

from goplugins.errors import PluginClosedError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.polling import create_poll
from goplugins.transports.exec.channel import State
from goplugins.transports.exec.orphan_guard import OrphanGuard
from goplugins.transports.exec.process_handle import Command, Process

logger = logging.getLogger("goplugins.exec")

_CHUNK = 65536
_LAST_CHUNKS = 16
"""Maximum stderr chunks read after exit; grandchildren may keep the pipe open and write to it."""

_STEPS = ((3.0, signal.SIGTERM), (2.0, signal.SIGKILL))
"""Seconds from the end of stdin, then from the previous step, until each signal is sent; the last one is repeated."""

_AT_EXIT = (0.3, 0.4)
"""Seconds that an exiting interpreter waits after SIGTERM, then after SIGKILL."""

_POLL_INTERVAL = 0.05
"""Seconds between checks of starting processes, and of processes without a pidfd."""

_SWEEP_INTERVAL = 1.0
"""Seconds between sweeps, which begin to watch the stdout of idle processes and find lost ones."""

_LOCK_TIMEOUT = 1.0
"""Seconds that a fork waits for a start under way, and a start for a fork."""


@attrs.define
class _Termination:
    """A process that is being terminated: the index of its next step, and the time of it."""

    due: float
    step: int = 0


class Supervisor:
    """Supervises all plugin processes of this process. Its thread runs while there are any.

    A busy process's stdout belongs to the caller that leased it; an idle process's stdout is watched here. A command
    to the supervisor in every call would cost more than the call itself. So each sweep begins to watch the processes
    that are idle at that time, and stops watching one at its first output if it has become busy since.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        # Opens, starts and registers nothing: of two supervisors made at once, one is discarded.
        self._clock = clock
        self.orphan_guard = OrphanGuard()
        self._wake_reader = self._wake_writer = -1
        self._registered = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._exiting = self._runs = False
        self._forking_thread = 0  # the thread that holds the start lock over its fork
        self._commands: SimpleQueue[tuple[Command, Process]] = SimpleQueue()
        self._processes: set[Process] = set()
        # Only the supervisor thread uses what follows.
        self._watched: dict[int, tuple[Process, Callable[[Process], object]]] = {}  # by descriptor, with its handler
        self._without_pidfd: set[Process] = set()
        self._stdout_unwatched: set[Process] = set()  # may be in use by a caller
        self._starting: set[Process] = set()
        self._terminations: dict[Process, _Termination] = {}
        self._next_sweep = 0.0

    # --- from any thread ---------------------------------------------------------------------------------------

    @property
    def processes(self) -> list[Process]:
        """All processes that have not ended, and those that a caller still holds. Takes the lock."""
        with self._lock:
            return list(self._processes)

    @contextlib.contextmanager
    def without_fork(self) -> Iterator[None]:
        """Delays forks during a start or an end: a child would inherit pipes that it does not know to close.

        Used by threads of goplugins only. Neither side waits longer than a second for the other.
        """
        locked = self._start_lock.acquire(timeout=_LOCK_TIMEOUT)
        try:
            yield
        finally:
            if locked:
                self._start_lock.release()

    def check_not_exiting(self) -> None:
        """Passes while processes may be started.

        Raises:
            PluginClosedError: the interpreter is exiting: no thread would start a process now, or end it.
        """
        if self._exiting or sys.is_finalizing():
            raise PluginClosedError("the interpreter is exiting, and starts no more processes")

    def open(self) -> None:
        """Opens the wake-up pipe and registers the hooks, before the first start. Takes the lock."""
        with self._lock:
            if self._wake_writer < 0:
                self._wake_reader, self._wake_writer = os.pipe()
                os.set_blocking(self._wake_reader, False)
                os.set_blocking(self._wake_writer, False)
            if not self._registered:
                self._registered = True
                register_forkable(self)
                os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork_in_parent)
                atexit.register(self._at_exit)

    def watch(self, process: Process) -> None:
        """Begins to supervise a process that has just started. Called by threads of goplugins only. Takes the lock."""
        with self._lock:
            self._processes.add(process)
            self._commands.put((Command.WATCH, process))
            start, self._runs = not self._runs, True
        if start:
            try:
                threading.Thread(target=self._run, name="goplugins-exec", daemon=True).start()
            except BaseException:
                with self._lock:
                    self._runs = False
                    self._processes.discard(process)
                raise
        self._wake()

    def post(self, command: Command, process: Process) -> None:
        """Sends a command to the supervisor thread. Takes no lock: finalizers call it."""
        self._commands.put((command, process))
        self._wake()

    def _wake(self) -> None:
        if self._wake_writer >= 0:
            with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
                posix.write(self._wake_writer, b"w")  # eventlet's os.write() lets one thread at a time write

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._poll = create_poll()  # only now: gevent may have patched the standard library since the first start
        self._poll.register(self._wake_reader, select.POLLIN)
        while True:
            try:
                self._run_once()
            except Exception as exc:
                if isinstance(exc, OSError) and exc.errno == errno.EBADF:
                    # Code that closes all descriptors is mostly about to exec: Celery does so on SIGHUP.
                    logger.warning("the pipes to plugin processes were closed by code outside of goplugins")
                    self._clock.wait(Waiter(), _SWEEP_INTERVAL)
                else:
                    logger.exception("unexpected error in the supervisor of plugin processes, which continues")
            with self._lock:
                if not self._processes and self._commands.empty():
                    self._runs = False
                    return

    def _run_once(self) -> None:
        ready = self._poll.poll(self._milliseconds())
        if self._wake_reader in dict(ready):
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_reader, _CHUNK)
        # Before any command: one may close a descriptor, and the next add a process with the same number. The latest
        # first: what a process wrote before its end, since the end is watched from the start.
        for descriptor, _ in reversed(ready):
            if descriptor in self._watched:
                process, handle = self._watched[descriptor]
                handle(process)
        for process in [process for process in self._without_pidfd if process.has_ended()]:
            self._reap(process)
        self._run_commands()
        self._advance_starts()
        self._sweep()
        self._escalate()

    def _milliseconds(self) -> float | None:
        now = self._clock.monotonic()
        times = [termination.due - now for termination in self._terminations.values()]
        if self._without_pidfd or self._starting:
            times.append(_POLL_INTERVAL)
        if self._stdout_unwatched:
            times.append(self._next_sweep - now)
        return max(0.0, min(times)) * 1000.0 if times else None

    def _run_commands(self) -> None:
        while True:
            try:
                command, process = self._commands.get_nowait()
            except Empty:
                return
            if process not in self._processes:
                continue
            if command is Command.WATCH:
                self._begin_watch(process)
            elif command is Command.AWAIT_START:
                self._starting.add(process)
            elif command is Command.END_LOST:
                self._end_lost(process)
            elif process.channel.close_if(State.IDLE, State.BUSY, State.STARTING):
                self._terminate(process, kill=command is Command.KILL)

    def _begin_watch(self, process: Process) -> None:
        self._watch(process.stderr, process, self._read_stderr)
        self._watch_stdout_later(process)
        if process.pidfd < 0:
            self._without_pidfd.add(process)
        else:
            self._watch(process.pidfd, process, self._reap)

    def _watch(self, descriptor: int, process: Process, handle: Callable[[Process], object]) -> None:
        self._watched[descriptor] = process, handle
        self._poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    # --- stderr and stdout -------------------------------------------------------------------------------------

    def _read_stderr(self, process: Process) -> bool:
        """Reads one chunk of stderr; False if there is none now."""
        try:
            chunk = os.read(process.stderr, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if chunk:
            process.log.feed(chunk)
            return True
        self._unwatch(process.stderr)
        return False

    def _watch_stdout_later(self, process: Process) -> None:
        """Leaves stdout, which a caller may be reading, to the next sweep."""
        if not self._stdout_unwatched:
            self._next_sweep = self._clock.monotonic() + _SWEEP_INTERVAL
        self._stdout_unwatched.add(process)

    def _watch_stdout(self, process: Process) -> None:
        self._stdout_unwatched.discard(process)
        self._watch(process.stdout, process, self._handle_stdout)

    def _handle_stdout(self, process: Process) -> None:
        """Handles output, or its end, of a process that was idle when the watch began."""
        if process.channel.state is State.CLOSED:
            self._discard_stdout(process)
            return
        found = process.channel.close_if_readable()
        if found:
            if found & select.POLLIN:
                process.set_wrote_unasked()
            self._terminate(process)
        else:  # it is busy, or was a moment ago
            self._unwatch(process.stdout)
            self._watch_stdout_later(process)

    def _discard_stdout(self, process: Process) -> None:
        """Keeps a process that is to exit from blocking in a write."""
        with contextlib.suppress(BlockingIOError):
            if os.read(process.stdout, _CHUNK):
                return
            self._unwatch(process.stdout)

    def _advance_starts(self) -> None:
        now = self._clock.monotonic()
        for process in list(self._starting):
            channel = process.channel
            fault = channel.advance_start()
            if not fault and now >= channel.start_ends and channel.close_if(State.STARTING):
                fault = channel.too_slow
            if fault:
                process.fault = fault
                self._terminate(process, kill=True)
            if channel.state is not State.STARTING:
                self._starting.discard(process)

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        if not self._stdout_unwatched or now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_INTERVAL
        for process in list(self._stdout_unwatched):
            if process.is_lost:
                self._end_lost(process)
            elif process.channel.state is State.IDLE and process.stdout >= 0:
                self._watch_stdout(process)

    # --- the end of a process ----------------------------------------------------------------------------------

    def _end_lost(self, process: Process) -> None:
        """Ends a process whose handle was lost by an interrupted call."""
        kill = process.channel.state is not State.IDLE
        if process.channel.close_if(State.IDLE, State.BUSY, State.STARTING):
            process.fault = process.fault or "its call was interrupted"
            self._terminate(process, kill=kill)

    def _terminate(self, process: Process, *, kill: bool = False) -> None:
        """Closes stdin of a process with a closed channel and schedules the signals; or kills it."""
        self._stdout_unwatched.discard(process)
        if process.end:
            self._remove(process)
        elif kill:
            self._unwatch(process.stdout)
            with self.without_fork():
                process.close_pipes()
            process.signal(signal.SIGKILL)
        else:
            with self.without_fork():
                process.close_stdin()
            if process.stdout not in self._watched:
                self._watch_stdout(process)
            self._terminations[process] = _Termination(self._clock.monotonic() + _STEPS[0][0])

    def _escalate(self) -> None:
        now = self._clock.monotonic()
        for process, termination in self._terminations.items():
            if now >= termination.due:
                process.signal(_STEPS[termination.step][1])
                termination.step = min(termination.step + 1, len(_STEPS) - 1)
                termination.due = now + _STEPS[termination.step][0]

    def _reap(self, process: Process) -> None:
        for _ in range(_LAST_CHUNKS):
            if process.stderr not in self._watched or not self._read_stderr(process):
                break
        process.signal(signal.SIGKILL)  # for the rest of its group, whose number is not free before it is reaped
        self._unwatch(process.stderr)
        self._unwatch(process.pidfd)
        self._without_pidfd.discard(process)
        self._terminations.pop(process, None)
        with self.without_fork():
            self.orphan_guard.release(process.pid)  # before its number can be reused; may start a new guard
            process.close_stderr()
        process.reap()
        process.log.close()
        process.on_reaped()
        self._log_end(process)
        # A leased process stays until its caller has closed it: the caller may be reading the last bytes of a reply.
        if process.channel.close_if(State.IDLE, State.STARTING) or process.channel.state is State.CLOSED:
            self._remove(process)

    def _remove(self, process: Process) -> None:
        """Removes a process that has ended and that no caller holds. Takes the lock."""
        self._unwatch(process.stdout)
        self._stdout_unwatched.discard(process)
        self._starting.discard(process)
        with self.without_fork():
            process.close_all()
        with self._lock:
            self._processes.discard(process)

    @staticmethod
    def _log_end(process: Process) -> None:
        why = f", since: {process.fault}" if process.fault else ""
        last = f"; its last lines on stderr: {process.log.last_lines}" if process.log.last_lines else ""
        level = logging.WARNING if process.failure or process.fault else logging.DEBUG
        logger.log(level, "plugin %r, process %d: %s%s%s", process.name, process.pid, process.end, why, last)

    # --- exit and fork -----------------------------------------------------------------------------------------

    def _at_exit(self) -> None:
        """Ends all processes when the interpreter exits."""
        self._exiting = True
        with self.without_fork():
            pass  # a start under way has ended, and no other one will begin
        processes = self.processes
        for number, seconds in zip((signal.SIGTERM, signal.SIGKILL), _AT_EXIT, strict=True):
            until = self._clock.monotonic() + seconds
            for process in processes:
                process.closed_normally = True
                process.signal(number)
            for process in processes:
                if process.end:
                    continue
                self._clock.wait(process.ended, max(0.0, until - self._clock.monotonic()))
        self.orphan_guard.detach()

    def _before_fork(self) -> None:
        if self._start_lock.acquire(timeout=_LOCK_TIMEOUT):
            self._forking_thread = threading.get_ident()

    def _after_fork_in_parent(self) -> None:
        if self._forking_thread == threading.get_ident():  # several threads may fork at a time
            self._forking_thread = 0
            self._start_lock.release()

    def after_fork_in_child(self) -> None:
        """Closes the parent's pipes; its processes are neither signalled nor reaped."""
        for process in self._processes:
            process.disown()
        for descriptor in (self._wake_reader, self._wake_writer):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake_reader = self._wake_writer = -1
        self.orphan_guard.after_fork_in_child()
        self._reset()


_instances: dict[str, Supervisor] = {}


def supervisor_of_process() -> Supervisor:
    """This process's supervisor, made at first use."""
    # setdefault is atomic: all callers get the same one.
    return _instances.get("supervisor") or _instances.setdefault("supervisor", Supervisor())
