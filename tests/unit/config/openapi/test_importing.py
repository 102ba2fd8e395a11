"""Servers, and all problems of a document at once."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.config.openapi.importing import import_document
from goplugins.errors import ConfigError
from tests.unit.config.openapi.helpers import OK, URL, parameter, read, spec

PATHS = {"/a": {"get": {"responses": OK}}}
REGION = {"variables": {"region": {"default": "eu"}, "v": {"default": 2}}}


@pytest.mark.parametrize(
    ("servers", "endpoint", "warnings"),
    [
        ([{"url": "https://h/v1/"}], "https://h/v1", []),
        ([{"url": "http://127.0.0.1:8000"}], "http://127.0.0.1:8000", []),
        ([{"url": "https://{region}.h/v{v}", **REGION}], "https://eu.h/v2", []),
        (
            [{"url": "https://h"}, {"url": "https://i"}],
            "https://h",
            ["servers: the first one is the endpoint, not https://i"],
        ),
        (
            [{"url": "/api/v3"}],
            "${MY_API_URL}/api/v3",
            ["servers[0].url: '/api/v3' has no host: set the variable MY_API_URL to https://HOST of the service"],
        ),
        (
            [{"url": "/"}],
            "${MY_API_URL}",
            ["servers[0].url: '/' has no host: set the variable MY_API_URL to https://HOST of the service"],
        ),
        (None, "${MY_API_URL}", ["servers: there are none: set the variable MY_API_URL to the URL of the service"]),
    ],
)
def test_the_first_server_is_the_endpoint(servers: Any, endpoint: str, warnings: list[str]) -> None:
    values = {**spec(PATHS), "servers": servers}
    if servers is None:
        del values["servers"]
    imported = import_document(values, "my-api", source="spec.yaml")
    assert imported.plugin["endpoint"] == endpoint
    assert imported.plugin["transport"] == ("http" if endpoint.startswith("http:") else "https")
    assert [f"{where}: {what}" for where, what in imported.warnings] == warnings


def test_an_endpoint_of_ones_own_replaces_the_server_and_its_operations_stay() -> None:
    paths = {"/a": {"get": {"responses": OK, "servers": [{"url": URL}]}}}
    imported = read(spec(paths), endpoint="http://localhost:9/x/")
    assert imported.plugin["endpoint"] == "http://localhost:9/x"
    assert imported.plugin["transport"] == "http"
    assert list(imported.plugin["operations"]) == ["get_a"]
    imported = read(spec(paths), endpoint="${API_URL:http://localhost:9}/x")
    assert (imported.plugin["endpoint"], imported.plugin["transport"]) == ("${API_URL:http://localhost:9}/x", "http")


@pytest.mark.parametrize(
    ("change", "path", "reason", "fix"),
    [
        ({"openapi": "3.2.0", "paths": {}}, "paths", "has no operation to import", "pass a specification with paths"),
        ({"paths": []}, "paths", "expected an object, got a list", "write an object there"),
        ({"paths": {"/a": {"get": []}}}, "paths./a.get", "expected an object, got a list", ""),
        ({"servers": [{"url": "https://{r}.h"}]}, "servers[0].url", "its variable 'r' has no default", "--endpoint"),
        ({"servers": [{"url": "ftp://h"}]}, "servers[0].url", "'ftp://h' is no URL with http or https", "--endpoint"),
        ({"servers": [{"url": "https://[h"}]}, "servers[0].url", "'https://[h' is not a URL", "--endpoint"),
        (
            {"paths": {"/a": {"get": {"parameters": [{"name": "q"}], "responses": OK}}}},
            "paths./a.get.parameters[0]",
            "has no name, or not one of the places",
            "write {name: NAME, in: query}",
        ),
        (
            {"paths": {"/a": {"get": {"parameters": [{"$ref": "other.yaml#/q"}], "responses": OK}}}},
            "paths./a.get.parameters[0].$ref",
            "'other.yaml#/q' refers to another document",
            "bundle",
        ),
        (
            {
                "paths": {"/a": {"get": {"parameters": [{"$ref": "#/components/parameters/Pagge"}], "responses": OK}}},
                "components": {"parameters": {"Page": parameter("page")}},
            },
            "paths./a.get.parameters[0].$ref",
            "'#/components/parameters/Pagge' does not exist: 'Pagge' is no key of components.parameters",
            "did you mean 'Page'?",
        ),
        (
            {
                "paths": {"/a": {"$ref": "#/components/pathItems/A"}},
                "components": {"pathItems": {"A": {"$ref": "#/components/pathItems/A"}}},
            },
            "components.pathItems.A.$ref",
            "the reference leads back to itself",
            "refer to a definition",
        ),
    ],
)
def test_a_problem_names_its_place_and_the_fix(change: Any, path: str, reason: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_document({**spec(PATHS), **change}, "api", source="spec.yaml")
    [problem] = caught.value.problems
    assert problem.path == path
    assert problem.message.startswith(reason)
    assert fix in problem.fix
    assert caught.value.source == "spec.yaml"


def test_all_problems_are_reported_at_once() -> None:
    paths = {f"/{name}": {"get": {"parameters": [{"name": "q"}], "responses": OK}} for name in "abc"}
    with pytest.raises(ConfigError) as caught:
        import_document(spec(paths), "api", source="spec.yaml")
    assert [problem.path for problem in caught.value.problems] == [f"paths./{name}.get.parameters[0]" for name in "abc"]


def test_references_are_followed_with_escapes_and_through_lists() -> None:
    paths = {
        "/a/{id}": {"get": {"operationId": "a", "responses": OK, "parameters": [parameter("id", "path")]}},
        "/b/{id}": {
            "get": {
                "operationId": "b",
                "responses": OK,
                "parameters": [{"$ref": "#/paths/~1a~1%7Bid%7D/get/parameters/0"}],
            }
        },
    }
    assert read(spec(paths)).plugin["operations"]["b"]["path"] == "/b/{id}"
