"""Credentials as headers."""

from __future__ import annotations

from goplugins.config import AuthConfig
from goplugins.config.credentials import auth_headers


def test_auth_headers():
    assert auth_headers(AuthConfig()) == {}
    assert auth_headers(AuthConfig(method="api-key", api_key="k")) == {"X-API-Key": "k"}
    assert auth_headers(AuthConfig(method="bearer", token="t", headers={"authorization": "x", "A": "b"})) == {
        "Authorization": "Bearer t",
        "A": "b",
    }
