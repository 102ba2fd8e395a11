"""The one thread that has to do with running processes: reads their stderr, stops them step by step, reaps them."""

from __future__ import annotations

import atexit
import contextlib
import errno
import logging
import os
import select
import signal
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.fork import register_forkable
from goplugins.transports.exec.channel import State
from goplugins.transports.exec.orphan_guard import OrphanGuard
from goplugins.transports.exec.process import Process

__all__ = ["Supervisor", "supervisor_of_process"]

logger = logging.getLogger("goplugins.exec")

_CHUNK = 65536
_LAST_CHUNKS = 16
"""Of stderr, once a process is dead: its grandchildren may hold it open and write for ever."""

_STEPS = ((3.0, signal.SIGTERM), (2.0, signal.SIGKILL))
"""Seconds from the end of stdin, and from there on, to the next stronger means."""

_AT_EXIT = (0.3, 0.4)
"""Seconds that an interpreter on its way out leaves processes between TERM and KILL, and then to be reaped."""

_LOOK = 0.05
"""Seconds between looks at processes where the system can't tell of their end, and at those that are starting."""

_ROUND = 1.0
"""Seconds between rounds: whose stdout to watch from now on, and who was lost without a word."""

_LONGEST_WAIT = 1.0
"""Seconds that a fork waits for a start under way, and a start for a fork."""


class _Stop:
    """A process on its way out: the next step and when it is due."""

    __slots__ = ("due", "step")

    def __init__(self, due: float) -> None:
        self.due = due
        self.step = 0


