"""Documents in JSON and YAML, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins.config.openapi.document import open_document, parse_document
from goplugins.errors import ConfigError, ConfigSyntaxError


@pytest.mark.parametrize(
    ("version", "minor"),
    [("3.0.0", 0), ("3.0.4", 0), (3.0, 0), ("3.1.0", 1), ("3.1", 1), ("3.2.0", 1), ("3.0.0-rc1", 0)],
)
def test_versions_that_are_read(version: Any, minor: int) -> None:
    document, warnings = open_document({"openapi": version})
    assert document.minor == minor
    assert len(list(warnings)) == (version == "3.2.0")


@pytest.mark.parametrize(
    ("values", "reason", "fix"),
    [
        ({"swagger": "2.0"}, "swagger: Swagger 2.0 is not read, only OpenAPI 3.0 and 3.1", "npx swagger2openapi"),
        ({"openapi": "4.0.0"}, "openapi: version 4.0.0 is not read", "convert it to OpenAPI 3.0 or 3.1"),
        ({"openapi": None}, "has no key 'openapi'", "pass the file that begins"),
        ({"plugins": []}, "has no key 'openapi'", "pass the file that begins"),
        ([], "expected an OpenAPI document, got a list", "pass the file that begins"),
        (None, "expected an OpenAPI document, got null", "pass the file that begins"),
        ({"openapi": "3\x1b[31m"}, r"version 3\?\[31m is not read", "convert"),
    ],
)
def test_other_documents_are_refused(values: Any, reason: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        open_document(values)
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b'{"openapi": "3.0.0",}', "line 1, column 2"),
        (b'{"a": 1, "a": 2}', "occurs more than once"),
        (b"a: [", "line 2, column 1"),
        (b"a: 1\na: 2", "occurs more than once"),
        (b"a: !!python/object:os.system x", "could not determine a constructor"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a: &x [*x]", "alias of itself"),
        (b"a: 1\n---\nb: 2", "found another document"),
    ],
)
def test_what_is_neither_json_nor_yaml_is_refused_with_its_place(data: bytes, reason: str) -> None:
    with pytest.raises(ConfigSyntaxError, match=reason) as caught:
        parse_document(data, "spec.yaml")
    assert caught.value.fix


def test_yaml_is_that_of_version_1_2() -> None:
    text = b"openapi: 3.0.3\nenum: [on, off, no, yes, 012, 12:30, 2026-01-31, 1_000]\n200: {x: 0o14}\n"
    assert parse_document(text, "spec.yaml") == {
        "openapi": "3.0.3",
        "enum": ["on", "off", "no", "yes", 12, "12:30", "2026-01-31", "1_000"],
        "200": {"x": 12},
    }
