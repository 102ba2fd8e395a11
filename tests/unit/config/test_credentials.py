"""Credentials: what each method needs, and what can be sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from goplugins import errors
from goplugins.config import (
    AuthConfig,
    ManagerConfig,
    PluginConfig,
)
from goplugins.config.credentials import auth_headers
from goplugins.enums import AuthMethod
from goplugins.errors import (
    AuthConfigError,
    InvalidConfigError,
)
from tests.unit.config.helpers import GOOD, codes_of, problems_of


def test_credentials_over_plaintext_transports_are_allowed_as_in_go() -> None:
    for auth in (
        AuthConfig(method="bearer", token="t"),
        AuthConfig(method="basic", username="u", password="p"),
        AuthConfig(method="api-key", api_key="k"),
    ):
        assert codes_of(attrs.evolve(GOOD, auth=auth)) == {}


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (AuthConfig(), {}),
        (AuthConfig(method="none"), {}),
        (AuthConfig(method="none", token="kept for later"), {}),
        (AuthConfig(ca_file="ca.pem"), {}),
        (AuthConfig(method="api-key"), {"api_key": "AUTH_1101"}),
        (AuthConfig(method="bearer"), {"token": "AUTH_1102"}),
        (AuthConfig(method="basic"), {"username": "AUTH_1103", "password": "AUTH_1103"}),
        (AuthConfig(method="basic", username="u"), {"password": "AUTH_1103"}),
        (AuthConfig(method="mtls", cert_file="c"), {"key_file": "AUTH_1104"}),
        (AuthConfig(method="mtls", cert_file="c", key_file="k"), {}),
        (AuthConfig(method="voodoo"), {"method": "AUTH_1105"}),
        (AuthConfig(token="t"), {"method": "AUTH_1105"}),
        (AuthConfig(method="custom"), {"headers": "AUTH_1100"}),
        (AuthConfig(method="custom", headers={"X-Key": "v"}), {}),
        (AuthConfig(method="custom", headers={"X Key": "v"}), {"headers": "AUTH_1100"}),
        (AuthConfig(method="custom", headers={"X-Key": "v\r\nY: w"}), {"headers.X-Key": "AUTH_1100"}),
        (AuthConfig(method="bearer", token="t\n"), {"token": "AUTH_1100"}),
        (AuthConfig(method="bearer", token=" t"), {"token": "AUTH_1100"}),
        (AuthConfig(method="bearer", token="日本"), {"token": "AUTH_1100"}),
        (AuthConfig(method="basic", username="a:b", password="p"), {"username": "AUTH_1100"}),
        (AuthConfig(method="basic", username="ü", password="日本 "), {}),
        (AuthConfig(method="custom", headers={"X": 5}), {"headers.X": "PLUGIN_1012"}),  # type: ignore[dict-item]
        (AuthConfig(method="api-key", api_key="k", header="X-Key"), {}),
        (AuthConfig(method="api-key", api_key="k\u20ac", query="key"), {}),
        (AuthConfig(method="api-key", api_key="k", header="X Key"), {"header": "AUTH_1100"}),
        (AuthConfig(method="api-key", api_key="k", header="X-Key", query="key"), {"query": "AUTH_1100"}),
        (AuthConfig(method="bearer", token="t", query="key"), {"query": "AUTH_1100"}),
        (AuthConfig(method="mtls", cert_file="c", key_file="k", query="key"), {"api_key": "AUTH_1100"}),
        (AuthConfig(provider="app.signing:sign"), {}),
        (AuthConfig(method="custom", provider="app.signing:sign"), {}),
        (AuthConfig(method="bearer", token="t", provider="app.signing:Signer.sign"), {}),
        (AuthConfig(provider="app.signing"), {"provider": "AUTH_1100"}),
    ],
)
def test_credentials(auth: AuthConfig, expected: dict[str, str]) -> None:
    assert codes_of(auth) == expected


OAUTH2: dict[str, Any] = {
    "method": "oauth2",
    "token_url": "https://login.example.com/token",
    "client_id": "shop",
    "client_secret": "s3cr3t",
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {}),
        ({"scopes": ["read", "orders:write"], "audience": "https://api.example.com", "client_auth": "post"}, {}),
        ({"client_secret": "", "client_secret_file": "/run/secret"}, {}),
        ({"client_secret_file": "/run/secret"}, {"client_secret_file": "AUTH_1100"}),
        ({"cert_file": "c", "key_file": "k"}, {}),
        ({"token_url": ""}, {"token_url": "AUTH_1100"}),
        ({"client_id": ""}, {"client_id": "AUTH_1100"}),
        ({"client_secret": ""}, {"client_secret": "AUTH_1100"}),
        ({"client_secret": "s3cr3t\n"}, {"client_secret": "AUTH_1100"}),
        ({"token_url": "login.example.com/token"}, {"token_url": "PLUGIN_1005"}),
        ({"token_url": "https://shop:s3cr3t@login.example.com/token"}, {"token_url": "PLUGIN_1004"}),
        ({"token_url": "http://login.example.com/token"}, {"token_url": "AUTH_1100"}),
        ({"token_url": "http://127.0.0.1:8080/token"}, {}),
        ({"scopes": ["read write"]}, {"scopes[0]": "AUTH_1100"}),
        ({"client_auth": "jwt"}, {"client_auth": "PLUGIN_1012"}),
        ({"token": "t"}, {"token": "AUTH_1100"}),
        (
            {"method": "bearer", "token": "t", "client_secret": ""},
            dict.fromkeys(["token_url", "client_id"], "AUTH_1100"),
        ),
        (
            {"method": "mtls", "cert_file": "c", "key_file": "k", "client_secret": ""},
            {"token_url": "AUTH_1100", "client_id": "AUTH_1100"},
        ),
        ({"method": None}, {"method": "AUTH_1105"}),
    ],
)
def test_what_a_token_request_needs(changed: dict[str, Any], expected: dict[str, str]) -> None:
    auth = AuthConfig(**{**OAUTH2, **changed})
    plugin = PluginConfig(name="a", transport="https", endpoint="https://host", auth=auth)
    assert codes_of(plugin) == {f"auth.{name}": code for name, code in expected.items()}
    assert "s3cr3t" not in "".join(map(str, problems_of(plugin).values()))


def test_a_plaintext_token_endpoint_is_for_plaintext_transports() -> None:
    auth = AuthConfig(**{**OAUTH2, "token_url": "http://login.internal/token"})
    for transport, endpoint in {"http": "http://h", "grpc": "h:1", "unix": "/s"}.items():
        assert codes_of(PluginConfig(name="a", transport=transport, endpoint=endpoint, auth=auth)) == {}
    plugin = PluginConfig(name="a", transport="grpc-tls", endpoint="h:1", auth=auth)
    assert codes_of(plugin) == {"auth.token_url": "AUTH_1100"}


@pytest.mark.parametrize("transport", ["grpc", "grpc-tls", "unix", "exec"])
def test_an_api_key_in_the_query_needs_a_transport_with_one(transport: str) -> None:
    auth = AuthConfig(method="api-key", api_key="k", query="key")
    plugin = PluginConfig(name="a", transport=transport, endpoint="h:1", executable="p", auth=auth)
    assert codes_of(plugin)["auth.query"] == "AUTH_1100"


def test_secrets_of_a_token_request_are_masked() -> None:
    auth = AuthConfig(**{**OAUTH2, "token_url": "https://login.example.com/token?key=s3cr3t"})
    config = ManagerConfig(plugins=[attrs.evolve(GOOD, auth=auth)])
    assert "s3cr3t" not in repr(config) + config.to_json()
    assert "shop" in repr(auth)
    assert config.to_json(include_secrets=True).count("s3cr3t") == 2


def test_messages_never_repeat_a_header_value() -> None:
    found = problems_of(AuthConfig(method="custom", headers={"X": "hunter2\r\n", "hunter2 : ": "x"}, token="hunter2\n"))
    assert len(found) == 3
    assert "hunter2" not in "".join(map(str, found.values()))


@pytest.mark.parametrize("transport", ["http", "grpc", "unix", "exec", "python"])
def test_mtls_needs_a_transport_with_tls(transport: str) -> None:
    auth = AuthConfig(method="mtls", cert_file="c", key_file="k")
    plugin = PluginConfig(name="a", transport=transport, auth=auth)
    assert codes_of(plugin)["auth.method"] == "AUTH_1100"
    for good in ("https", "grpc-tls"):
        assert "auth.method" not in codes_of(attrs.evolve(plugin, transport=good))


def test_grpc_metadata_is_ascii() -> None:
    plugin = PluginConfig(name="a", transport="grpc", endpoint="h:1", auth=AuthConfig(method="bearer", token="é"))
    assert codes_of(plugin) == {"auth.token": "AUTH_1100"}
    assert codes_of(attrs.evolve(GOOD, auth=AuthConfig(method="bearer", token="é"))) == {}


def test_files_are_checked_by_check_files_only(tmp_path: Path) -> None:
    there = tmp_path / "cert.pem"
    there.write_text("PEM")
    auth = AuthConfig(method="mtls", cert_file=str(there), key_file=str(tmp_path / "none"), ca_file=str(tmp_path))
    plugin = PluginConfig(name="a", transport="https", endpoint="https://host", auth=auth)
    off = attrs.evolve(plugin, name="off", enabled=False)
    config = ManagerConfig(plugins=[plugin, off])
    config.validate()
    with pytest.raises(errors.InvalidConfigError) as caught:
        config.check_files()
    found = {problem.path: problem for problem in caught.value.problems}
    assert set(found) == {"plugins[0].auth.key_file", "plugins[0].auth.ca_file"}
    assert all(isinstance(problem, errors.InvalidCertificateError) and problem.fix for problem in found.values())
    with pytest.raises(errors.InvalidCertificateError, match="does not exist"):
        attrs.evolve(plugin, auth=AuthConfig(ca_file=str(tmp_path / "none"))).check_files()
    attrs.evolve(plugin, auth=AuthConfig(ca_file=str(there))).check_files()


def test_an_auth_section_alone_is_read_and_validated() -> None:
    assert AuthConfig.from_mapping({"method": "bearer", "token": "t"}) == AuthConfig(
        method=AuthMethod.BEARER, token="t"
    )
    with pytest.raises(InvalidConfigError, match=r"tokn: unknown field \(did you mean 'token'\?\)"):
        AuthConfig.from_mapping({"tokn": "t"})


def resolved(plugin: PluginConfig, **defaults: object) -> PluginConfig:
    return ManagerConfig(plugins=[plugin], **defaults).with_defaults().plugins[0]


def test_credentials_without_a_method_do_not_become_method_none() -> None:
    plugin = resolved(PluginConfig(auth=AuthConfig(token="t")))
    assert plugin.auth == AuthConfig(token="t")
    assert resolved(PluginConfig(auth=AuthConfig(ca_file="ca"))).auth == AuthConfig(
        method=AuthMethod.NONE, ca_file="ca"
    )


def test_headers_of_each_method() -> None:
    assert auth_headers(AuthConfig()) == {}
    assert auth_headers(AuthConfig(method="api-key", api_key="k")) == {"X-API-Key": "k"}
    assert auth_headers(AuthConfig(method="api-key", api_key="k", header="X-Key")) == {"X-Key": "k"}
    assert auth_headers(AuthConfig(method="api-key", api_key="k", query="key")) == {}
    with pytest.raises(AuthConfigError, match="oauth2 has no headers before its token"):
        auth_headers(AuthConfig(**OAUTH2))
    assert auth_headers(AuthConfig(method="basic", username="zo\xeb", password="\u20ac")) == {
        "Authorization": "Basic em/Dqzrigqw="
    }
    assert auth_headers(AuthConfig(method="custom", headers={"X-Team": "a"})) == {"X-Team": "a"}
    bearer = AuthConfig(method="bearer", token="t", headers={"authorization": "x", "A": "b"})
    assert auth_headers(bearer) == {"Authorization": "Bearer t", "A": "b"}


FIELDS: dict[str, dict[str, str]] = {
    "api-key": {"api_key": "k"},
    "bearer": {"token": "t"},
    "basic": {"username": "u", "password": "p"},
    "mtls": {"cert_file": "c", "key_file": "s"},
    "custom": {},
}
CERTIFICATE: dict[str, Any] = {"method": "mtls", "cert_file": "c", "key_file": "k"}
SENT = {
    "api-key": {"X-API-Key": "k"},
    "bearer": {"Authorization": "Bearer t"},
    "basic": {"Authorization": "Basic dTpw"},
}


@pytest.mark.parametrize("other", FIELDS)
@pytest.mark.parametrize("method", FIELDS)
def test_each_credential_beside_each_method_is_sent_or_refused(method: str, other: str) -> None:
    auth = AuthConfig.from_mapping({"method": method, "headers": {"X-Team": "a"}, **FIELDS[method], **FIELDS[other]})
    plugin = attrs.evolve(GOOD, transport="https", endpoint="https://h", auth=auth)
    if {other, method} & {"mtls", "custom"} or other == method:
        sent = {"X-Team": "a", **SENT.get(method, {}), **(SENT.get(other, {}) if method == "mtls" else {})}
        if method == "custom" and other in SENT:
            assert set(codes_of(plugin)) == {f"auth.{name}" for name in FIELDS[other]}
        else:
            assert codes_of(plugin) == {}
            assert auth_headers(auth) == sent
    else:
        assert set(codes_of(plugin)) == {f"auth.{name}" for name in FIELDS[other]}
    off = AuthConfig.from_mapping({"method": "none", **FIELDS[method], **FIELDS[other]})
    assert codes_of(off) == {}, "method none switches all of them off"


@pytest.mark.parametrize(
    ("auth", "path"),
    [
        (AuthConfig(method="mtls", cert_file="c", key_file="k", username="u"), "auth.password"),
        (AuthConfig(method="mtls", cert_file="c", key_file="k", password="p"), "auth.username"),
        (
            AuthConfig(method="mtls", cert_file="c", key_file="k", username="u", password="p", token="t"),
            "auth.username",
        ),
        (AuthConfig(method="mtls", cert_file="c", key_file="k", username="a:b", password="p"), "auth.username"),
        (AuthConfig(method="bearer", token="t", cert_file="c"), "auth.key_file"),
        (AuthConfig(method="bearer", token="t", key_file="k"), "auth.cert_file"),
    ],
)
def test_halves_of_pairs_and_two_values_of_one_header(auth: AuthConfig, path: str) -> None:
    assert list(codes_of(attrs.evolve(GOOD, transport="https", endpoint="https://h", auth=auth))) == [path]


@pytest.mark.parametrize(
    "auth",
    [
        AuthConfig(token="t"),
        AuthConfig(method="mtls", cert_file="c", key_file="k", token_file="/run/token"),  # not read yet
        AuthConfig(method="bearer"),
        AuthConfig(method="bearer", token_file="/run/token"),  # not read yet
        AuthConfig(method="basic", username="u"),
        AuthConfig(method="api-key", api_key="k\n"),
        AuthConfig(method="oauth"),  # type: ignore[arg-type]
    ],
)
def test_headers_need_valid_credentials(auth: AuthConfig) -> None:
    with pytest.raises(AuthConfigError) as caught:
        auth_headers(auth)
    assert caught.value.path.startswith("auth.")


def test_headers_in_ascii() -> None:
    auth = AuthConfig(method="bearer", token="t\xf6ken")
    assert auth_headers(auth)["Authorization"] == "Bearer t\xf6ken"
    with pytest.raises(AuthConfigError, match="outside ASCII"):
        auth_headers(auth, "ascii")
