"""The ``auth`` section: credentials, whether they can be sent, and the headers that carry them.

No message repeats a credential.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import attrs

from goplugins.config.endpoints import Endpoint
from goplugins.config.field_types import Address, ClientAuth, Credential, FilePath, Secret, SecretTexts, surrogate_fault
from goplugins.config.masking import MASK
from goplugins.config.problems import Problems, raise_for
from goplugins.config.schema import Section, as_member, as_text_table, as_texts
from goplugins.enums import AuthMethod, TransportType
from goplugins.errors import (
    AuthConfigError,
    ConfigError,
    InvalidCertificateError,
    InvalidHeaderError,
    MissingAPIKeyError,
    MissingBasicCredentialsError,
    MissingBearerTokenError,
    MissingMTLSCertsError,
    UnsupportedAuthMethodError,
)
from goplugins.headers import check_headers

_TLS = frozenset({TransportType.HTTPS, TransportType.GRPC_TLS})
_GRPC = frozenset({TransportType.GRPC, TransportType.GRPC_TLS})

_HTTP = frozenset({TransportType.HTTP, TransportType.HTTPS})

_BESIDE_CERTIFICATE = {
    "api_key": AuthMethod.API_KEY,
    "token": AuthMethod.BEARER,
    "token_file": AuthMethod.BEARER,
    "username": AuthMethod.BASIC,
    "password": AuthMethod.BASIC,
}
"""Credentials that method mtls sends as well, and the method that they are of."""

_METHODS = {
    **_BESIDE_CERTIFICATE,
    "header": AuthMethod.API_KEY,
    "query": AuthMethod.API_KEY,
    "token_url": AuthMethod.OAUTH2,
    "client_id": AuthMethod.OAUTH2,
    "client_secret": AuthMethod.OAUTH2,
    "client_secret_file": AuthMethod.OAUTH2,
    "client_auth": AuthMethod.OAUTH2,
    "scopes": AuthMethod.OAUTH2,
    "audience": AuthMethod.OAUTH2,
    "cert_file": AuthMethod.MTLS,
    "key_file": AuthMethod.MTLS,
}
"""The method that uses a field."""

_IN_FILES = {"token": "token_file", "client_secret": "client_secret_file"}
"""Credentials that a file may hold, and the field with its path."""

_REQUIRED: Mapping[AuthMethod, tuple[tuple[str, ...], type[ConfigError]]] = {
    AuthMethod.API_KEY: (("api_key",), MissingAPIKeyError),
    AuthMethod.BEARER: (("token",), MissingBearerTokenError),
    AuthMethod.BASIC: (("username", "password"), MissingBasicCredentialsError),
    AuthMethod.MTLS: (("cert_file", "key_file"), MissingMTLSCertsError),
    AuthMethod.CUSTOM: (("headers",), AuthConfigError),
    AuthMethod.OAUTH2: (("token_url", "client_id", "client_secret"), AuthConfigError),
}

_FILES = {
    "cert_file": ("a PEM file", InvalidCertificateError),
    "key_file": ("a PEM file", InvalidCertificateError),
    "ca_file": ("a PEM file", InvalidCertificateError),
    "token_file": ("the file that contains the token", MissingBearerTokenError),
    "client_secret_file": ("the file that contains the secret", AuthConfigError),
}
"""Fields that hold a path: what the file should be, and the error for one that can't be read."""

_SCOPE = re.compile(r"[!#-\[\]-~]+")
"""RFC 6749, 3.3."""

_PROVIDER = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")

_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]+){3}|::1")


def _method(value: AuthMethod | str | int | None) -> AuthMethod | None:
    return as_member(AuthMethod, value)


