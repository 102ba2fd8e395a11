"""Each test runs with each server. A server is started once for all its tests; the last test stops it."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.hosts import HOSTS, Host
from tests.hosts.processes import adopt_orphans
from tests.hosts.servers import PluginServers

# Applications: can be imported only by their servers.
collect_ignore = [
    "calling.py",
    "django_app.py",
    "flask_app.py",
    "metrics_app.py",
    "plugin_tasks.py",
    "rest_project.py",
    "tasks.py",
    "wsgi.py",
]


def only(condition: Callable[[type[Host]], bool]) -> Callable[[Any], Any]:
    """For tests that apply to some servers only."""

    def mark(test: Any) -> Any:
        test.only = condition
        return test

    return mark


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        condition = getattr(metafunc.function, "only", lambda _: True)
        # One xdist group per server: its tests run one after the other in the same worker.
        hosts = [
            pytest.param(host, id=host.name, marks=pytest.mark.xdist_group(host.name))
            for host in HOSTS
            if condition(host)
        ]
        metafunc.parametrize("host", hosts, indirect=True, scope="session")


def missing(kind: type[Host]) -> list[str]:
    packages = [name for name in kind.packages if importlib.util.find_spec(name) is None]
    return packages + [name for name in kind.programs if shutil.which(name) is None]


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A short path, for the length limit of Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="gp-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def servers(folder: Path) -> Iterator[PluginServers]:
    adopt_orphans()
    servers = PluginServers(folder)
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest, folder: Path, servers: PluginServers) -> Iterator[Host]:
    kind: type[Host] = request.param
    if needed := missing(kind):
        pytest.skip(f"needs {', '.join(needed)}")
    own = folder / kind.name
    own.mkdir()
    host = kind(own, servers.plugins)
    try:
        host.start()
        yield host
    finally:
        host.kill()
