"""Provides callers with processes: starts under way, processes that are still starting, and new ones."""

from __future__ import annotations

import copy
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from goplugins.enums import PluginStatus
from goplugins.errors import (
    InvalidConfigError,
    MissingExecutableError,
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
)
from goplugins.models.results import HealthStatus
from goplugins.runtime.clock import Clock, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.transports.exec.channel import State
from goplugins.transports.exec.executable import Executable
from goplugins.transports.exec.process_handle import Handle, Process
from goplugins.transports.exec.spawn import LIMITS, SpawnArguments, StartThread, environment, spawn
from goplugins.transports.exec.supervisor import supervisor_of_process

if TYPE_CHECKING:
    from goplugins.config import PluginConfig

_START_GRACE = 2.0
"""Seconds after which a process counts as started that has not ended."""

_WAITS, _WAIT_INTERVAL = 3, 0.01
"""A process that was seen waiting so often, at intervals of so many seconds, has started."""

_FIRST_DELAY = 0.05
_MAX_DELAY = 5.0
"""Seconds between failed starts."""


def check_options(config: PluginConfig) -> None:
    """Refuses a plugin without a program, and limits that this system can't set.

    A program that does not exist is accepted: it may be installed before the first call, or its file system mounted.

    Raises:
        ConfigError: names the field.
    """
    if not config.executable:
        raise MissingExecutableError("missing", path="executable", fix="write the path of the program to run")
    platform: str = sys.platform
    for option in LIMITS:
        if option in config.options and platform != "linux":
            raise InvalidConfigError("this limit needs Linux", path=f"options.{option}", fix="leave it out")


class Backoff:
    """Delays starts after processes that failed before their first reply: 50 ms, doubling to 5 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._last_failed = 0.0
        self._until = 0.0
        self._reason = ""
        self._lasting = False

    def after_fork_in_child(self) -> None:
        """A child has seen no failure."""
        self._reset()

    def check(self) -> None:
        """Passes if a start may be tried now.

        Raises:
            PluginConnectionError: not yet; ``retry_after`` has the seconds. Not retryable if the failure is lasting.
        """
        left = self._until - self._clock.monotonic()
        if self._failures and left > 0:
            raise PluginConnectionError(
                f"the next start is delayed after {self._failures} failed start(s); the last: {self._reason}",
                retry_after=left,
                retryable=False if self._lasting else None,
                replay=Replay.NEVER if self._lasting else None,
            )

    def failed(self, started: float, reason: str, *, lasting: bool = False) -> None:
        """Counts the failure of a start made at ``started``. Takes the lock."""
        now = self._clock.monotonic()
        with self._lock:
            if started < self._last_failed:
                return  # begun before the last failure was counted: the same cause counts once
            delay = min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures, 30))
            self._failures += 1
            self._reason = reason
            self._lasting = lasting
            self._last_failed = now
            self._until = now + delay

    @property
    def reason(self) -> str:
        """Why the last start failed; empty if it did not."""
        return self._reason if self._failures else ""

    def succeeded(self) -> None:
        """A process has answered: the next one may start at once."""
        self._failures = 0


class _Claim:
    """Marks a start that a caller waits for. Garbage collected with the caller's frame, also after an interrupt."""

    __slots__ = ("__weakref__",)


@attrs.define(eq=False)
class _Start:
    """A start under way, then its result, until a caller takes it."""

    claim: weakref.ref[_Claim] | None = None
    handle: Handle | None = None
    error: PluginError | None = None
    done: Waiter = attrs.field(factory=Waiter)

    @property
    def is_claimed(self) -> bool:
        return self.claim is not None and self.claim() is not None

    @property
    def is_done(self) -> bool:
        return self.handle is not None or self.error is not None


