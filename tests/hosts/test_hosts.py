"""The same application under several servers and task workers."""

from __future__ import annotations

import collections
import itertools
import json
import time
from pathlib import Path

import pytest

from goplugins import PluginExecutionError, PluginTimeoutError
from tests.hosts.conftest import only
from tests.hosts.hosts import Celery, CeleryPlugins, DjangoPrefork, FlaskPreload, Gevent, Host, Job
from tests.hosts.plugins import PLUGINS
from tests.hosts.processes import links, names
from tests.timing import until

SOCKETS = 6
"""Sockets of a process that has called all plugins: one for each except exec and python."""

MANY = 2_000

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(240)]

_numbers = itertools.count()


def jobs(count: int, **options: float) -> list[Job]:
    """Calls of all plugins in turn."""
    return [Job(PLUGINS[number % len(PLUGINS)], str(next(_numbers)), **options) for number in range(count)]  # type: ignore[arg-type]


def ledger(host: Host) -> list[list[str]]:
    """Rows of process id, number, plugin, and begins or ends; with seconds and error where a call ends."""
    return [line.split(" ", 5) for line in (host.folder / "ledger").read_text().splitlines()]


@only(lambda host: host.imports)
def test_calls_are_made_before_the_fork(host: Host) -> None:
    """At import, in the process from which all workers are forked."""
    ends = [words for words in ledger(host) if words[1].startswith("import") and words[3] == "ends"]
    assert {words[2] for words in ends if words[0] == str(host.pid)} == set(PLUGINS)
    assert [words for words in ends if words[5]] == []
    assert len(json.loads((host.folder / f"imported-{host.pid}").read_text())) >= SOCKETS


def test_every_transport_answers(host: Host) -> None:
    outcomes = host.run(jobs(4 * len(PLUGINS)))
    assert [outcome for outcome in outcomes if outcome.error or outcome.lost] == [], host.log.read_text()
    assert len(outcomes) == 4 * len(PLUGINS)


def test_a_rejection_by_the_plugin_raises_an_execution_error(host: Host) -> None:
    outcomes = host.run(jobs(len(PLUGINS), refuse=True))
    assert [outcome for outcome in outcomes if not outcome.error.startswith("PluginExecutionError: ")] == []


def test_calls_end_at_their_deadline(host: Host) -> None:
    outcomes = host.run(jobs(len(PLUGINS), seconds=3, timeout=0.5))
    assert [outcome for outcome in outcomes if not outcome.error.startswith("PluginTimeoutError: ")] == []
    # The documented bound is 0.1 s; the machine may be busy.
    assert [outcome for outcome in outcomes if outcome.seconds > 1.0] == []


@only(lambda host: issubclass(host, Celery))
def test_an_error_keeps_its_class_through_the_result_backend(host: Celery) -> None:
    for plugin in PLUGINS:
        with pytest.raises(PluginExecutionError) as caught:
            host.send("fail", plugin).get(timeout=host.hung)
        assert (caught.value.plugin, caught.value.attempts) == (plugin, 1)
        assert "REFUSED" in str(caught.value.details)


@only(lambda host: issubclass(host, Gevent))
def test_a_slow_call_blocks_no_other_greenlet(host: Host) -> None:
    gaps = {plugin: host.get(f"/gap/{plugin}") for plugin in PLUGINS}
    assert {plugin: gap for plugin, gap in gaps.items() if gap > 0.5} == {}


@only(lambda host: host in {FlaskPreload, DjangoPrefork})
def test_calls_end_with_the_timeout_of_their_request(host: Host) -> None:
    for plugin in PLUGINS:
        reply = host.get(f"/call/{plugin}/patience?seconds=3&timeout=10", **{"X-Request-Timeout": "0.5"})
        assert reply["error"].startswith("PluginTimeoutError: ")
        assert reply["seconds"] < 1.0


@only(lambda host: host in {FlaskPreload, DjangoPrefork})
def test_the_health_page_reports_that_plugins_are_ready(host: Host) -> None:
    # A call that timed out ends its exec plugin: the page reports that until the plugin runs again.
    until(lambda: host.get("/health/plugins")["status"] == "ready", 10, str(host.get("/health/plugins")))


