"""Operations of a plugin's configuration: defaults, and each fault with its place and fix."""

from __future__ import annotations

import json
from typing import Any

import pytest

from goplugins import ConfigError, Manager, ManagerConfig, PluginConfig
from goplugins.config.operations import is_rest, resolve_operations


def plugin(operations: Any, transport: str = "http", **fields: Any) -> PluginConfig:
    endpoint = {"http": "http://h:1", "https": "https://h", "grpc": "grpc://h:1", "unix": "unix:///s"}[transport]
    read = {"name": "p", "transport": transport, "endpoint": endpoint, "operations": operations, **fields}
    return ManagerConfig.from_mapping({"plugins": [read]}).plugins[0]


def checked(operations: Any, transport: str = "http", **fields: Any) -> list[str]:
    """What is wrong with a plugin, as text."""
    endpoint = {"http": "http://h:1", "https": "https://h", "grpc": "127.0.0.1:1", "unix": "/tmp/s"}[transport]
    read = {"name": "p", "transport": transport, "endpoint": endpoint, "operations": operations, **fields}
    with Manager() as manager:
        try:
            manager.load_from_config({"plugins": [read]})
        except ConfigError as error:
            return [f"{each}" for each in error.problems]
    return []


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "method in lower case": ({"method": "get", "path": "/a"}, "method", "write GET"),
    "no method": ({"method": "FETCH", "path": "/a"}, "method", "write one of GET, HEAD, POST"),
    "a body of GET": ({"method": "GET", "path": "/a", "body": "json"}, "body", "GET has no body"),
    "a body of HEAD": ({"method": "HEAD", "path": "/a", "body": "form"}, "body", "HEAD has no body"),
    "another body": ({"path": "/a", "body": "xml"}, "body", "multipart"),
    "no slash": ({"path": "a"}, "path", "write /a"),
    "a query in the path": ({"path": "/a?b=1"}, "path", "write query: {name: value}"),
    "a fragment": ({"path": "/a#b"}, "path", "query or fragment"),
    "a space": ({"path": "/a b"}, "path", "percent-encode"),
    "two dots": ({"path": "/a/../b"}, "path", "has a segment . or .."),
    "encoded dots": ({"path": "/a/%2e%2E/b"}, "path", "has a segment . or .."),
    "a broken brace": ({"path": "/a/{b"}, "path", "a brace that is no part of a {field}"),
    "an operator of RFC 6570": ({"path": "/a{?b}"}, "path", ""),
    "a broken brace in a query": ({"path": "/a", "query": {"q": "}"}}, "query.q", "brace"),
    "a broken brace in a header": ({"path": "/a", "headers": {"X": "{"}}, "headers.X", "brace"),
    "no header": ({"path": "/a", "headers": {"a b": "1"}}, "headers", "not a name of a header"),
    "result": ({"path": "/a", "result": "a/b"}, "result", "JSON Pointer"),
    "result with a tilde": ({"path": "/a", "result": "/a~2"}, "result", "JSON Pointer"),
    "next": ({"path": "/a", "next": "next"}, "next", "JSON Pointer"),
    "a cursor alone": ({"path": "/a", "cursor": "page"}, "cursor", "has no effect without next"),
    "a status": ({"path": "/a", "expect": {99: None}}, "expect", ""),
    "a timeout": ({"path": "/a", "timeout": 0}, "timeout", ""),
    "a field": ({"path": "/a", "pth": "/b"}, "pth", "path"),
    "no flag": ({"path": "/a", "idempotent": "maybe"}, "idempotent", ""),
}


@pytest.mark.parametrize(("operation", "place", "text"), FAULTS.values(), ids=FAULTS)
def test_each_fault_has_its_place_and_a_fix(operation: dict[str, Any], place: str, text: str) -> None:
    found = checked({"good": {"path": "/good"}, "op": operation})
    assert found
    assert all(f"operations.op.{place}" in each for each in found)
    assert text in found[0]


@pytest.mark.parametrize("name", ["", "a b", "1a", "ü", "a" * 200, "-a"])
def test_what_is_no_name(name: str) -> None:
    assert checked({name: {"path": "/a"}})