@attrs.frozen(kw_only=True, repr=False)
class AuthConfig(Section):
    """How calls to a plugin are authenticated. Secrets are masked in ``repr``.

    Attributes:
        method: decides which of the fields below are used; none when left out. A client certificate can be combined
            with any: ``cert_file`` and ``key_file`` are used with every method, and method mtls also sends the api_key,
            the token, or the username and password that are set.
        api_key: sent as ``X-API-Key`` by method api-key.
        header: the name of the header that carries the api_key, instead of ``X-API-Key``.
        query: the name of the query parameter that carries it, instead of a header; on http and https.
        token: sent as ``Authorization: Bearer`` by method bearer.
        token_file: path of a file with the token, instead of ``token``. This file and the three below are read again
            when they change.
        username: sent with ``password`` by method basic.
        password: see ``username``.
        token_url: where method oauth2 requests tokens, which it sends as ``Authorization: Bearer`` (client credentials,
            RFC 6749 4.4).
        client_id: identifies this client there.
        client_secret: proves it.
        client_secret_file: path of a file with the secret, instead of ``client_secret``; read for each token.
        client_auth: how client_id and secret are sent: basic, in a header, when left out; post, in the body.
        scopes: the scopes that are requested; those that the token endpoint decides when left out.
        audience: the audience that is requested; none when left out.
        cert_file: path of the PEM certificate that is presented on a TLS transport.
        key_file: path of the private key of ``cert_file``.
        ca_file: path of the authorities to trust on a TLS transport, with every method.
        headers: sent with every method; the only ones that method custom sends.
        provider: ``package.module:function``, called for each attempt with an :class:`~goplugins.OutgoingRequest`; the
            headers that it returns are sent, such as a signature. With every method.
    """

    method: AuthMethod | None = attrs.field(default=None, converter=_method)
    api_key: Secret = ""
    token: Secret = ""
    token_file: FilePath = ""
    username: Credential = ""
    password: Secret = ""
    cert_file: FilePath = ""
    key_file: FilePath = ""
    ca_file: FilePath = ""
    headers: SecretTexts = attrs.field(factory=dict, converter=as_text_table)
    header: Credential = ""
    query: Credential = ""
    token_url: Address = ""
    client_id: Credential = ""
    client_secret: Secret = ""
    client_secret_file: FilePath = ""
    client_auth: ClientAuth | None = None
    scopes: tuple[str, ...] = attrs.field(default=(), converter=as_texts)
    audience: Credential = ""
    provider: str = ""

    @property
    def suggested_method(self) -> AuthMethod | None:
        """The method that would send the credentials that are set."""
        given = (method for name, method in _METHODS.items() if getattr(self, name))
        return next(given, None)

    def validate(self) -> None:
        """Checks types, the credentials that the method needs, and headers.

        Raises:
            ConfigError: one problem, or an :class:`~goplugins.errors.InvalidConfigError` that holds all of them.
        """
        from goplugins.config.conversion import type_problems

        problems = Problems(found=type_problems(self))
        if not problems.found:
            check_auth(self, problems)
        raise_for(problems.found, "auth")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, source: str = "configuration") -> AuthConfig:
        """Reads plain values, as from JSON.

        Raises:
            ConfigError: unknown fields and wrong types, all of them, each with its path.
        """
        from goplugins.config.conversion import structure

        return structure(cls, mapping, source=source)


def auth_headers(auth: AuthConfig, charset: str = "latin-1") -> dict[str, str]:
    """The headers that authenticate a call. Methods none and custom send ``auth.headers`` only.

    Args:
        auth: the section; the token of a ``token_file`` has been read into ``token``, and so has that of method oauth2,
            with method bearer.
        charset: encoding of header values: ``latin-1`` over HTTP, ``ascii`` in gRPC metadata.

    Raises:
        ConfigError: all credentials that are missing or that no header can carry.

    >>> auth_headers(AuthConfig(method="bearer", token="t", headers={"X-Team": "search"}))
    {'X-Team': 'search', 'Authorization': 'Bearer t'}
    """
    problems = Problems(("auth",))
    _check_credentials(auth, charset, problems)
    if auth.method is AuthMethod.OAUTH2:
        problems.add(UnsupportedAuthMethodError, "oauth2 has no headers before its token", "request it first", "method")
    raise_for(problems.found, "auth")
    headers = dict(auth.headers)
    sent = _sent_methods(auth)
    if AuthMethod.API_KEY in sent and not auth.query:
        _set(headers, auth.header or "X-API-Key", auth.api_key)
    if AuthMethod.BEARER in sent:
        _set(headers, "Authorization", f"Bearer {auth.token}")
    if AuthMethod.BASIC in sent:
        _set(headers, "Authorization", basic_credentials(auth.username, auth.password))
    return headers


def sent_headers(auth: AuthConfig) -> frozenset[str]:
    """The names, in lower case, of the headers that carry credentials; those of a provider are not known beforehand.

    >>> sorted(sent_headers(AuthConfig(method="bearer", token="t", headers={"X-Team": "search"})))
    ['authorization', 'x-team']
    """
    names = {name.lower() for name in auth.headers}
    sent = _sent_methods(auth)
    if AuthMethod.API_KEY in sent and not auth.query:
        names.add((auth.header or "X-API-Key").lower())
    if not sent.isdisjoint({AuthMethod.BEARER, AuthMethod.BASIC, AuthMethod.OAUTH2}):
        names.add("authorization")
    return frozenset(names)