class Launcher:
    """Starts the processes of one plugin. Does not reference the plugin, so that a forgotten one can be collected.

    A start belongs to the plugin and not to the call that began it: a caller that gives up, or is interrupted, leaves
    it to the next caller. The same holds for a process that has not begun to read its first request. Held starts and
    processes are no connections of the pool; still there are never more processes than ``max_connections``, since
    a new one is only started when none is held.

    Args:
        config: what to run.
        limit: maximum bytes of a reply.
        start_timeout: seconds that a start may take, and from then on until the first reply.
        max_closing: processes that may take their time to exit.
        clock: source of time.
        scrub: removes credentials from what a process prints.
    """

    def __init__(
        self,
        config: PluginConfig,
        *,
        limit: int,
        start_timeout: float,
        max_closing: int,
        clock: Clock,
        scrub: Callable[[str], str],
    ) -> None:
        check_options(config)
        options = config.options
        work_dir = config.work_dir or None
        self._arguments = SpawnArguments(
            name=config.name,
            argv=(config.executable, *config.args),
            work_dir=work_dir,
            limits={name: options[option] for option, name in LIMITS.items() if options.get(option)},
            response_limit=limit,
            start_timeout=start_timeout,
        )
        self._program = Executable(config.executable, work_dir, str(options.get("sha256") or ""), clock)
        self._env = dict(item.split("=", 1) for item in config.env)
        self._inherit_env = bool(options.get("inherit_env"))
        self._clock = clock
        self._newest: Process | None = None
        self._closed = False
        self.start_thread = StartThread()
        self.backoff = Backoff(clock)
        self._scrub = scrub
        self._max_closing = max_closing
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._held: list[_Start] = []
        self._started = weakref.WeakSet[Process]()

    # --- for health checks -------------------------------------------------------------------------------------

    @property
    def has_process(self) -> bool:
        """Whether a process runs, idle or in use. Takes the lock."""
        with self._lock:
            started = list(self._started)
        return any(not process.end and process.channel.state is not State.CLOSED for process in started)

    def health_without_process(self) -> HealthStatus:
        """What is known, without a process, of the next start: DEGRADED if the last process failed, else UNKNOWN.

        Raises:
            PluginClosedError: the plugin is closed.
            PluginConnectionError: the program is missing, or may not be executed.
        """
        if self._closed:
            raise PluginClosedError("the plugin is closed")
        self._program.check_present(environment(self._env, inherit=self._inherit_env))
        status, message = PluginStatus.UNKNOWN, "no process runs: the next call starts one"
        failure = self.backoff.reason or ("" if self._newest is None else self._newest.failure)
        if failure:
            status, message = PluginStatus.DEGRADED, f"{message}; the last one failed: {failure}"
        return HealthStatus(status, message, reported=False)

    def await_start(self, process: Process, deadline: Deadline) -> None:
        """Waits until a process that has just started waits for something itself: its first line, as a rule.

        Raises:
            PluginConnectionError: it has ended.
        """
        until = min(deadline.at, self._clock.monotonic() + _START_GRACE)
        waits = 0
        while waits < _WAITS and self._clock.monotonic() < until:
            self._clock.wait(Waiter(), _WAIT_INTERVAL)
            waits = waits + 1 if process.is_waiting else 0
        if process.end:
            raise PluginConnectionError(f"the process ended before its first call: {process.end}")

    # --- for the pool ------------------------------------------------------------------------------------------

    def launch(self, deadline: Deadline) -> Handle:
        """A process without an owner: a held one, or a new one.

        Raises:
            PluginClosedError: the interpreter is exiting.
            PluginConnectionError: it could not be started, or must not be started yet. Nothing was sent.
            PluginTimeoutError: the deadline has passed; a start under way is left to the next caller.
        """
        if deadline.remaining() <= 0:
            raise PluginTimeoutError("the deadline passed before a process was started", replay=Replay.ALWAYS)
        supervisor_of_process().check_not_exiting()
        claim = _Claim()
        start = self._claim_held(claim) or self._claim_new(claim)
        try:
            if not start.is_done:
                self._submit(start)
                self._clock.wait(start.done, max(0.0, min(deadline.remaining(), self._arguments.start_timeout)))
            return self._take(start, deadline)
        finally:
            start.claim = None

    def _claim_held(self, claim: _Claim) -> _Start | None:
        """A held start; the one that is likely to answer first."""
        while True:
            with self._lock:
                free = [start for start in self._held if not start.is_claimed]
                start = min(free, key=_rank, default=None)
                if start is None:
                    return None
                start.claim = weakref.ref(claim)
            handle = start.handle
            if not start.is_done:
                return start
            if handle is not None and not handle.is_dead():
                return start
            self._forget(start)
            if handle is not None:
                self._close(handle.process, failed=True)

    def _forget(self, start: _Start) -> None:
        with self._lock:
            if start in self._held:
                self._held.remove(start)

    def _claim_new(self, claim: _Claim) -> _Start:
        if self._newest is not None and self._newest.channel.replies:
            self.backoff.succeeded()
        self.backoff.check()
        start = _Start(weakref.ref(claim))
        with self._lock:
            self._held.append(start)
        return start

    def _take(self, start: _Start, deadline: Deadline) -> Handle:
        if not start.is_done:
            if deadline.remaining() > 0:
                raise PluginConnectionError(
                    f"{self._arguments.argv[0]} was not started within connection.connection_timeout"
                )
            raise PluginTimeoutError("no process was started before the deadline", replay=Replay.ALWAYS)
        self._forget(start)
        if start.error is not None:
            # A copy: the frames of its traceback refer to the start, and the start to its error.
            raise copy.copy(start.error)
        assert start.handle is not None  # noqa: S101 - done without an error
        return start.handle

    def close(self, handle: Handle) -> None:
        """Closes a process, or holds one that is still starting for the next caller."""
        process = handle.process
        if not self._closed and process.timed_out and process.channel.is_starting(self._clock.monotonic()):
            process.keep_starting()
            held = _Start(handle=handle)
            with self._lock:
                if not self._closed:
                    self._held.append(held)
                    return
        self._close(process, failed=process.failed)

    def _close(self, process: Process, *, failed: bool) -> None:
        """Closes a process; if it failed before its first reply, the next start is delayed."""
        if failed and not process.channel.replies:
            self.backoff.failed(process.started, process.fault or process.end or "it ended before its first reply")
        with self._lock:
            closing = sum(each.closing and not each.end for each in self._started)
        process.close(at_once=closing >= self._max_closing)

    def shut(self) -> None:
        """Closes all held processes. A start that a caller is about to take, and any later one, serves one call."""
        with self._lock:
            self._closed = True
            held, self._held = self._held, []
        for start in held:
            if start.handle is not None and not start.is_claimed:
                start.handle.process.close()

    def after_fork_in_child(self) -> None:
        """Resets the state: starts and failures are the parent's."""
        self.backoff.after_fork_in_child()
        self.start_thread.after_fork_in_child()
        self._newest = None
        self._reset()

    # --- starting ----------------------------------------------------------------------------------------------

    def _submit(self, start: _Start) -> None:
        try:
            self.start_thread.submit(lambda: self._run(start))
        except RuntimeError as exc:  # no thread
            raise self._program.failure(exc, self._arguments.argv[0]) from exc

    def _run(self, start: _Start) -> bool:
        """Runs a start on the start thread; returns whether it has started a process."""
        if start.is_done:  # submitted twice, by one caller after the other
            return False
        with self._lock:
            wanted = not self._closed and start in self._held
        if not wanted:
            start.error = PluginClosedError("the plugin was closed before its process was started")
            start.done.set()
            return False
        started = self._clock.monotonic()
        try:
            process = self._start(Deadline(started + self._arguments.start_timeout, self._clock))
        except PluginError as error:
            if isinstance(error, PluginConnectionError):
                lasting = error.replay is Replay.NEVER
                self.backoff.failed(started, error.message, lasting=lasting)
            start.error = error.with_traceback(None)
            start.done.set()
            return False
        self._newest = process
        with self._lock:
            self._started.add(process)
        start.handle = Handle(process)
        start.done.set()
        with self._lock:
            unwanted = self._closed and not start.is_claimed
        if unwanted:
            process.close()
        return True

    def _start(self, deadline: Deadline) -> Process:
        path = self._arguments.argv[0]
        try:
            env = environment(self._env, inherit=self._inherit_env)
            path = self._program.find(env)
            with self._program.checked(path, deadline) as program:
                return spawn(
                    self._arguments,
                    program,
                    env,
                    supervisor=supervisor_of_process(),
                    clock=self._clock,
                    scrub=self._scrub,
                    on_reaped=self.start_thread.process_reaped,
                )
        except PluginError:
            raise
        except Exception as exc:
            # Any exception: it has to reach the waiting caller, which can't see this thread's tracebacks.
            raise self._program.failure(exc, path) from exc


def _rank(start: _Start) -> int:
    if start.handle is None:
        return 2
    return 1 if start.handle.channel.state is State.STARTING else 0
