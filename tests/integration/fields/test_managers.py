"""The other fields of a plugin, discovery, options of reloads, the manager's own fields; and that none is missing."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import pytest

from goplugins import (
    FunctionPlugin,
    FunctionPluginFactory,
    Manager,
    ManagerConfig,
    PluginConfig,
    PluginError,
    ReloadError,
    ReloadOptions,
    TransportType,
    config as configuration,
)
from goplugins.config.schema import fields_of
from goplugins.config.transport_options import OPTIONS
from tests.integration.fields import test_chaos_and_hedging, test_groups, test_plugins, test_policies
from tests.integration.fields.bench import Experiment, runs
from tests.integration.fields.test_plugins import outcome, plugin, served
from tests.processes import ROOT
from tests.servers import Peer, RawServer, free_port, http_reply, ok, reply_ok
from tests.timing import until

pytestmark = pytest.mark.matrix

UNIX = {"transport": "unix", "endpoint": "/run/p", "health_check": {"enabled": False}}


@contextlib.contextmanager
def loaded(**config: Any) -> Iterator[Manager[Any, Any]]:
    with Manager() as manager:
        manager.load_from_config({"log_level": "error", **config})
        yield manager


# --- a plugin --------------------------------------------------------------------------------------------------------


def names(**config: Any) -> list[str]:
    with loaded(**config) as manager:
        return sorted(manager.list_plugins())


def explained(field: str, **fields: Any) -> Any:
    with loaded(plugins=[{"name": "p", **UNIX, **fields}]) as manager:
        return getattr(manager.explain("p"), field)


PYTHON_PLUGIN = "tests.integration.fields.test_plugins:thread_name"


class OtherFactory(FunctionPluginFactory):
    """Makes Python plugins of any configuration."""

    transports = (TransportType.UNIX,)

    def create_plugin(self, config: PluginConfig) -> FunctionPlugin:
        own = {"name": config.name, "transport": "python", "endpoint": PYTHON_PLUGIN}
        return super().create_plugin(ManagerConfig().resolve(PluginConfig.from_mapping(own)))

    def validate_config(self, config: PluginConfig) -> None: ...


def made_by(kind: str) -> str:
    with Manager() as manager:
        manager.register_factory("other", OtherFactory())
        manager.load_from_config({"plugins": [{"name": "p", "type": kind, **UNIX}]})
        return type(manager._lifecycle.registry.plugins["p"].wire).__name__


def info_of(transport: str) -> Any:
    endpoint = {"http": "http://h/p", "unix": "/run/p"}[transport]
    with loaded(plugins=[{"name": "p", **UNIX, "transport": transport, "endpoint": endpoint}]) as manager:
        return type(manager._lifecycle.registry.plugins["p"].wire).__name__


def members_of(endpoints: list[str]) -> int:
    own = {"name": "p", "transport": "http", "endpoints": endpoints, "health_check": {"enabled": False}}
    with loaded(plugins=[own]) as manager:
        found = manager.explain("p").group
        return len(found.members) if found is not None else 0


def strategy_of(balancing: dict[str, str]) -> str:
    own: dict[str, Any] = {"name": "p", "transport": "http", "endpoints": ["http://a/", "http://b/"]}
    with loaded(plugins=[{**own, "balancing": balancing, "health_check": {"enabled": False}}]) as manager:
        found = manager.explain("p").group
        assert found is not None
        return str(found.strategy)


def priority_in_a_group(value: int) -> int:
    plugins = [{"name": "p", **UNIX, "priority": value}]
    with loaded(plugins=plugins, load_balancers=[{"name": "g", "members": ["p"]}]) as manager:
        found = manager.explain("g").group
        assert found is not None
        return found.members[0].priority


def called(enabled: bool) -> Any:
    with served(enabled=enabled) as (_, manager):
        return outcome(manager)


def label_of_metrics(labels: dict[str, str]) -> bool:
    text = scraped({"metric_labels": ["team"]}, labels=labels)
    return 'team="search"' in text


prefixes = itertools.count()


def scraped(observability: dict[str, Any], **fields: Any) -> str:
    """What the metrics port serves after a call."""
    port = free_port()
    observability = {"metrics_prefix": f"fields_{next(prefixes)}", **observability}
    with RawServer() as server, Manager() as manager:
        config = {"metrics_port": port, "observability": {"metrics_address": "127.0.0.1", **observability}}
        manager.load_from_config({"log_level": "error", "plugins": [plugin(server, **fields)], **config})
        manager.execute("p", "x")
        until(lambda: page(port))
        return page(port)


def page(port: int) -> str:
    """The page of metrics; empty if nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            return str(reply.read().decode())
    except OSError:
        return ""