class Supervisor:
    """Watches over all plugin processes of this process. Its thread runs while there are any.

    The stdout of a process belongs to the caller that has it, and is watched here while nobody has it. Telling the
    keeper so at each call would cost more than the call itself: so every round begins to watch those that are idle
    then, and the watch ends with the first output of one that has become busy since.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        # Opens, starts and registers nothing: of two that are made at once, one is thrown away.
        self._clock = clock
        self.guardian = OrphanGuard()
        self._wake_reader = self._wake_writer = -1
        self._registered = False
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._ending = self._runs = False
        self._forks_with_lock = 0  # the thread that holds the start lock over its fork
        self._orders: SimpleQueue[tuple[str, Process]] = SimpleQueue()
        self._processes: set[Process] = set()
        # All that follows is the thread's own.
        self._poll = select.poll()
        self._ends: dict[int, Process] = {}
        self._errors: dict[int, Process] = {}
        self._outputs: dict[int, Process] = {}
        self._unseen: set[Process] = set()  # the system does not tell of their end
        self._unwatched: set[Process] = set()  # whose stdout is not watched, since somebody may have them
        self._starting: set[Process] = set()
        self._stops: dict[Process, _Stop] = {}
        self._next_round = 0.0

    # --- from any thread ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def without_fork(self) -> Iterator[None]:
        """Keeps forks away from starts and ends: a child would inherit pipes that no record tells it to close.

        Used by threads of ours only. Neither side waits for the other for ever.
        """
        locked = self._start_lock.acquire(timeout=_LONGEST_WAIT)
        try:
            yield
        finally:
            if locked:
                self._start_lock.release()

    def check_not_ending(self) -> None:
        """Passes while processes may be started.

        Raises:
            RuntimeError: the interpreter is ending; nobody would end a process that is started now.
        """
        if self._ending:
            raise RuntimeError("the interpreter is ending")

    def open(self) -> None:
        """Opens and registers what lasts, before the first start. Takes the lock."""
        with self._lock:
            if self._wake_writer < 0:
                self._wake_reader, self._wake_writer = os.pipe()
                os.set_blocking(self._wake_reader, False)
                os.set_blocking(self._wake_writer, False)
                self._poll.register(self._wake_reader, select.POLLIN)
            if not self._registered:
                self._registered = True
                register_forkable(self)
                os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork_in_parent)
                atexit.register(self._at_exit)

    def watch(self, process: Process) -> None:
        """Takes charge of a process that has just started. Called by threads of ours only. Takes the lock."""
        with self._lock:
            self._processes.add(process)
            self._orders.put(("watch", process))
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

    def order(self, what: str, process: Process) -> None:
        """Leaves word about a process: leave, kill, lost or start. Takes no lock: finalisers call it."""
        self._orders.put((what, process))
        self._wake()

    def _wake(self) -> None:
        if self._wake_writer >= 0:
            with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
                os.write(self._wake_writer, b"w")

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._turn()
            except Exception as exc:
                if isinstance(exc, OSError) and exc.errno == errno.EBADF:
                    # Whoever closes what is not theirs is mostly about to become another program: Celery on HUP is.
                    logger.warning("somebody else has closed the pipes to plugin processes")
                    self._clock.wait(Waiter(), _ROUND)
                else:
                    logger.exception("the keeper of plugin processes goes on after an unforeseen error")
            with self._lock:
                if not self._processes and self._orders.empty():
                    self._runs = False
                    return

    def _turn(self) -> None:
        ready = self._poll.poll(self._milliseconds())
        if self._wake_reader in dict(ready):
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_reader, _CHUNK)
        # Before any order: one may close a descriptor, and the next bring a process with the same number.
        ended = []
        for descriptor, _ in ready:
            if descriptor in self._errors:
                self._read_errors(self._errors[descriptor])
            elif descriptor in self._outputs:
                self._heed_output(self._outputs[descriptor])
            elif descriptor in self._ends:
                ended.append(self._ends[descriptor])
        for process in [*ended, *(process for process in self._unseen if process.has_ended())]:
            self._bury(process)
        self._take_orders()
        self._pump()
        self._go_round()
        self._escalate()

    def _milliseconds(self) -> float | None:
        now = self._clock.monotonic()
        times = [stop.due - now for stop in self._stops.values()]
        if self._unseen or self._starting:
            times.append(_LOOK)
        if self._unwatched:
            times.append(self._next_round - now)
        return max(0.0, min(times)) * 1000.0 if times else None

    def _take_orders(self) -> None:
        while True:
            try:
                what, process = self._orders.get_nowait()
            except Empty:
                return
            if process not in self._processes:
                continue
            if what == "watch":
                self._begin_watch(process)
            elif what == "start":
                self._starting.add(process)
            elif what == "lost":
                self._lost(process)
            elif process.channel.retire(State.IDLE, State.BUSY, State.STARTING):
                self._dismiss(process, at_once=what == "kill")

    def _begin_watch(self, process: Process) -> None:
        self._errors[process.stderr] = process
        self._poll.register(process.stderr, select.POLLIN)
        self._look_after(process)
        if process.end_sign < 0:
            self._unseen.add(process)
        else:
            self._ends[process.end_sign] = process
            self._poll.register(process.end_sign, select.POLLIN)

    # --- stderr and stdout -------------------------------------------------------------------------------------

    def _read_errors(self, process: Process) -> bool:
        """One piece of stderr; False if there is none now."""
        try:
            chunk = os.read(process.stderr, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if chunk:
            process.log.feed(chunk)
            return True
        self._poll.unregister(process.stderr)
        del self._errors[process.stderr]
        return False

    def _look_after(self, process: Process) -> None:
        """Has the next round look at a process whose stdout somebody may be reading."""
        if not self._unwatched:
            self._next_round = self._clock.monotonic() + _ROUND
        self._unwatched.add(process)

    def _watch_output(self, process: Process) -> None:
        self._unwatched.discard(process)
        self._outputs[process.stdout] = process
        self._poll.register(process.stdout, select.POLLIN)

    def _ignore_output(self, process: Process) -> None:
        if self._outputs.pop(process.stdout, None) is not None:
            self._poll.unregister(process.stdout)

    def _heed_output(self, process: Process) -> None:
        """Output, or its end, where nobody was reading when the watch began."""
        if process.channel.state is State.LEAVING:
            self._drain(process)
            return
        found = process.channel.retire_if_noisy()
        if found:
            if found & select.POLLIN:
                process.found_noisy()
            self._dismiss(process)
        else:  # somebody has it, or had it a moment ago
            self._ignore_output(process)
            self._look_after(process)

    def _drain(self, process: Process) -> None:
        """Keeps one that was asked to leave from being stuck in its last words."""
        with contextlib.suppress(BlockingIOError):
            if os.read(process.stdout, _CHUNK):
                return
            self._ignore_output(process)

    def _pump(self) -> None:
        now = self._clock.monotonic()
        for process in list(self._starting):
            channel = process.channel
            fault = channel.pump()
            if not fault and now >= channel.expires and channel.retire(State.STARTING):
                fault = channel.too_slow
            if fault:
                process.fault = fault
                self._dismiss(process, at_once=True)
            if channel.state is not State.STARTING:
                self._starting.discard(process)

    def _go_round(self) -> None:
        now = self._clock.monotonic()
        if not self._unwatched or now < self._next_round:
            return
        self._next_round = now + _ROUND
        for process in list(self._unwatched):
            if process.is_lost:
                self._lost(process)
            elif process.channel.state is State.IDLE and process.stdout >= 0:
                self._watch_output(process)

    # --- their end ---------------------------------------------------------------------------------------------

    def _lost(self, process: Process) -> None:
        """Nobody is left to let go of it, since a call was interrupted."""
        at_once = process.channel.state is not State.IDLE
        if process.channel.retire(State.IDLE, State.BUSY, State.STARTING):
            process.fault = process.fault or "its call was interrupted"
            self._dismiss(process, at_once=at_once)

    def _dismiss(self, process: Process, *, at_once: bool = False) -> None:
        """Closes the pipes of one that was retired; has it leave by ever stronger means, or kills it."""
        self._unwatched.discard(process)
        if process.end:
            self._processes_end(process)
        elif at_once:
            self._ignore_output(process)
            with self.without_fork():
                process.close_pipes()
            process.signal(signal.SIGKILL)
        else:
            with self.without_fork():
                process.close_stdin()
            if process.stdout not in self._outputs:
                self._watch_output(process)
            self._stops[process] = _Stop(self._clock.monotonic() + _STEPS[0][0])

    def _escalate(self) -> None:
        now = self._clock.monotonic()
        for process, stop in self._stops.items():
            if now >= stop.due:
                process.signal(_STEPS[stop.step][1])
                stop.step = min(stop.step + 1, len(_STEPS) - 1)
                stop.due = now + _STEPS[stop.step][0]

    def _bury(self, process: Process) -> None:
        for _ in range(_LAST_CHUNKS):
            if process.stderr not in self._errors or not self._read_errors(process):
                break
        process.signal(signal.SIGKILL)  # what its dead leader left of the group, whose number is still its own
        for registered in (self._errors, self._ends):
            for descriptor in [key for key, value in registered.items() if value is process]:
                self._poll.unregister(descriptor)
                del registered[descriptor]
        self._unseen.discard(process)
        self._stops.pop(process, None)
        with self.without_fork():
            self.guardian.release(process.pid)  # before its number can be another's; the guardian may be replaced
            process.close_signs()
        process.bury()
        process.log.close()
        process.on_end()
        self._report(process)
        # One that a caller has stays until that caller lets go: it may be reading the last bytes of a reply.
        if process.channel.retire(State.IDLE, State.STARTING) or process.channel.state is State.LEAVING:
            self._processes_end(process)

    def _processes_end(self, process: Process) -> None:
        """Forgets one that is dead and that nobody has. Takes the lock."""
        self._ignore_output(process)
        self._unwatched.discard(process)
        self._starting.discard(process)
        with self.without_fork():
            process.close_pipes()
        with self._lock:
            self._processes.discard(process)

    @staticmethod
    def _report(process: Process) -> None:
        why = f", since: {process.fault}" if process.fault else ""
        last = f"; its last words: {process.log.last_lines}" if process.log.last_lines else ""
        level = logging.DEBUG if process.retired else logging.WARNING
        logger.log(level, "plugin %r, process %d: %s%s%s", process.name, process.pid, process.end, why, last)

    # --- the end, and children ---------------------------------------------------------------------------------

    def _at_exit(self) -> None:
        """Leaves no process behind an interpreter that ends in an orderly way."""
        self._ending = True
        with self.without_fork():
            pass  # a start under way is over now, and no other one will begin
        with self._lock:
            processes = list(self._processes)
        for number, patience in zip((signal.SIGTERM, signal.SIGKILL), _AT_EXIT, strict=True):
            until = self._clock.monotonic() + patience
            for process in processes:
                process.retired = True
                process.signal(number)
            for process in processes:
                if process.end:
                    continue
                self._clock.wait(process.over, max(0.0, until - self._clock.monotonic()))
        self.guardian.leave()

    def _before_fork(self) -> None:
        if self._start_lock.acquire(timeout=_LONGEST_WAIT):
            self._forks_with_lock = threading.get_ident()

    def _after_fork_in_parent(self) -> None:
        if self._forks_with_lock == threading.get_ident():  # several threads may fork at a time
            self._forks_with_lock = 0
            self._start_lock.release()

    def after_fork_in_child(self) -> None:
        """Closes the parent's pipes; its processes are neither signalled nor reaped."""
        for process in self._processes:
            process.forget()
        for descriptor in (self._wake_reader, self._wake_writer):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake_reader = self._wake_writer = -1
        self.guardian.after_fork_in_child()
        self._begin()


_made: dict[str, Supervisor] = {}


def supervisor_of_process() -> Supervisor:
    """The keeper, made when first asked for."""
    # setdefault is atomic: all callers get the same one.
    return _made.get("keeper") or _made.setdefault("keeper", Supervisor())
