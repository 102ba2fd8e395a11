"""How a process is started where gevent has replaced the standard library's way."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys

__all__ = ["popen_class"]


def popen_class() -> type[subprocess.Popen[bytes]]:
    """The standard library's ``Popen``, also in a process that gevent has patched.

    gevent's own forks in Python, so each start would be a fork to all who asked to be told of one: gRPC waits for its
    calls in flight, and our own parts close in the "child" what was to become the plugin's stdin.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("subprocess"):
        return subprocess.Popen
    return _unpatched()


@functools.cache
def _unpatched() -> type[subprocess.Popen[bytes]]:
    """From a copy of the module: the original class is left without the function that it starts processes with."""
    spec = importlib.util.find_spec("subprocess")
    if spec is None or spec.loader is None:
        return subprocess.Popen
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[subprocess.Popen[bytes]] = module.Popen
    return found
