"""``subprocess.Popen``, also in a process that gevent has patched."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import types
from typing import Any


def popen_class() -> type[subprocess.Popen[bytes]]:
    """The standard library's ``Popen``, whether gevent has replaced it or not.

    gevent's ``Popen`` forks in Python, so each start would run all fork hooks: gRPC waits for its calls in flight, and
    goplugins closes, in the "child", the pipe that was to become the plugin's stdin.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("subprocess"):
        return subprocess.Popen
    return _unpatched(monkey)


@functools.cache
def _unpatched(monkey: Any) -> type[subprocess.Popen[bytes]]:
    """From a fresh copy of the module: gevent also removes ``_fork_exec``, which the original class needs."""
    spec = importlib.util.find_spec("subprocess")
    if spec is None or spec.loader is None:
        return subprocess.Popen
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # gevent's os.close takes effect at the next turn of its event loop; Popen waits for the pipe's end right after it.
    module.os = types.SimpleNamespace(**{**vars(os), "close": monkey.get_original("os", "close")})  # type: ignore[attr-defined]
    found: type[subprocess.Popen[bytes]] = module.Popen
    return found
