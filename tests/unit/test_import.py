"""``import goplugins`` starts no thread, opens no file, loads no large package and prints nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

_PROBE = """
import io, json, logging, os, sys, threading, warnings
warnings.simplefilter("error")
sys.stdout, out = io.StringIO(), sys.stdout
before = {
    "modules": set(sys.modules),
    "fds": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
    "environ": dict(os.environ),
    "hooks": (sys.excepthook, threading.excepthook, sys.getswitchinterval(), sys.gettrace()),
}
import goplugins
facts = {
    "modules": sorted(set(sys.modules) - before["modules"]),
    "threads": [thread.name for thread in threading.enumerate()],
    "fds_before": before["fds"],
    "fds_after": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
    "environ_changed": dict(os.environ) != before["environ"],
    "hooks_changed": before["hooks"]
    != (sys.excepthook, threading.excepthook, sys.getswitchinterval(), sys.gettrace()),
    "handlers": [
        f"{name or 'root'}: {type(handler).__name__}"
        for name, logger in [("", logging.getLogger()), *logging.root.manager.loggerDict.items()]
        for handler in getattr(logger, "handlers", ())
    ],
    "levels": [
        name
        for name, logger in logging.root.manager.loggerDict.items()
        if name.startswith("goplugins") and getattr(logger, "level", 0)
    ],
    "root_level": logging.getLogger().level,
    "printed": sys.stdout.getvalue(),
}
out.write(json.dumps(facts))
"""

LARGE = {"requests", "urllib3", "grpc", "google.protobuf", "yaml", "tenacity", "waitress", "cattrs", "ssl", "asyncio"}


@pytest.fixture(scope="module")
def facts() -> Any:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_starts_no_thread(facts: Any) -> None:
    assert facts["threads"] == ["MainThread"]


def test_opens_nothing(facts: Any) -> None:
    assert facts["fds_after"] == facts["fds_before"]


@pytest.mark.parametrize("package", sorted(LARGE))
def test_does_not_import(facts: Any, package: str) -> None:
    found = [name for name in facts["modules"] if name == package or name.startswith(package + ".")]
    assert found == []


def test_adds_only_a_null_log_handler(facts: Any) -> None:
    assert set(facts["handlers"]) <= {"goplugins: NullHandler"}
    assert facts["levels"] == []
    assert facts["root_level"] == 30


def test_changes_no_global_state_and_prints_nothing(facts: Any) -> None:
    assert not facts["environ_changed"]
    assert not facts["hooks_changed"]
    assert facts["printed"] == ""


_WITHOUT_PLUGINS = """
import json, sys
from goplugins import CircuitBreaker, Manager, ManagerConfig, RateLimiter
Manager(dict, dict)
ManagerConfig()
print(json.dumps(sorted(sys.modules)))
"""


def test_a_manager_without_plugins_loads_no_transport() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PLUGINS], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert loaded.isdisjoint({"requests", "urllib3", "grpc", "yaml", "waitress", "tenacity"})
