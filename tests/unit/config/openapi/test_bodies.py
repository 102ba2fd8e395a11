"""Kinds of bodies."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.config.openapi.helpers import body, operation, parameter

OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("media_types", "kind", "headers"),
    [
        (["application/json"], None, None),
        (["application/json; charset=utf-8"], None, None),
        (["application/xml", "application/json"], None, None),
        (["application/merge-patch+json"], None, {"Content-Type": "application/merge-patch+json"}),
        (["application/x-www-form-urlencoded"], "form", None),
        (["application/x-www-form-urlencoded", "multipart/form-data"], "multipart", None),
        (["application/octet-stream"], "raw", {"Content-Type": "application/octet-stream"}),
        (["text/csv"], "raw", {"Content-Type": "text/csv"}),
        (["*/*"], "raw", None),
        ([], "none", None),
    ],
)
def test_the_kind_of_body_follows_from_its_media_type(media_types: list[str], kind: Any, headers: Any) -> None:
    node = {"requestBody": {"content": {each: {"schema": OBJECT} for each in media_types}}}
    config, warnings = operation(node, "post")
    assert (config.get("body"), config.get("headers"), warnings) == (kind, headers, [])


@pytest.mark.parametrize(("method", "kind"), [("post", "none"), ("put", "none"), ("patch", "none"), ("delete", None)])
def test_no_body_is_said_where_the_rule_is_json(method: str, kind: Any) -> None:
    assert operation({}, method)[0].get("body") == kind


@pytest.mark.parametrize("method", ["get", "head"])
def test_a_body_of_a_get_is_reported(method: str) -> None:
    config, warnings = operation({"requestBody": body(OBJECT)}, method)
    assert "body" not in config
    assert warnings == [f"op: its body left out: {method.upper()} has none"]


def test_of_a_body_that_can_be_an_object_or_a_list_the_object_is_sent_beside_parameters() -> None:
    schema = {"oneOf": [OBJECT, {"type": "array", "items": OBJECT}]}
    node = {"requestBody": body(schema), "parameters": [parameter("q")]}
    config, warnings = operation(node, "post")
    assert config["query"] == {"q": "{q}"}
    assert warnings == ["op: its body is sent as an object only"]
    assert operation({"requestBody": body(schema)}, "post")[1] == []  # alone, it can be either
