"""Where the fields of a request are sent: query, headers, body; and what no field can express."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.config.openapi.helpers import body, operation, parameter

LIST = {"type": "array", "items": {"type": "string"}}
FILTER = {"type": "object", "properties": {"name": {"type": "string"}, "tag": LIST}}


@pytest.mark.parametrize(
    ("method", "names", "query"),
    [
        ("get", ["page", "q"], None),
        ("delete", ["page"], None),
        ("get", ["per-page", "q"], {"per-page": "{per_page}"}),
        (
            "get",
            ["class", "from", "_id", "list"],
            {"class": "{class_}", "from": "{from_}", "_id": "{id_}", "list": "{list_}"},
        ),
        ("get", ["q", "q[]"], {"q[]": "{query_q}"}),
        ("post", ["page", "q"], {"page": "{page}", "q": "{q}"}),
        ("options", ["q"], {"q": "{q}"}),
    ],
)
def test_query_parameters_are_listed_where_the_rule_does_not_send_them(method: str, names: Any, query: Any) -> None:
    config, warnings = operation({"parameters": [parameter(name) for name in names]}, method)
    assert config.get("query") == query
    assert config.get("body") == ("none" if method == "post" else None)
    assert warnings == []


def test_query_parameters_beside_a_body_are_listed() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    config, _ = operation({"parameters": [parameter("q"), parameter("r")], "requestBody": body(schema)}, "delete")
    assert config == {"method": "DELETE", "path": "/items", "body": "json", "query": {"q": "{query_q}", "r": "{r}"}}


def test_a_field_of_the_body_keeps_its_name_beside_one_of_the_path() -> None:
    schema = {"type": "object", "properties": {"id": {"type": "string"}}}
    node = {"parameters": [parameter("id", "path")], "requestBody": body(schema)}
    assert operation(node, "put", "/a/{id}")[0] == {"method": "PUT", "path": "/a/{path_id}"}


@pytest.mark.parametrize(
    ("given", "query"),
    [
        (parameter("f", schema=FILTER, style="deepObject"), {"f[name]": "{f_name}", "f[tag]": "{f_tag}"}),
        (parameter("f", schema=FILTER), None),  # its properties are the parameters
        (
            parameter("f", schema={"$ref": "#/components/schemas/Filter"}, style="deepObject"),
            {"f[name]": "{f_name}", "f[tag]": "{f_tag}"},
        ),
        (parameter("f", schema=LIST), None),
    ],
)
def test_objects_and_lists_in_the_query(given: Any, query: Any) -> None:
    config, warnings = operation({"parameters": [given]}, components={"schemas": {"Filter": FILTER}})
    assert (config.get("query"), warnings) == (query, [])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (parameter("f", schema=LIST, explode=False), "parameter 'f' is a text: join its values by commas"),
        (parameter("f", schema=LIST, style="pipeDelimited"), "parameter 'f' is a text: join its values by |"),
        (parameter("f", schema=LIST, style="spaceDelimited"), "parameter 'f' is a text: join its values by spaces"),
        (parameter("f", schema={"type": "object"}), "parameter 'f' is a text: an object without known properties"),
        (parameter("f", schema=FILTER, explode=False), "parameter 'f' is a text: an object in style form"),
        (
            {"name": "f", "in": "query", "content": {"application/json": {}}},
            "parameter 'f' is a text: encode its value as",
        ),
        (parameter("f", "cookie"), "cookie 'f' left out"),
        (parameter("Authorization", "header"), "header Authorization left out: the plugin's auth section sets it"),
        (parameter("Content-Type", "header"), "header Content-Type left out: the kind of body sets it"),
        (parameter("a b", "header"), "header 'a b' left out: no header can have this name"),
        (parameter("f", "path"), "parameter 'f' left out: the path has no {f}"),
        (
            parameter("f", style="deepObject", schema={"type": "object", "properties": {"a": FILTER}}),
            "parameter 'f[a]' left out: an object within an object",
        ),
    ],
)
def test_what_cannot_be_expressed_is_reported_with_the_operation(given: Any, reason: str) -> None:
    _, warnings = operation({"parameters": [given]})
    assert len(warnings) == 1
    assert warnings[0].startswith(f"op: {reason}")


def test_headers_are_templates_and_lists_of_them_are_joined() -> None:
    given = [parameter("X-Trace", "header"), parameter("X-Tags", "header", schema=LIST)]
    config, warnings = operation({"parameters": given})
    assert config["headers"] == {"X-Trace": "{X_Trace}", "X-Tags": "{X_Tags}"}
    assert warnings == []


def test_a_parameter_of_the_operation_overrides_that_of_the_path() -> None:
    from tests.unit.config.openapi.helpers import OK, read, spec

    item = {
        "parameters": [parameter("q", required=True), parameter("r")],
        "get": {"operationId": "op", "responses": OK, "parameters": [parameter("q", schema=LIST)]},
    }
    [found] = read(spec({"/a": item})).operations
    assert [(field.wire, field.required) for field in found.fields] == [("q", False), ("r", False)]


def test_an_undeclared_field_of_the_path_is_a_text() -> None:
    config, warnings = operation({}, path="/a/{id}")
    assert config["path"] == "/a/{id}"
    assert warnings == ["op: {id} of the path is no declared parameter: taken as a text"]
