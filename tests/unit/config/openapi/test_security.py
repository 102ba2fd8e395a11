"""The auth section of security schemes."""

from __future__ import annotations

from typing import Any

import pytest

from goplugins import ManagerConfig
from goplugins.config.openapi.importing import import_document
from tests.unit.config.openapi.helpers import OK, spec

CLIENT = {"clientCredentials": {"tokenUrl": "https://login.example.com/token", "scopes": {"read": "", "write": ""}}}
SCHEMES: dict[str, dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "Bearer"},
    "basic": {"type": "http", "scheme": "basic"},
    "digest": {"type": "http", "scheme": "digest"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Key"},
    "query": {"type": "apiKey", "in": "query", "name": "key"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "sid"},
    "client": {"type": "oauth2", "flows": CLIENT},
    "relative": {"type": "oauth2", "flows": {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": {}}}},
    "user": {"type": "oauth2", "flows": {"implicit": {"authorizationUrl": "https://x", "scopes": {}}}},
    "openid": {"type": "openIdConnect", "openIdConnectUrl": "https://x"},
    "tls": {"type": "mutualTLS"},
}
OAUTH2 = {"method": "oauth2", "client_id": "${API_CLIENT_ID}", "client_secret": "${API_CLIENT_SECRET}"}


def auth(security: Any, *of_operations: Any) -> tuple[Any, list[str]]:
    """The section, and what could not be expressed."""
    paths = {
        f"/{index}": {
            "get": {"operationId": f"op{index}", "responses": OK, **({} if each is None else {"security": each})}
        }
        for index, each in enumerate(of_operations or (None,))
    }
    rest = {} if security is None else {"security": security}
    imported = import_document(spec(paths, components={"securitySchemes": SCHEMES}, **rest), "api", source="spec.yaml")
    ManagerConfig.from_mapping({"plugins": [imported.plugin]})
    return imported.plugin.get("auth"), [f"{where}: {what}" for where, what in imported.warnings]


@pytest.mark.parametrize(
    ("scheme", "section"),
    [
        ("bearer", {"method": "bearer", "token": "${API_TOKEN}"}),
        ("basic", {"method": "basic", "username": "${API_USERNAME}", "password": "${API_PASSWORD}"}),
        ("header", {"method": "api-key", "api_key": "${API_API_KEY}", "header": "X-Key"}),
        ("query", {"method": "api-key", "api_key": "${API_API_KEY}", "query": "key"}),
        ("client", {**OAUTH2, "token_url": "https://login.example.com/token"}),
        ("relative", {**OAUTH2, "token_url": "https://api.example.com/oauth/token"}),
        ("tls", {"method": "mtls", "cert_file": "${API_CERT_FILE}", "key_file": "${API_KEY_FILE}"}),
    ],
)
def test_a_scheme_becomes_a_section_with_variables(scheme: str, section: Any) -> None:
    assert auth([{scheme: []}]) == (section, [])


@pytest.mark.parametrize(("scheme", "flow"), [("user", "implicit"), ("openid", "openIdConnect")])
def test_tokens_of_users_are_a_variable_and_a_warning(scheme: str, flow: str) -> None:
    section, warnings = auth([{scheme: []}])
    assert section == {"method": "bearer", "token": "${API_TOKEN}"}
    assert warnings == [
        f"auth ({scheme}): its tokens are for users ({flow}): get one elsewhere, and pass it as the variable"
    ]


@pytest.mark.parametrize("scheme", ["digest", "cookie"])
def test_a_scheme_that_cannot_be_configured_is_reported(scheme: str) -> None:
    assert auth([{scheme: []}]) == (None, [f"op0: needs the credentials {scheme}: no such scheme can be configured"])


def test_scopes_are_those_of_all_operations() -> None:
    section, warnings = auth(None, [{"client": ["write"]}], [{"client": ["read"]}], [])
    assert section["scopes"] == ["read", "write"]
    assert warnings == []


def test_the_scheme_of_most_operations_is_chosen_and_the_others_are_reported() -> None:
    section, warnings = auth([{"header": []}], [{"basic": []}], None, None, [{"basic": []}, {"header": []}], [])
    assert section["method"] == "api-key"
    assert warnings == ["op0: needs the credentials basic: the plugin has header"]


def test_schemes_that_are_needed_together_are_reported() -> None:
    section, warnings = auth([{"header": [], "basic": []}])
    assert section["method"] == "api-key"
    assert warnings == ["op0: needs the credentials header and basic: the plugin has header"]


def test_optional_credentials_are_configured_and_no_credentials_are_none() -> None:
    assert auth([{}, {"bearer": []}]) == ({"method": "bearer", "token": "${API_TOKEN}"}, [])
    assert auth([]) == (None, [])
    assert auth(None) == (None, [])
