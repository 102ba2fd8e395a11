"""Where callers get processes from: starts that are under way, processes that are still starting, and new ones."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from goplugins.errors import (
    InvalidConfigError,
    MissingExecutableError,
    PluginClosedError,
    PluginConnectionError,
    PluginError,
    PluginTimeoutError,
    Replay,
)
from goplugins.runtime.clock import Clock, Waiter
from goplugins.runtime.deadline import Deadline
from goplugins.transports.exec.channel import State
from goplugins.transports.exec.executable import Executable
from goplugins.transports.exec.process import Handle, Process
from goplugins.transports.exec.spawn import LIMITS, SpawnArguments, environment, spawn
from goplugins.transports.exec.start_backoff import Backoff
from goplugins.transports.exec.start_thread import StartThread
from goplugins.transports.exec.supervisor import supervisor_of_process

if TYPE_CHECKING:
    from goplugins.config import PluginConfig

__all__ = ["Launcher", "check_options"]


def check_options(config: PluginConfig) -> None:
    """Refuses a plugin without a program, and limits that this system can't set.

    A program that is not there is no reason: it may be installed before the first call, or come with a mount.

    Raises:
        ConfigError: names the field.
    """
    if not config.executable:
        raise MissingExecutableError("missing", path="executable", fix="write the path of the program to run")
    platform: str = sys.platform
    for option in LIMITS:
        if option in config.options and platform != "linux":
            raise InvalidConfigError("this limit needs Linux", path=f"options.{option}", fix="leave it out")


class _Claim:
    """Says that a caller waits for a start. Lost with the caller's frame, whatever interrupts that."""

    __slots__ = ("__weakref__",)


class _Start:
    """A start under way, or what has come of it, until a caller takes it."""

    __slots__ = ("claim", "error", "handle", "news")

    def __init__(self) -> None:
        self.claim: weakref.ref[_Claim] | None = None
        self.news = Waiter()
        self.handle: Handle | None = None
        self.error: PluginError | None = None

    @property
    def is_claimed(self) -> bool:
        return self.claim is not None and self.claim() is not None

    @property
    def is_done(self) -> bool:
        return self.handle is not None or self.error is not None