PLUGIN = [
    Experiment(
        "PluginConfig.name", [("p", ["p"]), ("q", ["q"])], lambda value: names(plugins=[{"name": value, **UNIX}])
    ),
    Experiment("PluginConfig.type", [("unix", "UnixSocketPlugin"), ("other", "FunctionPlugin")], made_by),
    Experiment("PluginConfig.transport", [("http", "HTTPPlugin"), ("unix", "UnixSocketPlugin")], info_of),
    Experiment(
        "PluginConfig.endpoint",
        [("/run/a", "/run/a"), ("/run/b", "/run/b")],
        lambda value: explained("endpoint", endpoint=value),
    ),
    Experiment("PluginConfig.endpoints", [(["http://a/"], 1), (["http://a/", "http://b/"], 2)], members_of),
    Experiment(
        "PluginConfig.balancing", [({"strategy": name}, name) for name in ("random", "consistent-hash")], strategy_of
    ),
    Experiment("PluginConfig.priority", [(1, 1), (5, 5)], priority_in_a_group),
    Experiment("PluginConfig.enabled", [(True, "ok"), (False, "PluginNotEnabledError")], called),
    Experiment("PluginConfig.labels", [({}, False), ({"team": "search"}, True)], label_of_metrics),
    Experiment(
        "PluginConfig.annotations",
        [({}, {}), ({"owner": "me"}, {"owner": "me"})],
        lambda value: dict(explained("annotations", annotations=value)),
    ),
]


# --- discovery -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def manifests(**files: str) -> Iterator[Path]:
    """A directory with a manifest for each keyword, which has this name."""
    before = os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory(prefix="gp-") as folder:
            for file, name in files.items():
                add_manifest(Path(folder), file, name)
            yield Path(folder)
    finally:
        os.umask(before)


def add_manifest(folder: Path, file: str, name: str) -> None:
    text = json.dumps({"name": name, "transport": "python", "endpoint": PYTHON_PLUGIN})
    (folder / f"{file}.json").write_text(text)


def discovered(**discovery: Any) -> list[str]:
    with manifests(first="a", second="b") as folder:
        section = {"enabled": True, "directories": [str(folder)], **discovery}
        return names(plugins=[{"name": "p", **UNIX}], discovery=section)


def in_directories(chosen: list[str]) -> list[str]:
    with manifests(first="a") as one, manifests(first="b") as two:
        folders = {"one": str(one), "two": str(two)}
        return names(discovery={"enabled": True, "directories": [folders[name] for name in chosen]})


def found_later(watch_mode: bool) -> bool:
    """Whether a plugin is found whose manifest is written after the configuration was loaded."""
    with manifests(first="a") as folder:
        section = {"enabled": True, "directories": [str(folder)], "watch_mode": watch_mode}
        with loaded(discovery=section) as manager:
            outcome_of(manager, "a")
            add_manifest(folder, "second", "b")
            try:
                until(lambda: "b" in manager.list_plugins(), 8.0 if watch_mode else 0.5)
            except AssertionError:
                return False
            return True


def outcome_of(manager: Manager[Any, Any], name: str, timeout: float = 1.0) -> None:
    with contextlib.suppress(PluginError):
        manager.execute(name, "x", timeout=timeout)


def from_packages(entry_points: bool) -> bool:
    """Whether a plugin is found that an installed package offers."""
    with manifests(first="a") as folder:
        package = folder / "offers-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: offers\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text(f"[goplugins.plugins]\noffered = {PYTHON_PLUGIN}\n")
        with mock.patch.object(sys, "path", [*sys.path, str(folder)]):
            section = {"enabled": True, "entry_points": entry_points, "directories": [str(folder)]}
            return "offered" in names(discovery=section)


DISCOVERY = [
    Experiment(
        "DiscoveryConfig.enabled", [(False, ["p"]), (True, ["a", "b", "p"])], lambda value: discovered(enabled=value)
    ),
    Experiment("DiscoveryConfig.directories", [(["one"], ["a"]), (["one", "two"], ["a", "b"])], in_directories),
    Experiment(
        "DiscoveryConfig.patterns",
        [(["first*"], ["a", "p"]), (["second*"], ["b", "p"])],
        lambda value: discovered(patterns=value),
    ),
    Experiment("DiscoveryConfig.watch_mode", [(False, False), (True, True)], found_later, rare=True),
    Experiment("DiscoveryConfig.entry_points", [(False, False), (True, True)], from_packages),
]