@only(lambda host: host is CeleryPlugins)
def test_a_call_ends_before_the_limit_of_its_task(host: Celery) -> None:
    for plugin in PLUGINS:
        with pytest.raises(PluginTimeoutError):
            host.send("overtime", plugin).get(timeout=host.hung)


def test_no_process_holds_the_connections_of_another(host: Host) -> None:
    owners = sockets_of_workers(host)
    if host.imports:
        owners[host.pid] = set(json.loads((host.folder / f"imported-{host.pid}").read_text()))
    processes = host.processes()
    held = {pid: links(pid) for pid in processes}
    shared = [
        (pid, other, sockets & held[other])
        for pid, sockets in owners.items()
        for other in processes - {pid}
        if sockets & held[other]
    ]
    assert shared == []

    plugins = {pid for pid in processes if is_plugin(pid)}
    pipes = {link for pid in plugins for link in held[pid] if link.startswith("pipe:")}
    holders = {pipe: [pid for pid in processes - plugins if pipe in held[pid]] for pipe in pipes}
    assert any(holders.values())
    assert {pipe: pids for pipe, pids in holders.items() if len(pids) > 1} == {}


def sockets_of_workers(host: Host) -> dict[int, set[str]]:
    """Sockets of both workers, once each has called all plugins."""
    found: dict[int, set[str]] = {}

    def complete() -> bool:
        assert not [outcome for outcome in host.run(jobs(2 * len(PLUGINS))) if outcome.error or outcome.lost]
        reply = host.get("/sockets")
        found[reply["pid"]] = set(reply["sockets"])
        for pid in list(found):
            if not Path(f"/proc/{pid}").exists():  # recycled
                del found[pid]
        return len([sockets for sockets in found.values() if len(sockets) >= SOCKETS]) >= 2

    until(complete, 60, "two workers have called all plugins")
    return found


def is_plugin(pid: int) -> bool:
    """Whether the process is an exec plugin or the orphan guard."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "--stdio" in command or "groups=" in command


def test_no_call_fails_while_workers_are_replaced(host: Host) -> None:
    """Workers are recycled after a number of calls; HUP replaces all workers halfway."""
    started, logged = time.monotonic(), host.log.stat().st_size
    outcomes = host.run(jobs(MANY), host.reload)
    # A gevent worker checks its number of calls once a second: on a fast machine all calls may be over by then.
    while len(workers := collections.Counter(outcome.pid for outcome in outcomes)) < 5:
        assert time.monotonic() - started < 60, f"no worker was recycled: {workers}"
        outcomes += host.run(jobs(200))
    took = time.monotonic() - started
    print(f"{host.name}: {len(outcomes)} calls, {len(workers)} workers, {took:.1f} s")
    reached = {words[1] for words in ledger(host)}
    lost_by_server = [outcome for outcome in outcomes if outcome.lost and outcome.job.number not in reached]
    assert len(lost_by_server) <= host.may_lose, lost_by_server
    outcomes = [outcome for outcome in outcomes if outcome not in lost_by_server]
    outcomes += host.run([outcome.job for outcome in lost_by_server])
    assert [outcome for outcome in outcomes if outcome.lost] == []
    assert [outcome for outcome in outcomes if outcome.error] == []
    assert len(outcomes) >= MANY
    begun, ended = ({tuple(words[:3]) for words in ledger(host) if words[3] == what} for what in ("begins", "ends"))
    assert begun == ended, "a call did not end"
    assert host.problems(logged) == []


def test_no_process_is_left_after_stop(host: Host) -> None:
    """Neither workers nor exec plugins; the server ends within 15 s."""
    assert any(is_plugin(pid) for pid in host.processes())
    started = time.monotonic()
    assert host.stop() == 0
    assert time.monotonic() - started < 15
    until(lambda: not host.processes(), 3, f"all processes are gone: {names(host.processes())}")
