"""The one thread that reads plugins' stderr, stops processes step by step, and reaps them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import select
import signal
import threading
from queue import Empty, SimpleQueue

from goplugins._clock import SYSTEM_CLOCK, Clock
from goplugins.processes import register_forkable
from goplugins.transports.exec._guardian import Guardian
from goplugins.transports.exec._process import Process

__all__ = ["Keeper", "keeper_of_process"]

logger = logging.getLogger("goplugins.exec")

_CHUNK = 65536
_LAST_CHUNKS = 16
"""Of stderr, once a process is dead: its grandchildren may hold it open and write for ever."""

_STEPS = ((3.0, signal.SIGTERM), (2.0, signal.SIGKILL))
"""Seconds from the end of stdin, and from there on, to the next stronger means."""

_AT_EXIT = (0.5, 0.5)
"""Seconds that an interpreter on its way out leaves processes between TERM and KILL, and then to be reaped."""

_LOOK = 0.05
"""Seconds between looks at processes where the system can't tell of their end."""


class _Stop:
    """A process on its way out: the next step and when it is due."""

    __slots__ = ("due", "step")

    def __init__(self, due: float) -> None:
        self.due = due
        self.step = 0


class Keeper:
    """Watches over all plugin processes of this process. Its thread runs while there are any."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self.guardian = Guardian()
        self._wake_reader, self._wake_writer = os.pipe()
        self._begin()
        register_forkable(self)
        atexit.register(self._at_exit)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._orders: SimpleQueue[tuple[str, Process]] = SimpleQueue()
        self._processes: set[Process] = set()
        self._ends: dict[int, Process] = {}
        self._errors: dict[int, Process] = {}
        self._unseen: set[Process] = set()  # the system does not tell of their end
        self._stops: dict[Process, _Stop] = {}
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)

    # --- from any thread ---------------------------------------------------------------------------------------

    def watch(self, process: Process) -> None:
        """Takes charge of a process that has just started. Takes the lock."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="goplugins-exec", daemon=True)
                thread.start()  # ends at once if it finds nothing to watch; needs the lock to see that
                self._thread = thread
            self._processes.add(process)
            self._orders.put(("watch", process))
        self._wake()

    def stop(self, process: Process) -> None:
        """Has a process whose stdin is closed leave, by ever stronger means. Takes no lock: finalisers call it."""
        self._orders.put(("stop", process))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_writer, b"w")

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._wake_reader, select.POLLIN)
        while True:
            try:
                self._turn(poll)
            except Exception:
                logger.exception("the keeper of plugin processes goes on after an unforeseen error")
            with self._lock:
                if not self._processes and self._orders.empty():
                    self._thread = None
                    return

    def _turn(self, poll: select.poll) -> None:
        ready = poll.poll(self._milliseconds())
        self._take_orders(poll)
        ended = []
        for descriptor, _ in ready:
            if descriptor == self._wake_reader:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_reader, _CHUNK)
            elif descriptor in self._errors:
                self._read_errors(self._errors[descriptor], poll)
            elif descriptor in self._ends:
                ended.append(self._ends[descriptor])
        for process in [*ended, *(process for process in self._unseen if process.has_ended())]:
            self._bury(process, poll)
        self._escalate()

    def _milliseconds(self) -> float | None:
        times = [stop.due - self._clock.monotonic() for stop in self._stops.values()]
        if self._unseen:
            times.append(_LOOK)
        return max(0.0, min(times)) * 1000.0 if times else None

    def _take_orders(self, poll: select.poll) -> None:
        while True:
            try:
                what, process = self._orders.get_nowait()
            except Empty:
                return
            if process not in self._processes:
                continue
            if what == "stop":
                self._stops.setdefault(process, _Stop(self._clock.monotonic() + _STEPS[0][0]))
                continue
            self._errors[process.stderr] = process
            poll.register(process.stderr, select.POLLIN)
            if process.end_sign < 0:
                self._unseen.add(process)
            else:
                self._ends[process.end_sign] = process
                poll.register(process.end_sign, select.POLLIN)

    def _read_errors(self, process: Process, poll: select.poll) -> bool:
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
        poll.unregister(process.stderr)
        del self._errors[process.stderr]
        return False

    def _escalate(self) -> None:
        now = self._clock.monotonic()
        for process, stop in self._stops.items():
            if now >= stop.due:
                process.signal(_STEPS[stop.step][1])
                stop.step = min(stop.step + 1, len(_STEPS) - 1)
                stop.due = now + _STEPS[stop.step][0]

    def _bury(self, process: Process, poll: select.poll) -> None:
        for _ in range(_LAST_CHUNKS):
            if process.stderr not in self._errors or not self._read_errors(process, poll):
                break
        process.signal(signal.SIGKILL)  # what its dead leader left of the group, whose number is still its own
        self.guardian.release(process.pid)
        for registered in (self._errors, self._ends):
            for descriptor in [key for key, value in registered.items() if value is process]:
                poll.unregister(descriptor)
                del registered[descriptor]
        self._unseen.discard(process)
        self._stops.pop(process, None)
        self._processes.discard(process)
        process.bury()
        process.log.close()
        self._report(process)

    @staticmethod
    def _report(process: Process) -> None:
        why = f", since: {process.fault}" if process.fault else ""
        last = f"; its last words: {process.log.last_lines}" if process.log.last_lines else ""
        level = logging.DEBUG if process.retired else logging.WARNING
        logger.log(level, "plugin %r, process %d: %s%s%s", process.name, process.pid, process.end, why, last)

    # --- the end, and children ---------------------------------------------------------------------------------

    def _at_exit(self) -> None:
        """Leaves no process behind an interpreter that ends in an orderly way."""
        processes = list(self._processes)
        for number, patience in zip((signal.SIGTERM, signal.SIGKILL), _AT_EXIT, strict=True):
            until = self._clock.monotonic() + patience
            for process in processes:
                process.retired = True
                process.signal(number)
            for process in processes:
                self._clock.wait(process.over, max(0.0, until - self._clock.monotonic()))
        self.guardian.leave()

    def after_fork_in_child(self) -> None:
        """Closes the parent's pipes; its processes are neither signalled nor reaped."""
        for process in self._processes:
            process.forget()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        self._wake_reader, self._wake_writer = os.pipe()
        self.guardian.after_fork_in_child()
        self._begin()


@functools.cache
def keeper_of_process() -> Keeper:
    """The keeper, made when first asked for."""
    return Keeper()