def auth_query(auth: AuthConfig) -> str:
    """The query parameter that authenticates a call, percent-encoded; empty for none.

    >>> auth_query(AuthConfig(method="api-key", api_key="a+b", query="key"))
    'key=a%2Bb'
    """
    if not auth.query or AuthMethod.API_KEY not in _sent_methods(auth):
        return ""
    return f"{quote(auth.query, safe='')}={quote(auth.api_key, safe='')}"


def basic_credentials(username: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617, UTF-8).

    >>> basic_credentials("user", "pa:ss")
    'Basic dXNlcjpwYTpzcw=='
    """
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def _sent_methods(auth: AuthConfig) -> set[AuthMethod | None]:
    """The methods whose credentials are sent as headers: beside a client certificate, of all credentials given."""
    if auth.method is not AuthMethod.MTLS:
        return {auth.method}
    return {method for name, method in _BESIDE_CERTIFICATE.items() if getattr(auth, name)}


def _set(headers: dict[str, str], name: str, value: str) -> None:
    for other in [other for other in headers if other.lower() == name.lower()]:
        del headers[other]
    headers[name] = value


def validate_auth(auth: AuthConfig | None, transport: TransportType | None = None) -> None:
    """Raises for what :func:`check_auth` finds; opens no file."""
    problems = Problems(("auth",))
    if auth is not None:
        check_auth(auth, problems, transport)
    raise_for(problems.found, "auth")


def check_auth(auth: AuthConfig, problems: Problems, transport: TransportType | None = None) -> None:
    """Adds what is wrong with the section by itself, and on ``transport`` if that is known; opens no file."""
    for name, file in (*_IN_FILES.items(), ("header", "query")):
        if getattr(auth, name) and getattr(auth, file):
            problems.add(AuthConfigError, f"is set, and so is {name}", "keep one of them", file)
    if auth.method is AuthMethod.MTLS and transport is not None and transport not in _TLS:
        fix = "use transport https or grpc-tls, or another method"
        problems.add(AuthConfigError, f"mtls needs TLS, which transport {transport} does not have", fix, "method")
    if auth.query and transport is not None and transport not in _HTTP:
        problems.add(AuthConfigError, f"transport {transport} has no query", "write header, or leave it out", "query")
    _check_token_request(auth, problems, transport)
    _check_credentials(auth, "ascii" if transport in _GRPC else "latin-1", problems, token_file=auth.token_file)


def _check_token_request(auth: AuthConfig, problems: Problems, transport: TransportType | None) -> None:
    """Adds scopes that no request can have, and a URL that the secret must not be sent to."""
    for index, scope in enumerate(auth.scopes):
        if not _SCOPE.fullmatch(scope):
            fix = "write one scope an item, without spaces and quotes"
            problems.add(AuthConfigError, "is not a scope", fix, "scopes", index)
    if not auth.token_url:
        return
    plain = auth.token_url[:5].lower() == "http:"
    try:
        endpoint = Endpoint.parse(TransportType.HTTP if plain else TransportType.HTTPS, auth.token_url)
    except ConfigError as exc:
        for problem in exc.problems:
            own = "@" in auth.token_url and problem.message == "contains credentials"
            fix = "remove them from the URL, and write client_id and client_secret" if own else problem.fix
            problems.add(type(problem), problem.message, fix, "token_url")
        return
    if plain and transport in _TLS and not _LOOPBACK.fullmatch(endpoint.host):
        message = f"is a plaintext URL beside transport {transport}: the secret would be sent unencrypted"
        problems.add(AuthConfigError, message, "write https://", "token_url")


def _check_credentials(auth: AuthConfig, charset: str, problems: Problems, *, token_file: str = "") -> None:
    """Adds credentials that are missing for the method or can't be sent; ``token_file`` stands for a token."""
    _check_method(auth, problems, token_file)
    for name in ("api_key", "token", "username", "password", "client_id", "client_secret", "audience", "query"):
        is_header_value = name == "token" or (name == "api_key" and not auth.query)
        if fault := _text_fault(getattr(auth, name), charset if is_header_value else ""):
            problems.add(AuthConfigError, *fault, name)
    if ":" in auth.username and AuthMethod.BASIC in _sent_methods(auth):
        fix = "use another user name"
        problems.add(AuthConfigError, "contains a colon, which method basic can't send", fix, "username")
    if auth.header and not is_header(auth.header):
        problems.add(AuthConfigError, "is a name that no header can have", "use letters, digits and dashes", "header")
    if auth.provider and not _PROVIDER.fullmatch(auth.provider):
        fix = "write package.module:function"
        problems.add(AuthConfigError, "is not the name of a function", fix, "provider")
    for name, value in auth.headers.items():
        if not is_header(name):
            fix = "use letters, digits and dashes"
            problems.add(AuthConfigError, "contains a name that no header can have", fix, "headers")
        elif fault := _text_fault(value, charset):
            problems.add(AuthConfigError, *fault, "headers", name)


