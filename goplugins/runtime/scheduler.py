"""The scheduler thread of a process: submits periodic tasks to worker pools when they are due.

Health checks, configuration watches and statistics have no threads of their own. The scheduler runs no task itself,
so that a task that hangs delays no other, and refers to the tasks' owners weakly: a task whose owner was collected is
not due again.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import random
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import attrs

from goplugins.errors import InvalidArgumentError, SaturatedError, belongs_to_host
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock, Waiter
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.server_master import in_master

__all__ = ["Schedule", "ScheduledTask", "Scheduler", "get_scheduler"]

logger = logging.getLogger("goplugins.scheduler")

Job = Callable[[], object]
Submit = Callable[[Job], object]

_RETRY = 1.0
"""Seconds after which a task is submitted again that no worker could take."""

_LONGEST_SLEEP = 60.0
"""Seconds that the thread sleeps at most, in case the owners of all tasks were collected meanwhile."""


@attrs.define(eq=False, repr=False)
class ScheduledTask:
    """A method that is run at intervals, or once. Made by :meth:`Scheduler.schedule`."""

    _scheduler: Scheduler
    _key: int
    _method: weakref.WeakMethod[Job]
    _submit: Callable[[], Submit | None]
    _interval: float | None
    _jitter: float
    _rng: random.Random | None
    _last: float  # when it was last due, or was made
    _entry: int = 0  # number of its valid entry in the heap
    _pending: bool = False  # submitted, and not done yet
    _refused: bool = False  # no worker could take it the last time
    _cancelled: bool = False

    @property
    def active(self) -> bool:
        """True while it will be due again."""
        return self._key in self._scheduler._tasks

    def cancel(self) -> None:
        """Ends the schedule. A run in progress continues, a queued one is dropped. Harmless when repeated."""
        self._cancelled = True
        self._scheduler._discard(self)

    def reschedule(self, interval: float) -> None:
        """Changes the interval, counted from the last due time; the task is due at once if that is past.

        Raises:
            InvalidArgumentError: ``interval`` is not more than 0.
        """
        self._scheduler._reschedule(self, _positive(interval))

    def run(self) -> None:
        """Runs the method; called on a worker."""
        self._refused = False
        try:
            method = None if self._cancelled else self._method()
            if method is not None:
                method()
        except Exception as exc:
            if belongs_to_host(exc):
                raise
            logger.exception("scheduled work failed: %r", self)
        finally:
            self._pending = False

    def __repr__(self) -> str:
        method = self._method()
        what = getattr(method, "__qualname__", "collected")
        return f"<ScheduledTask: {what} every {self._interval} s>"


Schedule = Callable[[Job, float | None, float], ScheduledTask]
"""Runs a bound method, held weakly, every ``interval`` seconds, or once with None, after ``first`` seconds."""


class Scheduler:
    """Submits methods to worker pools when they are due. A process has one: see :func:`get_scheduler`.

    Its thread (daemon, named ``goplugins-scheduler``) starts with the first task, and ends when there has been no task
    for ``idle`` seconds.

    Args:
        clock: measures time, and waits.
        idle: seconds that the thread stays without a task.
        threaded: False for tests that call :meth:`run_due` themselves: there is no thread.

    Attributes:
        needs_thread: there are tasks and no thread: in a forked child, since the system had no thread left, or in a
            server's master; see :meth:`ensure_thread`.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, idle: float = 5.0, threaded: bool = True) -> None:
        self.needs_thread = False
        self._clock = clock
        self._idle = idle
        self._threaded = threaded
        self._tasks: dict[int, ScheduledTask] = {}
        self._keys = itertools.count(1)
        self._entries = itertools.count(1)
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._waiter = Waiter()
        self._thread: threading.Thread | None = None
        self._refused = False  # the system had no thread left when one was last needed
        self._heap: list[tuple[float, int, ScheduledTask]] = []
        # Keys of tasks whose owners were collected. A finaliser may run at any point of any thread, also one that holds
        # the lock: all that it can safely do is to put an item on a SimpleQueue.
        self._dead: queue.SimpleQueue[int] = queue.SimpleQueue()
        # With an inherited generator, forked siblings would draw the same jitter and run their tasks together.
        self._rng = random.Random()  # noqa: S311 - only jitter

    # --- for owners ------------------------------------------------------------------------------------------------

    def schedule(
        self,
        method: Job,
        interval: float | None,
        *,
        submit: Submit,
        first: float | None = None,
        jitter: float = 0.1,
        rng: random.Random | None = None,
    ) -> ScheduledTask:
        """Submits ``method`` at intervals, until the task is cancelled or the method's owner is collected.

        A due time is skipped while the last run is queued or in progress, so that no backlog builds up. Of several
        missed times (of a suspended machine) one is made up for.

        Args:
            method: a bound method; held weakly, so that lambdas and nested functions are refused.
            interval: seconds between two runs; None for a single run.
            submit: takes the due task: a pool's ``submit``, or :func:`run_on_scheduler`. Called on the scheduler's
                thread, so it must not block. A bound method is held weakly, too: the task's owner must refer to the
                pool.
            first: seconds until the first run; by default an interval.
            jitter: each interval is varied by up to this share, so that tasks do not run in step.
            rng: draws the jitter.

        Raises:
            InvalidArgumentError: ``interval`` is not more than 0, or there is neither ``interval`` nor ``first``.
        """
        if interval is not None:
            _positive(interval)
        elif first is None:
            raise InvalidArgumentError("schedule: a single run needs first=, the seconds until it is due")
        key = next(self._keys)
        now = self._clock.monotonic()
        task = ScheduledTask(self, key, self._weak(method, key), _weak_or_held(submit), interval, jitter, rng, now)
        with self._lock:
            self._tasks[key] = task
            sooner = self._push(task, now + (self._varied(task) if first is None else first))
        if sooner or self._thread is None:
            self.ensure_thread()
        return task

    def ensure_thread(self) -> bool:
        """Starts the thread if there are tasks and no thread, or else wakes it.

        A forked child has its parent's tasks and no thread. The thread is not started within the fork, since many
        children only exec, but by the first call that finds ``needs_thread`` True. A server's master has none.

        Returns:
            False in a server's master, or if the system has no thread left. The tasks stay, and ``needs_thread`` stays
            True: call this again.
        """
        thread = None
        if self._thread is None and in_master():
            self.needs_thread = self._threaded and bool(self._tasks)
            return not self.needs_thread
        with self._lock:
            self.needs_thread = False
            if self._threaded and self._thread is None and self._tasks:
                # Of the kind that the thread needs: gevent may have patched the standard library only now.
                self._waiter = Waiter()
                thread = self._thread = threading.Thread(target=self._loop, name="goplugins-scheduler", daemon=True)
        self._waiter.set()
        if thread is None:
            return True
        try:
            thread.start()
        except RuntimeError as exc:  # a limit of memory or threads, or the interpreter is shutting down
            with self._lock:
                if self._thread is thread:
                    self._thread = None
                self.needs_thread = bool(self._tasks)
            if not self._refused:
                self._refused = True
                logger.warning(
                    "health checks, watches and other periodic work stand still until there is a thread for "
                    "them, which each call tries to start: %s (limits: ulimit -u, pids.max)",
                    exc,
                )
            return False
        self._refused = False
        return True

    @property
    def scheduled(self) -> int:
        """The number of tasks."""
        return len(self._tasks)

    # --- what is due -----------------------------------------------------------------------------------------------

    def run_due(self, now: float | None = None) -> float | None:
        """Submits all due tasks; returns the seconds until the next one is due, or None without any.

        Args:
            now: on the clock's monotonic scale; by default the present.
        """
        if now is None:
            now = self._clock.monotonic()
        due: list[ScheduledTask] = []
        with self._lock:
            # Kept until the lock is free: the last reference to a task may be the last to other objects as well,
            # whose finalisers must not run under the lock.
            gone = self._reap()
            while self._heap and self._heap[0][0] <= now:
                _, entry, task = heapq.heappop(self._heap)
                gone.append(task)
                if not self._valid(entry, task):
                    continue
                task._last = now
                if task._interval is None:
                    del self._tasks[task._key]
                else:
                    self._push(task, now + self._varied(task))
                if not task._pending:
                    task._pending = True
                    due.append(task)
        for task in due:
            self._submit_due(task)
        with self._lock:
            while self._heap and not self._valid(*self._heap[0][1:]):
                gone.append(heapq.heappop(self._heap)[2])
            return self._heap[0][0] - now if self._heap else None

    def _submit_due(self, task: ScheduledTask) -> None:
        submit = task._submit()
        if submit is None or task._method() is None:
            self._discard(task)
            return
        try:
            future = submit(task.run)
        except SaturatedError as exc:
            self._run_later(task, exc)
        except Exception:
            task._pending = False
            # Its pool is broken or closed; other tasks must go on.
            logger.exception("could not submit %r", task)
        else:
            if isinstance(future, Future):
                future.add_done_callback(partial(self._submitted, task))

    def _submitted(self, task: ScheduledTask, future: Future[object]) -> None:
        """The end of a run, or of a queued one that never began."""
        if future.cancelled():
            task._pending = False  # its pool was shut down
        elif isinstance(exc := future.exception(), SaturatedError):
            self._run_later(task, exc)

    def _run_later(self, task: ScheduledTask, why: SaturatedError) -> None:
        """Makes a task due again that no worker could take."""
        delay = _RETRY if task._interval is None else min(task._interval, _RETRY)
        if not task._refused:
            logger.warning("%r can't run, and is tried again every %g s: %s", task, delay, why.message)
        task._refused = True
        task._pending = False
        with self._lock:
            if not task._cancelled:
                self._tasks[task._key] = task
                self._push(task, self._clock.monotonic() + delay)
        self.ensure_thread()

    def _loop(self) -> None:
        waiter = self._waiter
        idle = False
        try:
            while not (idle and self._may_end()):
                waiter.clear()
                delay = self.run_due()
                woken = self._clock.wait(waiter, self._idle if delay is None else min(max(delay, 0.0), _LONGEST_SLEEP))
                idle = delay is None and not woken
        finally:
            # After an error, too, or no other thread would be started.
            with self._lock:
                if self._thread is threading.current_thread():
                    self._thread = None
                    self.needs_thread = bool(self._tasks)

    def _may_end(self) -> bool:
        """Decides and unregisters the thread in one step, so that a task scheduled after that starts a new one."""
        with self._lock:
            if not self._tasks:
                self._thread = None
            return not self._tasks

    # --- tasks ---------------------------------------------------------------------------------------------------

    def _weak(self, method: Job, key: int) -> weakref.WeakMethod[Job]:
        def collected(_: object) -> None:
            self._dead.put(key)
            self._waiter.set()  # if it was the last task, the thread ends

        try:
            return weakref.WeakMethod(method, collected)
        except TypeError as exc:
            raise InvalidArgumentError(f"schedule: expected a bound method, got {method!r}") from exc

    def _push(self, task: ScheduledTask, due: float) -> bool:
        """Makes ``due`` the task's only valid entry; True if nothing is due before. Expects the lock."""
        task._entry = next(self._entries)
        heapq.heappush(self._heap, (due, task._entry, task))
        return self._heap[0][1] == task._entry

    def _valid(self, entry: int, task: ScheduledTask) -> bool:
        """False for an old entry of a task that was cancelled or rescheduled. Expects the lock."""
        return entry == task._entry and task._key in self._tasks

    def _varied(self, task: ScheduledTask) -> float:
        interval = task._interval or 0.0
        rng = task._rng or self._rng
        return interval * (1.0 + task._jitter * (2.0 * rng.random() - 1.0))

    def _reap(self) -> list[ScheduledTask]:
        """Drops the tasks of collected owners and stale heap entries. Expects the lock."""
        gone = []
        while True:
            try:
                task = self._tasks.pop(self._dead.get_nowait(), None)
            except queue.Empty:
                break
            if task is not None:
                gone.append(task)
        if len(self._heap) > 2 * len(self._tasks) + 16:
            gone += [task for _, _, task in self._heap]
            self._heap = [item for item in self._heap if self._valid(*item[1:])]
            heapq.heapify(self._heap)
        return gone

    def _discard(self, task: ScheduledTask) -> None:
        with self._lock:
            self._tasks.pop(task._key, None)
            last = not self._tasks
        if last:
            self._waiter.set()  # its idle time starts now, and not when the task would have been due

    def _reschedule(self, task: ScheduledTask, interval: float) -> None:
        with self._lock:
            if task._key not in self._tasks:
                return
            task._interval = interval
            self._push(task, task._last + self._varied(task))
        self._waiter.set()

    def after_fork_in_child(self) -> None:
        """Keeps the tasks without the parent's queued runs; the thread is started when needed."""
        dues = {task: due for due, entry, task in self._heap if self._valid(entry, task)}
        self._renew()
        for task in list(self._tasks.values()):
            task._pending = False
            # Spread, or a hundred workers that were forked from one parent would run it at the same time.
            spread = self._rng.random() * task._jitter * (task._interval or 0.0)
            self._push(task, dues.get(task, task._last) + spread)
        self.needs_thread = bool(self._tasks) and self._threaded


def run_on_scheduler(job: Job) -> None:
    """Runs a task on the scheduler's thread itself: for tasks that only decide, and never wait."""
    job()


def _positive(interval: float) -> float:
    if isinstance(interval, bool) or not isinstance(interval, int | float) or not interval > 0:
        raise InvalidArgumentError(f"interval: expected seconds greater than 0, got {interval!r}")
    return interval


def _weak_or_held(submit: Submit) -> Callable[[], Submit | None]:
    """A bound method weakly, so that a task keeps no owner alive through its pool; any other callable as it is."""
    try:
        return weakref.WeakMethod(submit)
    except TypeError:
        return lambda: submit


_of_process: dict[str, Scheduler] = {}


def get_scheduler() -> Scheduler:
    """The process's scheduler, created at the first call."""
    found = _of_process.get("scheduler")
    if found is None:
        made = Scheduler()
        # One atomic step instead of a lock, which another thread could hold at a fork.
        found = _of_process.setdefault("scheduler", made)
        if found is made:
            register_forkable(found)
    return found
