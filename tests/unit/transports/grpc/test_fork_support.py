"""When the grpc package is loaded, and forks that begin before its hooks are registered."""

from __future__ import annotations

import subprocess
import sys

from goplugins.transports.grpc.fork_support import ForkGuard


def test_grpc_is_loaded_by_the_first_plugin_with_fork_support():
    script = """
import os, sys
from goplugins.config import PluginConfig
from goplugins.transports.grpc import GRPCPlugin
assert "grpc" not in sys.modules
GRPCPlugin(PluginConfig(name="p", transport="grpc", endpoint="127.0.0.1:1"))
assert "grpc" in sys.modules
assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "1"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


def test_a_fork_that_began_before_the_first_channel_ends_without_an_error():
    guard = ForkGuard()
    guard._after_in_parent()
    guard._before_fork()
    assert guard.forking
    guard._after_in_parent()
    assert not guard.forking
