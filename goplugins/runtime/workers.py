"""Bounded pools of daemon threads behind the standard ``concurrent.futures`` interface.

The standard library's ``ThreadPoolExecutor`` joins its threads when the interpreter exits, so one hung call would
hold a script for as long as that call lasts, and its queue has no bound. These pools start a thread only when work
arrives, let it go when idle, refuse work beyond a bound with a typed error, and never delay an exit.
"""

from __future__ import annotations

import collections
import contextvars
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from goplugins.errors import PluginClosedError, SaturatedError
from goplugins.runtime.fork import register_forkable
from goplugins.runtime.slots import SlotSet

__all__ = ["WorkerPool", "WorkerSlot"]

P = ParamSpec("P")
T = TypeVar("T")

IDLE_SECONDS = 10.0
"""How long a thread without work stays."""

# The pools for whose tasks this code runs, also where it runs on a thread of another pool, or on one that a task's own
# context was handed to.
_serving: contextvars.ContextVar[frozenset[object]] = contextvars.ContextVar("goplugins_workers", default=frozenset())


class WorkerSlot:
    """A worker kept free for one task: see :meth:`WorkerPool.reserve`. Whoever loses it gives it back."""

    __slots__ = ("__weakref__",)


class _Task:
    __slots__ = ("args", "context", "function", "future", "kwargs", "slot")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.future: Future[Any] = Future()
        self.context = contextvars.copy_context()
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.slot: WorkerSlot | None = None

    def run(self) -> None:
        future = self.future
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self.context.run(self.function, *self.args, **self.kwargs)
        except BaseException as exc:  # noqa: BLE001 - it belongs to whoever asks the future
            self.slot = None
            future.set_exception(exc)
        else:
            self.slot = None  # first: whoever waits for the result may want a slot next
            future.set_result(result)


