"""Bounded pools of daemon threads behind the standard ``concurrent.futures`` interface.

The standard library's ``ThreadPoolExecutor`` joins its threads when the interpreter exits, so that one hung call
delays the end of a script, and its queue has no bound. These pools start threads when tasks arrive, end idle ones,
refuse tasks beyond a bound with a typed error, and never delay an exit.
"""

from __future__ import annotations

import collections
import contextvars
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

import attrs

from goplugins.errors import LocalResourceError, PluginClosedError, SaturatedError
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.scheduler import ScheduledTask, get_scheduler, run_on_scheduler
from goplugins.runtime.server_master import in_master
from goplugins.runtime.slots import SlotSet
from goplugins.runtime.text import counted

P = ParamSpec("P")
T = TypeVar("T")

_MOST_OVERDUE = 7
"""For each worker, threads with overdue tasks that are not counted."""

IDLE_SECONDS = 10.0
"""Seconds after which an idle thread ends; in a server's master, which is about to fork, it ends at once."""

# Marks of the pools whose tasks this context belongs to, also on threads of other pools and in copies of the context.
_serving: contextvars.ContextVar[frozenset[object]] = contextvars.ContextVar("goplugins_workers", default=frozenset())


class WorkerSlot:
    """A worker that is reserved for one task, as long as this object is referenced: see :meth:`WorkerPool.reserve`."""

    __slots__ = ("__weakref__",)


@attrs.define(eq=False)
class _Task:
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = attrs.field(factory=dict)
    slot: WorkerSlot | None = None
    future: Future[Any] = attrs.field(factory=Future, init=False)
    context: contextvars.Context = attrs.field(factory=contextvars.copy_context, init=False)

    def run(self) -> None:
        future = self.future
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self.context.run(self.function, *self.args, **self.kwargs)
        except BaseException as exc:  # noqa: BLE001 - raised by the future's result()
            self.slot = None
            future.set_exception(exc)
        else:
            self.slot = None  # first: the thread that waits for the result may reserve a slot next
            future.set_result(result)


class _State:
    """State shared by the threads. They refer to this and not to the pool, so that an unused pool is collected."""

    def __init__(self, name: str, max_workers: int, patience: float | None) -> None:
        self.name = name
        self.max_workers = max_workers
        self.patience = patience
        self.mark = object()
        # Callers take the lock itself: entering a Condition is Python code, and an interrupt within that could leave
        # the lock held.
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.tasks: collections.deque[_Task] = collections.deque()
        self.threads: set[threading.Thread] = set()
        self.starting: set[threading.Thread] = set()
        self.leaving: set[threading.Thread] = set()
        self.busy: dict[threading.Thread, float] = {}  # since when, on the system clock's monotonic scale
        self.slots = SlotSet()
        self.idle = 0
        self.closed = False
        self.forked = False  # a forked child's copy: its only thread forked within a task

    @property
    def working(self) -> int:
        """The number of threads without those of overdue tasks, of which only so many are left out."""
        if self.patience is None:
            return len(self.threads)
        overdue = SYSTEM_CLOCK.monotonic() - self.patience
        hung = sum(since < overdue for since in self.busy.values())
        return len(self.threads) - min(hung, _MOST_OVERDUE * self.max_workers)


