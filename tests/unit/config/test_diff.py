"""The difference of two configurations: every field, and no secret."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from goplugins import ManagerConfig, PluginConfig, PluginDiff
from goplugins.config.diff import Change, changes_between, diff_of
from goplugins.config.groups import spread
from goplugins.config.schema import fields_of


def of(*plugins: dict[str, Any], **settings: Any) -> ManagerConfig:
    listed = [{"transport": "http", "endpoint": "http://127.0.0.1:1", **plugin} for plugin in plugins]
    return ManagerConfig.from_mapping({"plugins": listed, **settings})


def lines(old: ManagerConfig, new: ManagerConfig) -> list[str]:
    return str(PluginDiff.between(old, new)).splitlines()


def test_equal_configurations() -> None:
    diff = PluginDiff.between(of({"name": "a"}), of({"name": "a"}))
    assert not diff
    assert str(diff) == "nothing differs"
    assert diff.unchanged == ("a",)


def test_added_removed_and_changed_plugins() -> None:
    old = of({"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"})
    new = of({"name": "a", "retry": {"max_retries": 7}}, {"name": "b", "endpoint": "http://127.0.0.1:2"}, {"name": "e"},
             {"name": "d"}, log_level="debug")  # fmt: skip
    diff = PluginDiff.between(old, new)
    assert diff
    assert [update.name for update in diff.updated if update.in_place] == ["a"]
    assert [update.name for update in diff.updated if not update.in_place] == ["b"]
    assert diff.removed == ("c",)
    assert diff.unchanged == ("d",)
    assert str(diff).splitlines() == [
        "+ e: http http://127.0.0.1:1",
        "~ a: in place",
        "    retry.max_retries: 3 -> 7",
        "~ b: replaced",
        "    endpoint: 'http://127.0.0.1:1' -> 'http://127.0.0.1:2'",
        "- c",
        "* log_level: unset -> 'debug'",
    ]


def test_added_plugins_are_described() -> None:
    many = {"endpoint": "", "endpoints": ["http://127.0.0.1:1", "http://127.0.0.1:2"], "balancing": {"strategy": "p2c"}}
    host = {"transport": "grpc", "endpoint": "search:50051", "options": {"resolve": True}, "enabled": False}
    old = of({"name": "a"})
    new = of(
        {"name": "a"},
        {"name": "many", **many},
        {"name": "host", **host},
        load_balancers=[{"name": "g", "members": ["a"]}],
    )
    assert lines(old, new) == [
        "+ many: http, 2 endpoints, p2c",
        "+ host: grpc, all addresses of search:50051, round-robin, not enabled",
        "+ g: group of 1 member, round-robin",
    ]
    running = diff_of(spread(old.with_defaults()), spread(new.with_defaults()))
    assert str(running).splitlines() == [
        "+ many@127.0.0.1:1: http http://127.0.0.1:1",
        "+ many@127.0.0.1:2: http http://127.0.0.1:2",
        "+ many: group of 2 members, p2c",
        "+ host: group of all addresses of search:50051, round-robin, not enabled",
        "+ g: group of 1 member, round-robin",
    ]


def test_a_plugin_that_becomes_a_group() -> None:
    old = of({"name": "a"})
    for new, kind in [
        (of({"name": "a", "endpoint": "", "endpoints": ["http://127.0.0.1:1"]}), "group"),
        (
            of({"name": "a", "endpoint": "http://search:1", "options": {"resolve": True}}),
            "group of a host's addresses",
        ),
    ]:
        diff = diff_of(spread(old.with_defaults()), spread(new.with_defaults()))
        assert str(diff).splitlines()[-2:] == ["~ a: replaced", f"    kind: plugin -> {kind}"]


def test_a_changed_default_changes_plugins_that_inherit_it() -> None:
    old = of({"name": "a"}, {"name": "b", "retry": {"max_retries": 1}})
    new = of({"name": "a"}, {"name": "b", "retry": {"max_retries": 1}}, default_retry={"max_retries": 9})
    assert lines(old, new) == [
        "~ a: in place",
        "    retry.max_retries: 3 -> 9",
        "* default_retry.max_retries: 3 -> 9",
    ]


def test_changed_secrets_show_masked() -> None:
    def secret(word: str) -> ManagerConfig:
        return of({
            "name": "a",
            "endpoint": f"http://127.0.0.1:1/p?key={word}",
            "auth": {"method": "bearer", "token": word, "headers": {"X-Team": word}},
            "options": {"api_key": word, "proxy": f"http://me:{word}@proxy:1"},
        })  # fmt: skip

    text = "\n".join(lines(secret("tok-old"), secret("tok-new")))
    assert "tok-" not in text
    for path in ("endpoint", "auth.token", "auth.headers.X-Team", "options.api_key", "options.proxy"):
        assert f"    {path}: " in text


def test_values_are_compared_with_their_types() -> None:
    kinds = [1, True, 1.0]
    for old in kinds:
        for new in kinds:
            pair = [PluginConfig(name="a", options={"x": [value]}) for value in (old, new)]
            assert bool(list(changes_between(*pair))) == (old is not new), (old, new)


def _other(value: Any, kind: Any) -> Any:
    """A value that differs from the one given, whatever the field is for: nothing is validated here."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return (*value, "more")
    if isinstance(value, dict):
        return {**value, "more": "x"}
    return object() if value is None else f"{value}-other"


def _leaves(instance: Any, path: str = "") -> list[tuple[str, Any]]:
    found = []
    for field in fields_of(type(instance)):
        value = getattr(instance, field.name)
        here = f"{path}.{field.name}" if path else field.name
        if attrs.has(type(value)):
            for below, inner in _leaves(value, here):
                found.append((below, attrs.evolve(instance, **{field.name: inner})))
        else:
            changed = attrs.evolve(instance)
            object.__setattr__(changed, field.name, _other(value, field.kind))
            found.append((here, changed))
    return found


WHOLE = ManagerConfig().resolve(
    PluginConfig.from_mapping({
        "name": "a",
        "transport": "http",
        "bulkhead": {"max_concurrent": 3},
        "fallback": {"value": 1},
        "cache": {"ttl": 1},
        "hedge": {"enabled": True},
        "chaos": {"enabled": False},
    })
)  # fmt: skip


@pytest.mark.parametrize(("path", "changed"), _leaves(WHOLE))
def test_every_field_of_a_plugin_is_compared(path: str, changed: PluginConfig) -> None:
    paths = [change.path for change in changes_between(WHOLE, changed)]
    assert len(paths) == 1
    assert paths[0] == path or paths[0].startswith(f"{path}.")


@pytest.mark.parametrize(("path", "changed"), _leaves(ManagerConfig().with_defaults()))
def test_every_field_of_a_configuration_is_compared(path: str, changed: ManagerConfig) -> None:
    paths = [change.path for change in changes_between(ManagerConfig().with_defaults(), changed)]
    assert len(paths) == 1
    assert paths[0] == path or paths[0].startswith(f"{path}.")


IN_PLACE = {
    "annotations", "bulkhead", "cache", "chaos", "circuit_breaker", "fallback", "hedge", "labels", "priority",
    "rate_limit", "retry", "connection.request_timeout", "health_check.enabled", "health_check.interval",
    "health_check.timeout", "health_check.failure_limit",
}  # fmt: skip


@pytest.mark.parametrize("path", [path for path, _ in _leaves(WHOLE)])
def test_settings_of_connections_are_not_changed_in_place(path: str) -> None:
    expected = path in IN_PLACE or path.partition(".")[0] in IN_PLACE
    assert Change(path, "", "").in_place is expected