class _State:
    """What the threads share. They hold this and never the pool, so a forgotten pool can be collected."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mark = object()
        # Callers take the lock as it is: entering a Condition is Python code, and an interrupt in there could leave it
        # held for ever.
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.tasks: collections.deque[_Task] = collections.deque()
        self.threads: set[threading.Thread] = set()
        self.starting: set[threading.Thread] = set()
        self.leaving: set[threading.Thread] = set()
        self.slots = SlotSet()
        self.idle = 0
        self.closed = False
        self.forked = False  # this is a child's copy, and the thread that works on it forked within a task


class WorkerPool(Executor):
    """A bounded executor of daemon threads that start on first need and carry the caller's context variables.

    Args:
        name: the prefix of the threads' names.
        max_workers: how many threads there may be.
        max_queued: how many tasks may wait for one beyond that.
        inline: whether a worker that submits to its own pool runs the task itself when no other is idle. False
            where whoever submits waits no longer than a deadline: the task must not run on its thread.

    >>> with WorkerPool("example", max_workers=2, max_queued=8) as pool:
    ...     pool.submit(pow, 2, 10).result()
    1024
    """

    def __init__(self, name: str, max_workers: int, max_queued: int, *, inline: bool = True) -> None:
        self._inline = inline
        self.max_workers = max_workers
        self.max_queued = max_queued
        self._state = _State(name)
        self._finalizer = weakref.finalize(self, _close_unheld, self._state)
        self._finalizer.atexit = False
        register_forkable(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs ``fn`` on a worker, within a copy of the caller's context.

        A task of this very pool that submits while no worker is idle runs the new one itself at once, and so does what
        it has other pools do: were it to wait for its own successor, the pool could lock itself up.

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

    def reserve(self, count: int) -> list[WorkerSlot]:
        """Keeps ``count`` workers free, each for one :meth:`submit_to`; an empty list if there are not that many.

        For a pool whose every task has its slot: what :meth:`submit` queues is not counted. Never waits.
        """
        state = self._state
        with state.lock:
            if state.closed or len(state.slots) + count > self.max_workers:
                return []
            slots = [WorkerSlot() for _ in range(count)]
            state.slots.hold(*slots)
        return slots

    def submit_to(self, slot: WorkerSlot, fn: Callable[[], object], done: Callable[[], object]) -> None:
        """Runs ``fn`` on the worker that was kept free. Let go of ``slot``: it is given back when ``fn`` has run.

        No Future is handed out: an interrupt that hits a thread within one may leave its lock held.

        Args:
            slot: see :meth:`reserve`.
            fn: raises nothing that anybody would want to know.
            done: called when ``fn`` has run, or when it never will; on any thread, maybe this one.

        Raises:
            PluginClosedError: the pool was shut down.
        """
        task = _Task(fn, (), {})
        task.slot = slot
        task.future.add_done_callback(lambda _: done())
        self._submit(task)

    def _place(self, state: _State, task: _Task) -> str:
        """Decides where the task goes. Expects the state's lock."""
        if state.closed:
            raise PluginClosedError(f"{state.name}: the worker pool is shut down")
        if state.idle > len(state.tasks):
            state.tasks.append(task)
            state.changed.notify()
            return "queued"
        if len(state.threads) < self.max_workers:
            state.tasks.append(task)
            return "start"
        if self._inline and state.mark in _serving.get():
            return "inline"
        if len(state.tasks) >= self.max_queued:
            raise SaturatedError(
                f"{state.name}: all {self.max_workers} workers are busy and {self.max_queued} tasks wait already",
                details={"max_workers": self.max_workers, "max_queued": self.max_queued},
            )
        state.tasks.append(task)
        return "queued"

    def _start_thread(self, state: _State) -> None:
        arguments = (state, self.max_workers)
        thread = threading.Thread(target=_work, args=arguments, name=f"{state.name}-worker", daemon=True)
        try:
            with state.lock:
                if len(state.threads) >= self.max_workers:
                    return  # others were faster; their threads take the task
                state.starting.add(thread)
                state.threads.add(thread)
            thread.start()
        except BaseException as exc:
            with state.lock:
                if thread in state.starting:  # it has not begun, and may never
                    state.starting.discard(thread)
                    state.threads.discard(thread)
                nobody = bool(state.tasks) and not state.threads
            if isinstance(exc, RuntimeError):
                _refuse_stranded(state, exc)
                return
            if nobody:  # for what others have queued meanwhile
                self._start_thread(state)
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None:
        """Refuses new tasks and lets the threads go once the queued ones are done.

        Args:
            wait: wait for the threads to end.
            cancel_futures: give up what has not started.
            timeout: seconds to wait for all of them; None for as long as it takes.
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
        if wait:
            me = threading.current_thread()
            with state.changed:
                state.changed.wait_for(lambda: not state.threads - {me}, timeout)
            # They have said goodbye and need a moment to be gone.
            for thread in state.leaving - {me}:
                thread.join(1.0)

    @property
    def threads(self) -> int:
        """How many threads there are now."""
        return len(self._state.threads)

    def after_fork_in_child(self) -> None:
        """Starts anew: the parent's threads and locks do not exist here, and its tasks are the parent's."""
        closed = self._state.closed
        self._state.forked = True
        self._finalizer.detach()
        self._state = _State(self._state.name)
        self._state.closed = closed
        self._finalizer = weakref.finalize(self, _close_unheld, self._state)
        self._finalizer.atexit = False


def _serve(mark: object) -> None:
    """Notes for which pool's task a context is."""
    marks = _serving.get()
    if mark not in marks:
        _serving.set(marks | {mark})


def _close_unheld(state: _State) -> None:
    """The finaliser. It runs on whatever thread the collector chose, which may hold the very lock: it never waits.

    Threads that it can't wake now leave after IDLE_SECONDS at the latest.
    """
    state.closed = True
    if state.changed.acquire(blocking=False):
        try:
            state.changed.notify_all()
        finally:
            state.changed.release()


def _refuse_stranded(state: _State, why: RuntimeError) -> None:
    """Ends the tasks that no thread will ever take."""
    with state.changed:
        state.changed.notify_all()
        if state.threads:
            return  # they wait for one of those
        stranded = list(state.tasks)
        state.tasks.clear()
    for task in stranded:
        if task.future.set_running_or_notify_cancel():
            task.future.set_exception(SaturatedError(f"{state.name}: no thread could be started: {why}"))


def _work(state: _State, max_workers: int) -> None:
    me = threading.current_thread()
    with state.lock:
        if me not in state.starting and len(state.threads) >= max_workers:
            return  # whoever started it was interrupted, and others have come
        state.starting.discard(me)
        state.threads.add(me)
    while True:
        with state.changed:
            while not state.tasks:
                if state.closed:
                    state.leaving.add(me)
                    state.threads.discard(me)
                    state.changed.notify_all()
                    return
                state.idle += 1
                woken = state.changed.wait(IDLE_SECONDS)
                state.idle -= 1
                if not woken and not state.tasks:
                    state.threads.discard(me)
                    return
            task = state.tasks.popleft()
        task.run()
        if state.forked:
            return  # in a child that did not leave by itself: nobody would ever bring another task
        del task  # or the last task's result would live for as long as this thread waits