# --- reloads ---------------------------------------------------------------------------------------------------------


def answer(name: str, seconds: float = 0.0, begun: threading.Event | None = None) -> Callable[[Peer], None]:
    """Answers calls and health checks with its name, after some seconds."""

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            if begun is not None and request.method == "POST":
                begun.set()
            time.sleep(seconds)
            peer.send(ok(request, name) if request.method == "POST" else http_reply({"status": "healthy"}))

    return handler


def reload(
    old: Callable[[Peer], None], new: Callable[[Peer], None], *, refused: str = "", names: str = "p", **options: Any
) -> Iterator[Any]:
    """Loads plugins at an old server and yields the manager; reloads with a new one and yields report or error."""
    with RawServer(old) as before, RawServer(new) as after, Manager() as manager:
        checked = {"health_check": {"enabled": True, "kind": "auto", "interval": 60, "timeout": 5}}
        config: dict[str, Any] = {"log_level": "critical"}
        config["plugins"] = [plugin(before, name=name, **checked) for name in names]
        manager.load_from_config(config)
        yield manager
        nowhere = {"endpoint": f"http://127.0.0.1:{free_port()}/"}
        config["plugins"] = [
            plugin(after, name=name, **checked, **(nowhere if name in refused else {})) for name in names
        ]
        try:
            yield manager.reload_config(config, options=ReloadOptions(**options))
        except ReloadError as error:
            yield error


def strategy_reported(strategy: str) -> str:
    steps = reload(reply_ok, reply_ok, strategy=strategy)
    next(steps)
    return str(next(steps).strategy)


def left_behind(seconds: float, field: str) -> int:
    """Calls of one second that a reload did not wait for."""
    begun = threading.Event()
    steps = reload(answer("old", 1.0, begun), answer("new"), **{field: seconds})
    manager = next(steps)
    thread = threading.Thread(target=lambda: outcome_of(manager, "p", 10))
    thread.start()
    assert begun.wait(5)
    report = next(steps)
    thread.join()
    return int(report.plugins[0].left_behind)


def checks_at_a_time(count: int) -> bool:
    """Whether four checks of a rolling reload, of 0.4 s each, are made one after another."""
    steps = reload(answer("old"), answer("new", 0.4), names="abcd", strategy="rolling", max_concurrent_reloads=count)
    next(steps)
    started = time.monotonic()
    assert next(steps).replaced
    return time.monotonic() - started > 1.5


def slow_successor(seconds: float) -> str:
    """The outcome of a reload with a plugin whose check takes half a second."""
    steps = reload(answer("old"), answer("new", 0.5), health_check_timeout=seconds)
    next(steps)
    return type(next(steps)).__name__


def after_a_failure(rollback: bool) -> Any:
    """The server of the first plugin after a rolling reload in which the second one failed."""
    steps = reload(
        answer("old"),
        answer("new"),
        refused="q",
        names="pq",
        strategy="rolling",
        max_concurrent_reloads=1,
        rollback_on_failure=rollback,
    )
    manager = next(steps)
    assert isinstance(next(steps), ReloadError)
    return outcome(manager)


RELOAD = [
    Experiment(
        "ReloadOptions.strategy", [(name, name) for name in ("graceful", "recreate", "rolling")], strategy_reported
    ),
    Experiment("ReloadOptions.drain_timeout", [(0.1, 1), (10.0, 0)], lambda value: left_behind(value, "drain_timeout")),
    Experiment(
        "ReloadOptions.graceful_timeout", [(0.3, 1), (10.0, 0)], lambda value: left_behind(value, "graceful_timeout")
    ),
    Experiment("ReloadOptions.max_concurrent_reloads", [(1, True), (4, False)], checks_at_a_time),
    Experiment("ReloadOptions.health_check_timeout", [(0.1, "ReloadError"), (10.0, "ReloadReport")], slow_successor),
    Experiment("ReloadOptions.rollback_on_failure", [(True, "old"), (False, "new")], after_a_failure),
]


# --- the manager -----------------------------------------------------------------------------------------------------


