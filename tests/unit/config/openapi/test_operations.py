"""Names, paths, idempotency and expected statuses of operations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.config.openapi.helpers import OK, body, operation, parameter, read, spec


@pytest.mark.parametrize(
    ("operation_id", "path", "name"),
    [
        ("getPetById", "/pets/{id}", "get_pet_by_id"),
        ("repos/list-for-org", "/orgs", "repos_list_for_org"),
        ("2fa.enable", "/2fa", "n2fa_enable"),
        ("日本", "/a", "get_a"),
        (None, "/repos/{owner}/{name}", "get_repos_owner_name"),
        (None, "/", "get"),
        ("get_book_books__book_id__get", "/books/{book_id}", "get_book"),  # as FastAPI writes them
        ("x" * 200, "/a", "x" * 124),
    ],
)
def test_an_operation_is_called_by_its_id_or_its_method_and_path(operation_id: Any, path: str, name: str) -> None:
    node = {"responses": OK} if operation_id is None else {"responses": OK, "operationId": operation_id}
    assert list(read(spec({path: {"get": node}})).plugin["operations"]) == [name]


def test_equal_names_get_numbers() -> None:
    paths = {
        f"/{each}": {"get": {"operationId": text, "responses": OK}}
        for each, text in {"a": "get-item", "b": "getItem", "c": "get_item"}.items()
    }
    assert list(read(spec(paths)).plugin["operations"]) == ["get_item", "get_item_2", "get_item_3"]


@pytest.mark.parametrize(
    ("path", "parameters", "template"),
    [
        ("/a/{id}", [parameter("id", "path")], "/a/{id}"),
        ("/a/{pet-id}.{format}", [parameter("pet-id", "path"), parameter("format", "path")], "/a/{pet_id}.{format}"),
        ("/a/{class}", [parameter("class", "path")], "/a/{class_}"),
        ("/a/{id}", [parameter("id", "path", style="label")], "/a/.{id}"),
        ("/a/{id}", [parameter("id", "path", style="matrix")], "/a/;id={id}"),
        ("/a b/{id}", [parameter("id", "path")], "/a%20b/{id}"),
        ("/a}b", [], "/a%7Db"),
    ],
)
def test_a_path_is_a_template_of_fields(path: str, parameters: list[Any], template: str) -> None:
    config, warnings = operation({"parameters": parameters}, path=path)
    assert (config["path"], warnings) == (template, [])


def test_a_query_in_a_path_is_sent() -> None:
    assert operation({}, path="/rpc?action=list")[0] == {"method": "GET", "path": "/rpc", "query": {"action": "list"}}


@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "options", "post", "patch"])
def test_idempotency_is_the_rule_of_the_method_unless_the_service_takes_keys(method: str) -> None:
    assert "idempotent" not in operation({}, method)[0]
    keys = {"parameters": [parameter("idempotency-key", "header")]}
    config, warnings = operation(keys, method)
    assert config.get("idempotent") is (True if method in {"post", "patch"} else None)
    assert "headers" not in config
    assert warnings == []


@pytest.mark.parametrize(
    ("method", "asked", "expect"), [("get", True, {404: None}), ("get", False, None), ("put", True, None)]
)
def test_a_documented_404_of_a_get_is_null_where_that_is_wanted(method: str, asked: bool, expect: Any) -> None:
    node = {"responses": {**OK, "404": {"description": "absent"}}}
    assert operation(node, method, options={"expect_404": asked})[0].get("expect") == expect
    assert "expect" not in operation({}, method, options={"expect_404": asked})[0]


@pytest.mark.parametrize(
    ("node", "path", "reason"),
    [
        ({"servers": [{"url": "https://uploads.example.com"}]}, "/a", "left out: it is served by another server"),
        (
            {"requestBody": body({"type": "array", "items": {}}), "parameters": [parameter("q")]},
            "/a",
            "left out: its body is no object, beside q",
        ),
        ({}, "/a#b", "left out: its path has a fragment"),
    ],
)
def test_an_operation_that_cannot_be_called_is_left_out_with_the_reason(node: Any, path: str, reason: str) -> None:
    paths = {path: {"post": {"operationId": "op", "responses": OK, **node}}, "/other": {"get": {"responses": OK}}}
    imported = read(spec(paths))
    assert list(imported.plugin["operations"]) == ["get_other"]
    assert [(where, what.startswith(reason)) for where, what in imported.warnings] == [("op", True)]


def test_trace_callbacks_and_webhooks_are_reported() -> None:
    paths = {"/a": {"trace": {"operationId": "t", "responses": OK}, "get": {"responses": OK, "callbacks": {"x": {}}}}}
    imported = read(spec(paths, webhooks={"new": {}}))
    assert [where for where, _ in imported.warnings] == ["get_a", "t", "webhooks"]