class Launcher:
    """Starts the processes of one plugin. Knows nothing of the plugin, so that a forgotten one can be collected.

    A start belongs to the plugin and not to the call that asked for it. A caller that gives up, or is interrupted,
    leaves it to the next one; and so it does with a process that has not begun to read its first request yet. What
    is held for the next caller is no connection of the pool. Still there are no more processes than places: a new
    one is only started where nothing is held.

    Args:
        config: says what to run.
        limit: bytes that a reply may have.
        patience: seconds that a start may take, and then again a process to come up.
        clock: measures.
    """

    def __init__(self, config: PluginConfig, *, limit: int, patience: float, clock: Clock) -> None:
        check_options(config)
        options = config.options
        work_dir = config.work_dir or None
        self._recipe = SpawnArguments(
            name=config.name,
            argv=(config.executable, *config.args),
            work_dir=work_dir,
            limits={kind: options[option] for option, kind in LIMITS.items() if options.get(option)},
            response_limit=limit,
            patience=patience,
        )
        self._program = Executable(config.executable, work_dir, str(options.get("sha256") or ""), clock)
        self._env = dict(item.split("=", 1) for item in config.env)
        self._inherit_env = bool(options.get("inherit_env"))
        self._clock = clock
        self._starter = StartThread()
        self._newest: Process | None = None
        self._closed = False
        self.backoff = Backoff(clock)
        self.scrub: Callable[[str], str] = str
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._held: list[_Start] = []

    # --- for the pool ------------------------------------------------------------------------------------------

    def launch(self, deadline: Deadline) -> Handle:
        """A process that belongs to nobody: one that is held, or a new one.

        Raises:
            PluginConnectionError: it could not be started, or should not be yet. Nothing was sent.
            PluginTimeoutError: the deadline has passed; what was begun goes on for the next caller.
        """
        if deadline.remaining() <= 0:
            raise PluginTimeoutError("the deadline passed before a process was started", replay=Replay.ALWAYS)
        claim = _Claim()
        start = self._claim_held(claim) or self._claim_new(claim)
        try:
            if not start.is_done:
                self._submit(start)
                self._clock.wait(start.news, max(0.0, min(deadline.remaining(), self._recipe.patience)))
            return self._take(start, deadline)
        finally:
            start.claim = None

    def _claim_held(self, claim: _Claim) -> _Start | None:
        """One that is held; those that answer at once come first."""
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
                self._let_go(handle.process, failed=True)

    def _forget(self, start: _Start) -> None:
        with self._lock:
            if start in self._held:
                self._held.remove(start)

    def _claim_new(self, claim: _Claim) -> _Start:
        if self._newest is not None and self._newest.channel.replies:
            self.backoff.worked()
        self.backoff.check()
        start = _Start()
        start.claim = weakref.ref(claim)
        with self._lock:
            self._held.append(start)
        return start

    def _take(self, start: _Start, deadline: Deadline) -> Handle:
        if not start.is_done:
            if deadline.remaining() > 0:
                raise PluginConnectionError(
                    f"{self._recipe.argv[0]} was not started within connection.connection_timeout"
                )
            raise PluginTimeoutError("no process was started before the deadline", replay=Replay.ALWAYS)
        self._forget(start)
        if start.error is not None:
            raise start.error
        assert start.handle is not None  # noqa: S101 - done without an error
        return start.handle

    def close(self, handle: Handle) -> None:
        """Lets go of a process, or holds one that is still starting for the next caller."""
        process = handle.process
        if not self._closed and process.timed_out and process.channel.may_stay(self._clock.monotonic()):
            process.keep_starting()
            held = _Start()
            held.handle = handle
            with self._lock:
                if not self._closed:
                    self._held.append(held)
                    return
        self._let_go(process, failed=process.failed)

    def _let_go(self, process: Process, *, failed: bool) -> None:
        """Dismisses a process; one that failed before it answered anything delays the next start."""
        if failed and not process.channel.replies:
            self.backoff.failed(process.started, process.fault or process.end or "it ended before it answered")
        process.close()

    def shut(self) -> None:
        """Lets go of all that is held; later starts, and those that a caller is about to take, are used once."""
        with self._lock:
            self._closed = True
            held, self._held = self._held, []
        for start in held:
            if start.handle is not None and not start.is_claimed:
                start.handle.process.close()

    def after_fork_in_child(self) -> None:
        """Fresh locks; the parent's starts and failures are the parent's."""
        self.backoff.renew()
        self._starter.renew()
        self._newest = None
        self._renew()

    # --- starting ----------------------------------------------------------------------------------------------

    def _submit(self, start: _Start) -> None:
        try:
            self._starter.submit(lambda: self._run(start))
        except RuntimeError as exc:  # no thread
            raise self._program.failure(exc, self._recipe.argv[0]) from exc

    def _run(self, start: _Start) -> bool:
        """Does what a start is there for, on the starter's thread; true if there is a process now."""
        if start.is_done:  # submitted twice, by one caller after the other
            return False
        with self._lock:
            wanted = not self._closed and start in self._held
        if not wanted:
            start.error = PluginClosedError("the plugin was closed before its process was started")
            start.news.set()
            return False
        started = self._clock.monotonic()
        try:
            process = self._start(Deadline(started + self._recipe.patience, self._clock))
        except PluginConnectionError as error:
            lasting = error.replay is Replay.NEVER
            self.backoff.failed(started, error.message, lasting=lasting)
            start.error = error
            start.news.set()
            return False
        self._newest = process
        start.handle = Handle(process)
        start.news.set()
        with self._lock:
            unwanted = self._closed and not start.is_claimed
        if unwanted:
            process.close()
        return True

    def _start(self, deadline: Deadline) -> Process:
        path = self._recipe.argv[0]
        try:
            env = environment(self._env, inherit=self._inherit_env)
            path = self._program.find(env)
            with self._program.checked(path, deadline) as program:
                return spawn(
                    self._recipe,
                    program,
                    env,
                    keeper=supervisor_of_process(),
                    clock=self._clock,
                    scrub=self.scrub,
                    on_end=self._starter.ended,
                )
        except PluginConnectionError:
            raise
        except Exception as exc:
            # Whatever it was: the caller waits for word of it, and it is the caller who can say it on.
            raise self._program.failure(exc, path) from exc


def _rank(start: _Start) -> int:
    if start.handle is None:
        return 2
    return 1 if start.handle.channel.state is State.STARTING else 0
