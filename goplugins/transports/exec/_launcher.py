"""Starts plugin processes: where the program is, whether it is the right one, with what environment and limits."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from goplugins._clock import Clock
from goplugins._deadline import Deadline
from goplugins.errors import (
    InvalidConfigError,
    MissingExecutableError,
    PluginConnectionError,
    PluginTimeoutError,
    Replay,
)
from goplugins.transports.exec._keeper import Keeper, keeper_of_process
from goplugins.transports.exec._process import Handle, Process

if TYPE_CHECKING:
    from goplugins.config import PluginConfig

__all__ = ["Backoff", "Launcher", "check_options"]

_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER")
_LIMITS = {"max_memory": "RLIMIT_AS", "max_cpu_seconds": "RLIMIT_CPU", "max_open_files": "RLIMIT_NOFILE"}
_DESCRIPTORS = "/proc/self/fd"

_START_FAILURES = (OSError, ValueError, RuntimeError, subprocess.SubprocessError)
"""What starting a process may raise. RuntimeError: no thread can be started to keep it."""

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 5.0


def check_options(config: PluginConfig) -> None:
    """Refuses a plugin without a program, and limits that this system can't set.

    Raises:
        ConfigError: names the field.
    """
    if not config.executable:
        raise MissingExecutableError("missing", path="executable", fix="write the path of the program to run")
    platform: str = sys.platform
    for option in _LIMITS:
        if option in config.options and platform != "linux":
            raise InvalidConfigError("this limit needs Linux", path=f"options.{option}", fix="leave it out")


class Backoff:
    """Holds back starts after processes that failed before they had answered anything: 50 ms, doubling to 5 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.renew()

    def renew(self) -> None:
        """A fresh lock, and no failure known."""
        self._lock = threading.Lock()
        self._failures = 0
        self._decided = 0.0
        self._until = 0.0
        self._reason = ""

    def check(self) -> None:
        """Passes if a start may be tried now.

        Raises:
            PluginConnectionError: not yet; ``retry_after`` says when.
        """
        left = self._until - self._clock.monotonic()
        if self._failures and left > 0:
            raise PluginConnectionError(
                f"not started again so soon after {self._failures} failed start(s); the last: {self._reason}",
                retry_after=left,
            )

    def failed(self, started: float, reason: str) -> None:
        """Counts a failure of something that was started at ``started``. Takes the lock."""
        now = self._clock.monotonic()
        with self._lock:
            if started < self._decided:
                return  # of the same wave as the failure that was counted last
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures, 30))
            self._failures += 1
            self._reason = reason
            self._decided = now
            self._until = now + delay

    def worked(self) -> None:
        """A process has answered: the next one may start at once."""
        self._failures = 0