@pytest.mark.parametrize("name", ["a", "get_item", "items/get", "repos.get-one", "A1"])
def test_names(name: str) -> None:
    assert checked({name: {"path": "/a"}}) == []


@pytest.mark.parametrize("field", ["path", "query", "headers", "body", "result", "expect", "next", "cursor"])
@pytest.mark.parametrize("transport", ["grpc", "unix"])
def test_fields_of_rest_on_another_transport(transport: str, field: str) -> None:
    values: dict[str, Any] = {"query": {"a": "b"}, "headers": {"a": "b"}, "expect": {404: None}, "body": "json"}
    found = checked({"op": {field: values.get(field, "/a"), "timeout": 1}}, transport)
    assert any(f"is not used by transport {transport}" in each for each in found), found


def test_fields_of_rest_without_a_path() -> None:
    found = checked({"op": {"result": "/a"}})
    assert "is not used by the envelope of goplugins" in found[0]
    assert "write a path, or options.protocol: rest" in found[0]
    assert checked({"op": {"result": "/a"}}, options={"protocol": "rest"}) == []


def test_response_headers_are_for_rest() -> None:
    assert "is for REST only" in checked({}, options={"response_headers": ["ETag"]})[0]
    assert checked({}, options={"response_headers": ["ETag"], "protocol": "rest"}) == []
    assert checked({"op": {"path": "/a"}}, options={"response_headers": ["ETag"]}) == []


@pytest.mark.parametrize(
    ("operation", "method", "body", "idempotent"),
    [
        ({"path": "/a"}, "GET", "none", True),
        ({"path": "/a", "body": "none"}, "GET", "none", True),
        ({"path": "/a", "body": "json"}, "POST", "json", None),
        ({"path": "/a", "body": "raw"}, "POST", "raw", None),
        ({"method": "POST", "path": "/a"}, "POST", "json", None),
        ({"method": "PUT", "path": "/a"}, "PUT", "json", True),
        ({"method": "PATCH", "path": "/a"}, "PATCH", "json", None),
        ({"method": "DELETE", "path": "/a"}, "DELETE", "none", True),
        ({"method": "HEAD", "path": "/a"}, "HEAD", "none", True),
        ({"method": "OPTIONS", "path": "/a"}, "OPTIONS", "none", True),
        ({"method": "PUT", "path": "/a", "idempotent": False}, "PUT", "json", False),
        ({"method": "POST", "path": "/a", "idempotent": True}, "POST", "json", True),
    ],
)
def test_defaults(operation: dict[str, Any], method: str, body: str, idempotent: bool | None) -> None:
    found = resolve_operations(plugin({"op": operation}))["op"]
    assert (found.method, found.body, found.idempotent) == (method, body, idempotent)


def test_what_makes_a_plugin_rest() -> None:
    assert is_rest(plugin({"op": {"path": "/a"}}))
    assert is_rest(plugin({}, options={"protocol": "rest"}))
    assert not is_rest(plugin({"op": {"timeout": 1}}))
    assert not is_rest(plugin({}))


def test_secrets_in_headers_are_masked_and_kept_on_request() -> None:
    config = ManagerConfig(plugins=(plugin({"op": {"path": "/a", "headers": {"X-Api-Key": "s3cret-word"}}}),))
    assert "s3cret-word" not in repr(config) + config.to_json()
    assert "X-Api-Key" in config.to_json()
    again = ManagerConfig.from_json(config.to_json(include_secrets=True))
    assert again == config


def test_operations_survive_json() -> None:
    operation = {
        "method": "POST",
        "path": "/a/{b}",
        "query": {"q": "{c}"},
        "headers": {"X": "{d}"},
        "body": "form",
        "result": "/r",
        "expect": {"404": {"a": [1]}, "410": None},
        "timeout": "2s",
        "idempotent": True,
        "next": "/n",
        "cursor": "page",
    }
    config = ManagerConfig(plugins=(plugin({"op": operation}),))
    again = ManagerConfig.from_json(config.to_json(include_secrets=True))
    assert again == config
    read = again.plugins[0].operations["op"]
    assert read.timeout == 2.0
    assert read.expect == {404: {"a": [1]}, 410: None}
    assert json.loads(config.to_json())["plugins"][0]["operations"]["op"]["path"] == "/a/{b}"
