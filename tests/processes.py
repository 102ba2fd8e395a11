"""Child processes of tests.

A test that forks does so in a process of its own, by ``run()``: a worker of pytest has threads of xdist and gRPC, and
plugins of earlier tests, all of which would be part of the child.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["children", "in_child", "run"]

ROOT = Path(__file__).resolve().parents[1]


def run(function: Callable[..., Any], *arguments: Any, timeout: float = 50.0) -> Any:
    """Calls a function of a test module in a fresh interpreter, and returns what it returns.

    Args:
        function: defined at the top of its module, or a static method of a class there.
        arguments: values of JSON, as is the result.
        timeout: seconds until the process is killed and the test fails.
    """
    # By its file: pytest imports a module under another name where the folder has no __init__.py.
    module = ".".join(Path(function.__code__.co_filename).relative_to(ROOT).with_suffix("").parts)
    done = subprocess.run(
        # From Python 3.12 on, a fork beside other threads warns; here it is on purpose.
        [
            sys.executable,
            *("-W", "error", "-W", "ignore:This process:DeprecationWarning", "-m", "tests.processes"),
            f"{module}:{function.__qualname__}",
            json.dumps(arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def in_child(
    function: Callable[[], Any],
    fork: Callable[[], int] = os.fork,
    leave: Callable[[int], Any] = os._exit,
    patience: float = 10.0,
) -> Any:
    """Calls ``function`` in a forked child, and returns what it returns there; else a text that says what went wrong.

    Args:
        function: its result is a value of JSON.
        fork: what forks.
        leave: how the child ends, with status 7. With ``sys.exit`` the interpreter shuts down in the child.
        patience: seconds until the child is killed.
    """
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(reader)
        try:
            text = json.dumps(function())
        except SystemExit:
            raise  # that of a child of its own
        except BaseException:
            text = json.dumps(traceback.format_exc())
        os.write(writer, text.encode())
        os.close(writer)
        leave(7)
    os.close(writer)
    end = time.monotonic() + patience
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.002)
    if ended == (0, 0):
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    with os.fdopen(reader) as stream:
        text = stream.read()
    code = "hung" if ended == (0, 0) else os.waitstatus_to_exitcode(ended[1])
    return json.loads(text) if text and code == 7 else f"ended with {code}: {text}"


def children(command: str = "") -> set[int]:
    """Process ids of the children of this process, zombies included. Other workers of a run have children of their own.

    Args:
        command: only those whose command line contains this; a zombie has none.
    """
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            found.update(map(int, Path(f"/proc/self/task/{task}/children").read_text().split()))
        except OSError:  # the thread has just ended
            continue
    return {pid for pid in found if command in _command_line(pid)} if command else found


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    module, _, path = sys.argv[1].partition(":")
    target: Any = importlib.import_module(module)
    for part in path.split("."):
        target = getattr(target, part)
    print(json.dumps(target(*json.loads(sys.argv[2]))))


@contextlib.contextmanager
def few_descriptors(free: int, room: int = 40) -> Iterator[None]:
    """Leaves this process ``free`` descriptors; its limit is ``room`` above the highest one in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + room, hard))
    held: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.dup(2))
    for _ in range(free):
        os.close(held.pop())
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