class WorkerPool(Executor):
    """A bounded executor of daemon threads that start when needed. Tasks run in a copy of the caller's context.

    Args:
        name: the prefix of the threads' names.
        max_workers: threads at most.
        max_queued: tasks that may wait for a thread.
        inline: whether a worker that submits to its own pool runs the task itself if no other is idle. False where
            the caller waits no longer than a deadline: the task must not run on its thread.
        patience: seconds after which a running task counts no longer against ``max_workers``, so that tasks that hang
            delay no others: up to seven further threads for each worker take its place. None for no such limit.

    >>> with WorkerPool("example", max_workers=2, max_queued=8) as pool:
    ...     pool.submit(pow, 2, 10).result()
    1024
    """

    def __init__(
        self, name: str, max_workers: int, max_queued: int, *, inline: bool = True, patience: float | None = None
    ) -> None:
        self._inline = inline
        self.max_workers = max_workers
        self.max_queued = max_queued
        self._relief: ScheduledTask | None = None
        self._state = _State(name, max_workers, patience)
        self._finalizer = weakref.finalize(self, _close_unheld, self._state)
        self._finalizer.atexit = False
        register_forkable(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs ``fn`` on a worker, within a copy of the caller's context.

        A task of this pool that submits while no worker is idle runs the new task itself at once, also from a thread
        of another pool: if all workers waited for tasks in their own queue, none would ever run.

        Raises:
            SaturatedError: all workers are busy and the queue is full.
            PluginClosedError: the pool was shut down.
        """
        task = _Task(fn, args, kwargs)
        if self._inline:
            task.context.run(_serve, self._state.mark)
        self._submit(task)
        return task.future

    def _submit(self, task: _Task) -> None:
        state = self._state
        with state.lock:
            verdict = self._place(state, task)
        if verdict == "inline":
            task.run()
        elif verdict == "start":
            self._start_thread(state)
        elif verdict == "waiting" and state.patience is not None and (self._relief is None or not self._relief.active):
            self._relief = get_scheduler().schedule(
                self._relieve, state.patience, first=state.patience, submit=run_on_scheduler
            )

    def _relieve(self) -> None:
        """Has threads started for tasks that wait for overdue ones; on the scheduler's thread."""
        state = self._state
        waiting = len(state.tasks)
        if not waiting and self._relief is not None:
            self._relief.cancel()
        for _ in range(waiting):
            with state.lock:
                wanted = state.tasks and not state.idle and state.working < self.max_workers
            if not wanted:
                return
            self._start_thread(state)

    def reserve(self, count: int) -> list[WorkerSlot]:
        """Reserves ``count`` workers, each for one :meth:`submit_to`; an empty list if there are not that many.

        For pools whose tasks all have slots: tasks of :meth:`submit` are not counted. Never waits.
        """
        state = self._state
        with state.lock:
            if state.closed or len(state.slots) + count > self.max_workers:
                return []
            slots = [WorkerSlot() for _ in range(count)]
            state.slots.hold(*slots)
        return slots

    def submit_to(self, slot: WorkerSlot | None, fn: Callable[[], object], done: Callable[[], object]) -> None:
        """Runs ``fn`` on the reserved worker, or on any, and calls ``done`` then.

        It returns no Future: an interrupt of a thread within its methods may leave its lock held.

        Args:
            slot: of :meth:`reserve`, or None. It is released when ``fn`` has run: keep no reference to it.
            fn: what it raises is discarded.
            done: called when ``fn`` has run, or when it never will; on any thread, possibly this one.

        Raises:
            SaturatedError: all workers are busy and the queue is full.
            PluginClosedError: the pool was shut down.
        """
        task = _Task(fn, slot=slot)
        task.future.add_done_callback(lambda _: done())
        self._submit(task)

    def _place(self, state: _State, task: _Task) -> str:
        """Queues the task, or says how to run it. Expects the state's lock."""
        if state.closed:
            raise PluginClosedError(f"{state.name}: the worker pool is shut down")
        if state.idle > len(state.tasks):
            state.tasks.append(task)
            state.changed.notify()
            return "queued"
        if state.working < self.max_workers:
            state.tasks.append(task)
            return "start"
        if self._inline and state.mark in _serving.get():
            return "inline"
        if len(state.tasks) >= self.max_queued:
            busy = "its worker is busy" if self.max_workers == 1 else f"all {self.max_workers} workers are busy"
            waiting = f"{counted(self.max_queued, 'task')} {'waits' if self.max_queued == 1 else 'wait'}"
            raise SaturatedError(
                f"{state.name}: {busy} and {waiting} already",
                details={"max_workers": self.max_workers, "max_queued": self.max_queued},
            )
        state.tasks.append(task)
        return "waiting"

    def _start_thread(self, state: _State) -> None:
        thread = threading.Thread(target=_work, args=(state,), name=f"{state.name}-worker", daemon=True)
        try:
            with state.lock:
                if state.working >= self.max_workers:
                    return  # other callers have started threads, which take the task
                state.starting.add(thread)
                state.threads.add(thread)
            thread.start()
        except BaseException as exc:
            with state.lock:
                if thread in state.starting:  # it may never begin
                    state.starting.discard(thread)
                    state.threads.discard(thread)
                stranded = bool(state.tasks) and not state.working
            if isinstance(exc, RuntimeError):
                _refuse_stranded(state, exc)
                return
            if stranded:  # tasks that other callers have queued meanwhile
                self._start_thread(state)
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None:
        """Refuses new tasks, and ends the threads when the queued ones are done.

        Args:
            wait: wait for the threads to end.
            cancel_futures: cancel the tasks that have not started.
            timeout: seconds to wait for all threads together; None for no limit.
        """
        state = self._state
        if cancel_futures:
            with state.changed:
                waiting = list(state.tasks)
                state.tasks.clear()
            for task in waiting:
                task.future.cancel()
        with state.changed:
            state.closed = True
            state.changed.notify_all()
        if self._relief is not None and not state.tasks:
            self._relief.cancel()
        if wait:
            me = threading.current_thread()
            with state.changed:
                state.changed.wait_for(lambda: not state.threads - {me}, timeout)
            # They have left the set, and end within a moment.
            for thread in state.leaving - {me}:
                thread.join(1.0)

    @property
    def threads(self) -> int:
        """The number of threads now."""
        return len(self._state.threads)

    def after_fork_in_child(self) -> None:
        """Starts with no thread and no task: those are the parent's."""
        closed = self._state.closed
        self._state.forked = True
        self._finalizer.detach()
        self._state = _State(self._state.name, self.max_workers, self._state.patience)
        self._state.closed = closed
        self._finalizer = weakref.finalize(self, _close_unheld, self._state)
        self._finalizer.atexit = False


def _serve(mark: object) -> None:
    """Marks the context as that of a task of the pool."""
    marks = _serving.get()
    if mark not in marks:
        _serving.set(marks | {mark})


def _close_unheld(state: _State) -> None:
    """The finaliser. It runs on any thread, possibly one that holds the lock, so that it never waits.

    Threads that it can't wake now end after IDLE_SECONDS at the latest.
    """
    state.closed = True
    if state.changed.acquire(blocking=False):
        try:
            state.changed.notify_all()
        finally:
            state.changed.release()


def _refuse_stranded(state: _State, why: RuntimeError) -> None:
    """Fails the tasks that no thread will ever take."""
    with state.changed:
        state.changed.notify_all()
        if state.working:
            return  # one of those takes them
        stranded = list(state.tasks)
        state.tasks.clear()
    for task in stranded:
        if task.future.set_running_or_notify_cancel():
            task.future.set_exception(LocalResourceError(f"{state.name}: no thread could be started: {why}"))


def _work(state: _State) -> None:
    me = threading.current_thread()
    with state.lock:
        if me not in state.starting and state.working >= state.max_workers:
            return  # its start was interrupted, and others have been started in its place
        state.starting.discard(me)
        state.threads.add(me)
    while True:
        with state.changed:
            state.busy.pop(me, None)
            if state.working > state.max_workers:
                state.threads.discard(me)
                state.changed.notify_all()
                return  # its task was overdue, and another thread has taken its place
            while not state.tasks:
                if state.closed:
                    state.leaving.add(me)
                    state.threads.discard(me)
                    state.changed.notify_all()
                    return
                state.idle += 1
                woken = state.changed.wait(0.0 if in_master() else IDLE_SECONDS)
                state.idle -= 1
                if not woken and not state.tasks:
                    state.threads.discard(me)
                    return
            task = state.tasks.popleft()
            state.busy[me] = SYSTEM_CLOCK.monotonic()
        task.run()
        if state.forked:
            return  # in a forked child that returned from the task: no further task can come
        del task  # or its result would be kept while this thread waits for the next one
