"""Two fields of the retry section: ``attempt_timeout`` and ``statuses``."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins import ManagerConfig, PluginConfig, RetryConfig
from goplugins.config.diff import PluginDiff
from goplugins.config.manager import load

from .helpers import plugin_messages, problems_of

ENDPOINTS = {"http": "http://h/p", "https": "https://h/p", "grpc": "h:1", "unix": "/run/p", "python": "os:getpid"}
EXEC = {"executable": "/bin/true", "endpoint": ""}


def retry_of(section: dict[str, Any], **environ: str) -> RetryConfig:
    plugin = {"name": "a", "transport": "http", "endpoint": "http://h/p", "retry": section}
    found = load({"plugins": [plugin]}, environ).config.plugins[0].retry
    assert found is not None
    return found


def test_they_are_read_written_and_inherited() -> None:
    retry = retry_of({"attempt_timeout": "250ms", "statuses": [429, "${STATUS}"]}, STATUS="503")
    assert (retry.attempt_timeout, retry.statuses) == (0.25, (429, 503))
    plugin = PluginConfig(name="a", transport="http", endpoint="http://h/p", retry=RetryConfig(max_retries=1))
    config = ManagerConfig(plugins=[plugin], default_retry=RetryConfig(attempt_timeout=2.0, statuses=[409, "ABORTED"]))
    config.validate()
    assert ManagerConfig.from_json(config.to_json()) == config
    resolved = config.with_defaults().plugins[0].retry
    assert resolved is not None
    assert (resolved.max_retries, resolved.attempt_timeout, resolved.statuses) == (1, 2.0, (409, "ABORTED"))


def test_left_out_they_stay_so_and_an_empty_list_is_a_list() -> None:
    assert (retry_of({}).attempt_timeout, retry_of({}).statuses) == (None, None)
    assert retry_of({"statuses": []}).statuses == ()


def test_a_change_needs_no_new_connection() -> None:
    def config(**retry: Any) -> ManagerConfig:
        plugin = {"name": "a", "transport": "http", "endpoint": "http://h/p", "retry": retry}
        return ManagerConfig.from_mapping({"plugins": [plugin]})

    (update,) = PluginDiff.between(config(), config(attempt_timeout=1, statuses=[503])).updated
    assert update.in_place
    assert [change.path for change in update.changes] == ["retry.attempt_timeout", "retry.statuses"]


def test_names_of_grpc_statuses_are_read_in_any_case() -> None:
    plugin = {"name": "a", "transport": "grpc", "endpoint": "h:1", "retry": {"statuses": ["unavailable", "Aborted"]}}
    retry = load({"plugins": [plugin]}).config.plugins[0].retry
    assert retry is not None
    assert retry.statuses == ("UNAVAILABLE", "ABORTED")


@pytest.mark.parametrize(
    ("section", "path", "text"),
    [
        ({"attempt_timeout": 0}, "retry.attempt_timeout", "expected a duration longer than 0, got 0"),
        ({"statuses": 503}, "retry.statuses", "expected a list, got a number (write a list)"),
        ({"statuses": [200]}, "retry.statuses[0]", "expected an integer from 400 to 599, got 200"),
        ({"statuses": [503, True]}, "retry.statuses[1]", "expected an integer, got true"),
        ({"statuses": ["503"]}, "retry.statuses[0]", "expected a status, got '503' (write an HTTP status such as 503"),
        ({"statuses": ["UNAVAILABEL"]}, "retry.statuses[0]", "(did you mean 'UNAVAILABLE'?)"),
    ],
)
def test_wrong_values(section: dict[str, Any], path: str, text: str) -> None:
    found = plugin_messages(retry=section)
    assert list(found) == [path]
    assert text in found[path]


@pytest.mark.parametrize(
    ("transport", "statuses", "refused"),
    [
        ("http", [503], []),
        ("https", [503, "UNAVAILABLE"], [1]),
        ("grpc", ["UNAVAILABLE", 503], [1]),
        ("unix", [503, "UNAVAILABLE"], [0, 1]),
        ("python", [503], [0]),
        ("exec", ["UNAVAILABLE"], [0]),
    ],
)
def test_a_status_that_the_transport_never_has_is_refused(
    transport: str, statuses: list[int | str], refused: list[int]
) -> None:
    own = EXEC if transport == "exec" else {"endpoint": ENDPOINTS[transport]}
    plugin = PluginConfig.from_mapping({"name": "a", "transport": transport, "retry": {"statuses": statuses}, **own})
    assert list(problems_of(plugin)) == [f"retry.statuses[{index}]" for index in refused]