def _check_method(auth: AuthConfig, problems: Problems, token_file: str) -> None:
    if auth.method is None and (method := auth.suggested_method):
        # Without a method, calls would be sent without these credentials.
        fix = f"write method: {method}, or method: none"
        problems.add(UnsupportedAuthMethodError, "missing, although there are credentials", fix, "method")
    elif auth.method is not None and auth.method not in set(AuthMethod):  # made in code, and not validated
        fix = f"write one of {', '.join(AuthMethod)}"
        problems.add(UnsupportedAuthMethodError, "is not a known method", fix, "method")
    names, error = _REQUIRED.get(auth.method or AuthMethod.NONE, ((), AuthConfigError))
    for name in names:
        in_file = token_file if name == "token" else getattr(auth, _IN_FILES.get(name, ""), "")
        if name == "headers" and auth.provider:
            continue
        if not getattr(auth, name) and not in_file:
            fix = f"set auth.{name}, or another auth.method"
            problems.add(error, f"is required for method {auth.method}", fix, name)
    if auth.method not in {None, AuthMethod.NONE}:  # method none keeps credentials for later use
        _check_others(auth, problems, token_file)


def _check_others(auth: AuthConfig, problems: Problems, token_file: str) -> None:
    """Adds credentials that the method does not send, and halves of pairs."""
    certificate = auth.method is AuthMethod.MTLS
    used = {auth.method, AuthMethod.MTLS, *((AuthMethod.API_KEY,) if certificate else ())}
    for name, method in _METHODS.items():
        if getattr(auth, name) and method not in used and not (certificate and name in _BESIDE_CERTIFICATE):
            fix = f"remove it, or write method: {method}; beside a client certificate, method: mtls sends it as well"
            if method is AuthMethod.OAUTH2:
                fix = f"remove it, or write method: {method}, which presents a client certificate, too"
            problems.add(AuthConfigError, f"is not used by method {auth.method}", fix, name)
    pairs = [("username", "password")] if certificate else [("cert_file", "key_file")]
    one_way = [(name, "api_key") for name in ("header", "query")] if certificate else []
    for one, other in (*pairs, *(reversed(pair) for pair in pairs), *one_way):
        if getattr(auth, one) and not getattr(auth, other):
            problems.add(AuthConfigError, f"is required with {one}", f"set auth.{other}, or remove {one}", other)
    if certificate and auth.token_file and not (auth.token or token_file):
        problems.add(MissingBearerTokenError, "has not been read", "read it into token", "token_file")
    if certificate and auth.username and (auth.token or auth.token_file):
        fix = "keep one of them: both are sent as Authorization"
        problems.add(AuthConfigError, "is set, and so is a token", fix, "username")


def is_header(name: str, value: str = "") -> bool:
    """Whether a header may have this name and value."""
    try:
        check_headers({name: value})
    except InvalidHeaderError:
        return False
    return True


def _text_fault(text: str, charset: str) -> tuple[str, str] | None:
    """What is wrong with a credential, and the fix; ``charset`` is that of the header that it is sent in unencoded."""
    if text == MASK:
        fix = "write the secret itself, or export the configuration by to_json(include_secrets=True)"
        return f"is {MASK}, the placeholder of a secret that was masked", fix
    if not is_header("x", text):
        fix = "remove it; a secret read from a file often ends in a line break"
        return "contains a line break or a control character", fix
    if charset and text != text.strip():
        return "starts or ends with a space", "remove the space"
    if fault := surrogate_fault(text):
        return fault, "use other characters"
    try:
        text.encode(charset or "utf-8")
    except UnicodeEncodeError:
        return f"contains a character outside {charset.upper()}, which no header can carry", "use other characters"
    return None


def files_of(auth: AuthConfig | None) -> tuple[str, ...]:
    """The paths of the files that the section names, and that are read again when they change."""
    names = (name for name in _FILES if name != "client_secret_file")  # read for each token
    return () if auth is None else tuple(path for name in names if (path := getattr(auth, name)))


def check_auth_files(auth: AuthConfig, problems: Problems) -> None:
    """Adds certificate, key, CA and token files that can't be read on this machine."""
    for name, (kind, error) in _FILES.items():
        path = getattr(auth, name)
        if not path:
            continue
        if not os.path.isfile(path):
            state = "is a directory" if os.path.isdir(path) else "does not exist"
            problems.add(error, f"{path!r} {state}", f"write the path of {kind}", name)
        elif not os.access(path, os.R_OK):
            problems.add(error, f"{path!r} can't be read", "let this process's user read it", name)