def level(name: str) -> int:
    before = logging.getLogger("goplugins").level
    try:
        with Manager() as manager:
            manager.load_from_config({"log_level": name, "plugins": [{"name": "p", **UNIX}]})
            return logging.getLogger("goplugins").getEffectiveLevel()
    finally:
        logging.getLogger("goplugins").setLevel(before)


def listens(opened: bool) -> bool:
    port = free_port()
    config: dict[str, Any] = {"metrics_port": port} if opened else {}
    observability = {"metrics_prefix": f"fields_{next(prefixes)}"}
    with loaded(plugins=[{"name": "p", **UNIX}], observability=observability, **config) as manager:
        outcome_of(manager, "p")
        try:
            until(lambda: page(port), 5.0 if opened else 0.2)
        except AssertionError:
            return False
        return True


def inherited(section: str) -> Callable[[Any], Any]:
    """The section of a plugin that leaves out the field of the manager's default section."""

    def observe(values: dict[str, Any]) -> Any:
        with loaded(plugins=[{"name": "p", "transport": "unix", "endpoint": "/run/p"}], **{section: values}) as manager:
            found = getattr(manager._lifecycle.registry.plugins["p"].config, section.removeprefix("default_"))
            return {name: getattr(found, name) for name in values}

    return observe


def defaults(section: str, field: str, *values: Any) -> Experiment:
    seen = [({field: value}, {field: value}) for value in values]
    return Experiment(f"ManagerConfig.default_{section}", seen, inherited(f"default_{section}"))


MANAGER = [
    Experiment("ManagerConfig.log_level", [("debug", logging.DEBUG), ("error", logging.ERROR)], level),
    Experiment("ManagerConfig.metrics_port", [(False, False), (True, True)], listens),
    defaults("retry", "max_retries", 1, 2),
    defaults("circuit_breaker", "failure_threshold", 1, 2),
    defaults("health_check", "interval", 5.0, 6.0),
    defaults("connection", "request_timeout", 5.0, 6.0),
    defaults("rate_limit", "burst_size", 1, 2),
]

EXPERIMENTS = [*PLUGIN, *DISCOVERY, *RELOAD, *MANAGER]


@runs(EXPERIMENTS)
def test_a_field_changes(observe: Any, value: Any, seen: Any) -> None:
    assert observe(value) == seen


REST, CREDENTIALS = "tests/integration/http/test_rest_*.py", "tests/integration/credentials/*.py"
ELSEWHERE = {
    **{f"OperationConfig.{field.name}": REST for field in attrs.fields(configuration.OperationConfig)},
    **{f"options.http.{name}": REST for name in ("encoded_slashes", "protocol", "response_headers")},
    **{f"AuthConfig.{name}": CREDENTIALS for name in ("audience", "client_auth", "client_id", "client_secret")},
    **{f"AuthConfig.{name}": CREDENTIALS for name in ("client_secret_file", "provider", "scopes", "token_url")},
    **{f"AuthConfig.{name}": "tests/integration/http/test_api_key.py" for name in ("header", "query")},
    "PluginConfig.operations": "tests/integration/http/conftest.py",
}
"""Fields whose effects on the wire the files of these names show, in suites of their own."""


def test_no_field_is_missing() -> None:
    modules = (test_policies, test_chaos_and_hedging, test_plugins, test_groups)
    done = [each.field for module in modules for each in module.EXPERIMENTS] + [each.field for each in EXPERIMENTS]
    wanted = {f"options.{kind}.{name}" for kind, options in OPTIONS.items() for name in options}
    for name in configuration.__all__:
        section = getattr(configuration, name)
        if isinstance(section, type) and name != "ObservabilityConfig":  # see tests/integration/observability
            found = fields_of(section)
            # Sections, lists of sections and options are seen by their own fields.
            wanted |= {
                f"{name}.{field.name}"
                for field in found
                if field.section is None and field.name != "options"
                if not (isinstance(field.item, type) and attrs.has(field.item))
            }
    missing = sorted(wanted - set(done) - set(ELSEWHERE))
    assert missing == []


@pytest.mark.parametrize("field", ELSEWHERE)
def test_the_tests_elsewhere_use_the_field(field: str) -> None:
    texts = [path.read_text() for path in ROOT.glob(ELSEWHERE[field])]
    name = field.rpartition(".")[2]
    assert any(re.search(rf'"{name}"|\b{name}=|^\s*{name}:', text, flags=re.MULTILINE) for text in texts)
    assert all(len({repr(seen) for _, seen in each.seen}) > 1 for each in EXPERIMENTS), "both values show the same"
