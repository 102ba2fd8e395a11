"""Starts processes: the start thread, and one process's pipes, environment and limits."""

from __future__ import annotations

import _thread
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Mapping

import attrs

from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import close_in_children
from goplugins.transports.exec.popen import popen_class
from goplugins.transports.exec.process_handle import Process
from goplugins.transports.exec.supervisor import Supervisor

_INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER")
LIMITS = {"max_memory": "RLIMIT_AS", "max_cpu_seconds": "RLIMIT_CPU", "max_open_files": "RLIMIT_NOFILE"}
"""Option -> name of the resource limit."""


@attrs.frozen(kw_only=True)
class SpawnArguments:
    """What all processes of one plugin have in common.

    Attributes:
        name: the plugin's name.
        argv: the command line.
        work_dir: the working directory; None for the host's.
        limits: name of a resource limit -> its value.
        response_limit: maximum bytes of a reply.
        start_timeout: seconds until it must have answered its first request.
    """

    name: str
    argv: tuple[str, ...]
    work_dir: str | None
    limits: Mapping[str, int]
    response_limit: int
    start_timeout: float


def environment(own: Mapping[str, str], *, inherit: bool) -> dict[str, str]:
    """The environment of a process: its own variables, and those of the host, or only the common ones of these."""
    env: Mapping[str, str] = os.environ
    if not inherit:
        env = {name: value for name, value in env.items() if name in _INHERITED or name.startswith("LC_")}
    return {**env, **own}


def spawn(
    arguments: SpawnArguments,
    program: tuple[str, tuple[int, ...]],
    env: Mapping[str, str],
    *,
    supervisor: Supervisor,
    clock: Clock,
    scrub: Callable[[str], str],
    on_reaped: Callable[[], None],
) -> Process:
    """Starts a supervised process. Must not be interrupted, so it runs on a start thread, never on a caller's.

    Args:
        arguments: what to start.
        program: the path to execute, and the descriptors that the process inherits for it.
        env: its environment.
        supervisor: supervises it.
        clock: source of time.
        scrub: removes credentials from what it prints.
        on_reaped: called by the supervisor thread once it was reaped.

    Raises:
        OSError: the system refused.
    """
    path, inherited = program
    supervisor.open()
    with supervisor.without_fork():
        supervisor.check_not_exiting()
        with contextlib.ExitStack() as parent_ends, contextlib.ExitStack() as child_ends:
            child_stdin, stdin = _pipe(child_ends, parent_ends)
            stdout, child_stdout = _pipe(parent_ends, child_ends)
            stderr, child_stderr = _pipe(parent_ends, child_ends)
            for descriptor in (stdin, stdout, stderr):
                os.set_blocking(descriptor, False)
            # No preexec_fn: it would run Python code between fork and exec, where other threads' locks may be held.
            popen = popen_class()(
                arguments.argv,
                executable=path,
                stdin=child_stdin,
                stdout=child_stdout,
                stderr=child_stderr,
                env=env,
                cwd=arguments.work_dir,
                pass_fds=inherited,
                start_new_session=True,
            )
            process = Process(
                popen,
                stdin,
                stdout,
                stderr,
                name=arguments.name,
                limit=arguments.response_limit,
                start_timeout=arguments.start_timeout,
                post=supervisor.post,
                clock=clock,
                scrub=scrub,
                on_reaped=on_reaped,
            )
            parent_ends.pop_all()  # from here on the process closes them
        try:
            supervisor.orphan_guard.protect(process.pid)
            _limit(process.pid, arguments.limits)
            supervisor.watch(process)
        except BaseException:
            process.kill_and_reap()
            supervisor.orphan_guard.release(process.pid)
            raise
    return process


def _limit(pid: int, limits: Mapping[str, int]) -> None:
    if not limits:
        return
    import resource

    for name, limit in limits.items():
        resource.prlimit(pid, getattr(resource, name), (limit, limit))


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe; each end is closed by its stack."""
    ends = os.pipe()
    for stack, descriptor in zip((reader, writer), ends, strict=True):
        stack.callback(os.close, descriptor)
        close_in_children(descriptor)  # a fork waits for a start under way, but only for a limited time
    return ends


Job = Callable[[], bool]


class StartThread:
    """Runs the starts of one plugin one after the other, on a thread of its own.

    A caller's thread won't do: a signal handler may raise there at any moment, even between the start of a process
    and the first line that records it. And a process with a parent-death signal gets it when the *thread*
    that started it ends, so this thread ends only after all its processes. There is one thread for each
    plugin, so that a program on a file system that hangs delays no other plugin.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] | None = None
        self._runs = False

    def after_fork_in_child(self) -> None:
        """A child has neither the thread nor its jobs."""
        self._reset()

    @property
    def runs(self) -> bool:
        """Whether the thread runs."""
        return self._runs

    def submit(self, job: Job) -> None:
        """Runs ``job``, which returns whether it has started a process. Takes the lock.

        A job must tolerate running twice: if a caller is interrupted in here, it or another one submits the job again.

        Raises:
            RuntimeError: no thread can be started.
        """
        with self._lock:
            if self._jobs is None:  # only now: gevent may have patched the standard library since the plugin was built
                self._jobs = queue.SimpleQueue()
            jobs, runs = self._jobs, self._runs
        jobs.put(job)
        if not runs:
            # One C call. Thread.start waits for an Event, and a signal handler that raises there can leave the Event's
            # lock held, so that the new thread would hang before its first line.
            _thread.start_new_thread(self._begin, ())

    def _begin(self) -> None:
        """Starts the named thread, from a thread where no signal handler runs."""
        try:
            threading.Thread(target=self._run, name="goplugins-exec-start", daemon=True).start()
        except RuntimeError:  # no second thread can be started
            self._run()

    def process_reaped(self) -> None:
        """Counts out one process that a job has started."""
        if self._jobs is not None:
            self._jobs.put(None)

    def _run(self) -> None:
        # Set by the thread itself: the caller that started it may be interrupted before, and two may start one.
        with self._lock:
            if self._runs:
                return
            self._runs = True
        jobs, alive = self._jobs, 0
        while jobs is not None:
            # First of all: another thread that was started for the same job may have run it.
            with self._lock:
                if not alive and jobs.empty():
                    self._runs = False
                    return
            job = jobs.get()
            if job is None:
                alive -= 1
            elif job():
                alive += 1
            del job