class Launcher:
    """Starts the processes of one plugin. Knows nothing of the plugin, so that a forgotten one can be collected.

    A pinned program is hashed through the descriptor that is then executed, so that a file put in its place
    meanwhile is not run. Who may write *into* the file itself can still beat the pin: keep it and its directory
    out of others' hands. A script is run by its interpreter under the descriptor's name, not its own.

    Args:
        config: says what to run.
        clock: measures.
    """

    def __init__(self, config: PluginConfig, clock: Clock) -> None:
        check_options(config)
        options = config.options
        self._name = config.name
        self._executable = config.executable
        self._args = tuple(config.args)
        self._env = dict(item.split("=", 1) for item in config.env)
        self._inherit_env = bool(options.get("inherit_env"))
        self._work_dir = config.work_dir or None
        self._sha256 = str(options.get("sha256") or "").lower()
        self._limits = {kind: options[option] for option, kind in _LIMITS.items() if options.get(option)}
        self._clock = clock
        self._keeper: Keeper | None = None
        self._newest: Process | None = None
        self.backoff = Backoff(clock)
        self.scrub: Callable[[str], str] = str

    def launch(self, deadline: Deadline) -> Handle:
        """A new process, which has not been spoken to.

        Raises:
            PluginConnectionError: it could not be started, or should not be yet. Nothing was sent.
            PluginTimeoutError: the deadline has passed.
        """
        if deadline.remaining() <= 0:
            raise PluginTimeoutError("the deadline passed before a process was started", replay=Replay.ALWAYS)
        if self._newest is not None and self._newest.channel.replies:
            self.backoff.worked()
        self.backoff.check()
        started = self._clock.monotonic()
        try:
            process = self._start()
        except PluginConnectionError as error:
            self.backoff.failed(started, error.message)
            raise
        except _START_FAILURES as exc:
            reason = str(exc)
            if isinstance(exc, OSError) and exc.strerror:
                reason = f"{exc.strerror}: {exc.filename}" if exc.filename else exc.strerror
            message = f"{self._executable} could not be started: {reason}"
            self.backoff.failed(started, message)
            raise PluginConnectionError(message) from exc
        self._newest = process
        return Handle(process)

    def close(self, handle: Handle) -> None:
        """Lets go of a process; one that never answered delays the next start."""
        process = handle.process
        if not process.channel.replies and not process.channel.clean:
            self.backoff.failed(process.started, process.fault or process.end or "it ended before it answered")
        process.close()

    def after_fork_in_child(self) -> None:
        """A fresh lock; the parent's failures are the parent's."""
        self.backoff.renew()
        self._newest = None

    # --- starting ----------------------------------------------------------------------------------------------

    def _start(self) -> Process:
        keeper = self._keeper = self._keeper or keeper_of_process()
        env = self._environment()
        path = self._find(env)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            stdin_theirs, stdin = _pipe(theirs, ours)
            stdout, stdout_theirs = _pipe(ours, theirs)
            stderr, stderr_theirs = _pipe(ours, theirs)
            for descriptor in (stdin, stdout, stderr):
                os.set_blocking(descriptor, False)
            with self._checked(path) as (program, passed):
                # No preexec_fn: it would run Python between fork and exec, beside other threads' locks.
                popen = subprocess.Popen(  # noqa: S603 - the configuration says what to run
                    [self._executable, *self._args],
                    executable=program,
                    stdin=stdin_theirs,
                    stdout=stdout_theirs,
                    stderr=stderr_theirs,
                    env=env,
                    cwd=self._work_dir,
                    pass_fds=passed,
                    start_new_session=True,
                )
            process = Process(
                popen, stdin, stdout, stderr, name=self._name, keeper=keeper, clock=self._clock, scrub=self.scrub
            )
            ours.pop_all()  # from here on the process's own
        try:
            keeper.guardian.protect(process.pid)
            self._limit(process.pid)
            keeper.watch(process)
        except BaseException:
            process.abandon()
            keeper.guardian.release(process.pid)
            raise
        return process

    def _environment(self) -> dict[str, str]:
        env: Mapping[str, str] = os.environ
        if not self._inherit_env:
            env = {name: value for name, value in env.items() if name in _PASSED_ON or name.startswith("LC_")}
        return {**env, **self._env}

    def _find(self, env: Mapping[str, str]) -> str:
        """The program's path: as for a shell, a name without a slash is looked for in PATH."""
        if "/" in self._executable:
            # Popen looks from the directory that the process will start in; so must the check of what it runs.
            return os.path.join(self._work_dir or "", self._executable)
        found = shutil.which(self._executable, path=env.get("PATH", os.defpath))
        if found is None:
            raise PluginConnectionError(f"{self._executable} could not be started: it is not in PATH")
        return os.path.abspath(found)

    @contextlib.contextmanager
    def _checked(self, path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        """What to execute, and the descriptors that this takes."""
        if not self._sha256:
            yield os.path.abspath(path), ()
            return
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if not hmac.compare_digest(found, self._sha256):
                raise PluginConnectionError(
                    f"{self._executable} was not started: its SHA-256 is {found}, options.sha256 says {self._sha256}",
                    retryable=False,
                    replay=Replay.NEVER,
                )
            if os.path.isdir(_DESCRIPTORS):
                yield f"{_DESCRIPTORS}/{file.fileno()}", (file.fileno(),)
            else:
                yield os.path.abspath(path), ()

    def _limit(self, pid: int) -> None:
        if not self._limits:
            return
        import resource

        for kind, limit in self._limits.items():
            resource.prlimit(pid, getattr(resource, kind), (limit, limit))


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe, each end closed with its stack."""
    ends = os.pipe()
    for stack, descriptor in zip((reader, writer), ends, strict=True):
        stack.callback(os.close, descriptor)
    return ends
