"""Starting one process: its pipes, environment and limits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping

import attrs

from goplugins.runtime.clock import Clock
from goplugins.runtime.fork import keep_from_children
from goplugins.transports.exec.gevent_popen import popen_class
from goplugins.transports.exec.process import Process
from goplugins.transports.exec.supervisor import Supervisor

__all__ = ["LIMITS", "SpawnArguments", "environment", "spawn"]

_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER")
LIMITS = {"max_memory": "RLIMIT_AS", "max_cpu_seconds": "RLIMIT_CPU", "max_open_files": "RLIMIT_NOFILE"}
"""Option -> what the system calls it."""


@attrs.frozen(kw_only=True)
class SpawnArguments:
    """What all processes of one plugin have in common.

    Attributes:
        name: the plugin's.
        argv: the command line.
        work_dir: the directory to run it in; None for ours.
        limits: what the system calls a limit -> its value.
        response_limit: bytes that a reply may have.
        patience: seconds that it has to come up.
    """

    name: str
    argv: tuple[str, ...]
    work_dir: str | None
    limits: Mapping[str, int]
    response_limit: int
    patience: float


def environment(own: Mapping[str, str], *, inherit: bool) -> dict[str, str]:
    """The environment of a process: a little of ours, or all of it, and its own."""
    env: Mapping[str, str] = os.environ
    if not inherit:
        env = {name: value for name, value in env.items() if name in _PASSED_ON or name.startswith("LC_")}
    return {**env, **own}


def spawn(
    recipe: SpawnArguments,
    program: tuple[str, tuple[int, ...]],
    env: Mapping[str, str],
    *,
    keeper: Supervisor,
    clock: Clock,
    scrub: Callable[[str], str],
    on_end: Callable[[], None],
) -> Process:
    """Starts a process that the keeper watches from then on. Not for a caller's thread: it must not be interrupted.

    Args:
        recipe: what to start.
        program: the path to execute, and descriptors that this takes.
        env: its environment.
        keeper: watches over it.
        clock: measures.
        scrub: takes credentials out of what it prints.
        on_end: called once it was reaped.

    Raises:
        OSError: the system refused.
    """
    path, passed = program
    keeper.open()
    with keeper.without_fork():
        keeper.check_not_ending()
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            stdin_theirs, stdin = _pipe(theirs, ours)
            stdout, stdout_theirs = _pipe(ours, theirs)
            stderr, stderr_theirs = _pipe(ours, theirs)
            for descriptor in (stdin, stdout, stderr):
                os.set_blocking(descriptor, False)
            # No preexec_fn: it would run Python between fork and exec, beside other threads' locks.
            popen = popen_class()(
                recipe.argv,
                executable=path,
                stdin=stdin_theirs,
                stdout=stdout_theirs,
                stderr=stderr_theirs,
                env=env,
                cwd=recipe.work_dir,
                pass_fds=passed,
                start_new_session=True,
            )
            process = Process(
                popen,
                stdin,
                stdout,
                stderr,
                name=recipe.name,
                limit=recipe.response_limit,
                patience=recipe.patience,
                keeper=keeper,
                clock=clock,
                scrub=scrub,
                on_end=on_end,
            )
            ours.pop_all()  # from here on the process's own
        try:
            keeper.guardian.protect(process.pid)
            _limit(process.pid, recipe.limits)
            keeper.watch(process)
        except BaseException:
            process.abandon()
            keeper.guardian.release(process.pid)
            raise
    return process


def _limit(pid: int, limits: Mapping[str, int]) -> None:
    if not limits:
        return
    import resource

    for kind, limit in limits.items():
        resource.prlimit(pid, getattr(resource, kind), (limit, limit))


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe, each end closed with its stack."""
    ends = os.pipe()
    for stack, descriptor in zip((reader, writer), ends, strict=True):
        stack.callback(os.close, descriptor)
        keep_from_children(descriptor)  # a fork waits for a start under way, but not for ever
    return ends
