"""One call at import, a plugin of every transport configured, and forks up to 200 ms later: every request is answered.

Each server is started once for each plugin that is called at import.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.hosts.conftest import missing
from tests.hosts.hosts import FIRST_CALLS, Celery, Host, Job
from tests.hosts.plugins import PLUGINS
from tests.hosts.servers import PluginServers

DELAYS = (0.0, 0.02, 0.1, 0.2)
ROUNDS = 4

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(300)]

_numbers = itertools.count()


def firsts(kind: type[Host]) -> list[tuple[str, float]]:
    names = [name for name in PLUGINS if kind.may_call_grpc or not name.startswith("grpc")]
    return [(name, DELAYS[index % len(DELAYS)]) for index, name in enumerate(names)]


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in FIRST_CALLS])
def test_every_request_is_answered(kind: type[Host], folder: Path, servers: PluginServers) -> None:
    if needed := missing(kind):
        pytest.skip(f"needs {', '.join(needed)}")
    for first in firsts(kind):
        own = folder / f"{kind.name}-{first[0]}"
        own.mkdir()
        host = kind(own, servers.plugins)
        host.first = first
        jobs = [Job(plugin, f"first-{next(_numbers)}") for _ in range(ROUNDS) for plugin in PLUGINS]
        try:
            host.start()
            # Celery replaces its processes on HUP within half a minute.
            outcomes = host.run(jobs, (lambda: None) if issubclass(kind, Celery) else host.reload)
        finally:
            host.kill()
        log = host.log.read_text(errors="replace")[-5000:]
        reached = {words.split()[1] for words in (own / "ledger").read_text().splitlines()}
        lost = [outcome for outcome in outcomes if outcome.lost]
        assert [outcome for outcome in lost if outcome.job.number in reached] == [], (first, log)
        assert len(lost) <= kind.may_lose, (first, lost, log)  # by the server, before they reached the application
        assert [outcome for outcome in outcomes if outcome.error] == [], (first, log)
