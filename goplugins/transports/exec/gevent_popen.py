"""How a process is started where gevent has replaced the standard library's way."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import types
from typing import Any

__all__ = ["popen_class"]


def popen_class() -> type[subprocess.Popen[bytes]]:
    """The standard library's ``Popen``, also in a process that gevent has patched.

    gevent's own forks in Python, so each start would be a fork to all who asked to be told of one: gRPC waits for its
    calls in flight, and our own parts close in the "child" what was to become the plugin's stdin.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("subprocess"):
        return subprocess.Popen
    return _unpatched(monkey)


@functools.cache
def _unpatched(monkey: Any) -> type[subprocess.Popen[bytes]]:
    """From a copy of the module: in the patched one, the original class lacks the function that starts processes."""
    spec = importlib.util.find_spec("subprocess")
    if spec is None or spec.loader is None:
        return subprocess.Popen
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # gevent's close comes into force at the hub's next turn, and Popen waits at once for what that brings about.
    module.os = types.SimpleNamespace(**{**vars(os), "close": monkey.get_original("os", "close")})  # type: ignore[attr-defined]
    found: type[subprocess.Popen[bytes]] = module.Popen
    return found
