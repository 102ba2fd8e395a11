"""Whether an ``auth`` section has what its method needs. No message repeats a credential."""

from __future__ import annotations

import os
from collections.abc import Mapping

from goplugins.config.masking import MASK
from goplugins.config.plugin_sections import AuthConfig
from goplugins.config.problems import Problems
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

__all__ = ["check_auth", "check_auth_files", "is_header"]

_TLS = frozenset({TransportType.HTTPS, TransportType.GRPC_TLS})
_GRPC = frozenset({TransportType.GRPC, TransportType.GRPC_TLS})

_NEEDED: Mapping[AuthMethod, tuple[tuple[str, ...], type[ConfigError]]] = {
    AuthMethod.API_KEY: (("api_key",), MissingAPIKeyError),
    AuthMethod.BEARER: (("token",), MissingBearerTokenError),
    AuthMethod.BASIC: (("username", "password"), MissingBasicCredentialsError),
    AuthMethod.MTLS: (("cert_file", "key_file"), MissingMTLSCertsError),
    AuthMethod.CUSTOM: (("headers",), AuthConfigError),
}


def check_auth(auth: AuthConfig, problems: Problems, transport: TransportType | None = None) -> None:
    """Notes what is wrong with ``auth`` by itself, and on ``transport`` if that is known."""
    if auth.method is None and (method := auth.suggested_method):
        # Going on without would send calls without the credential, and say nothing.
        fix = f"write method: {method}, or method: none"
        problems.add(UnsupportedAuthMethodError, "missing beside credentials", fix, "method")
    elif auth.method is not None and auth.method in _NEEDED:
        names, error = _NEEDED[auth.method]
        for name in names:
            if not getattr(auth, name) and not (name == "token" and auth.token_file):
                problems.add(
                    error, f"missing for method {auth.method}", f"set auth.{name}, or another auth.method", name
                )
    if auth.token and auth.token_file:
        problems.add(AuthConfigError, "is set beside token", "keep one of them", "token_file")
    if auth.method is AuthMethod.MTLS and transport is not None and transport not in _TLS:
        fix = "use transport https or grpc-tls, or another method"
        problems.add(AuthConfigError, f"mtls needs TLS, which transport {transport} lacks", fix, "method")
    # HTTP headers are Latin-1, gRPC metadata is ASCII.
    charset = "ascii" if transport in _GRPC else "latin-1"
    for name in ("api_key", "token", "username", "password"):
        header = name in {"api_key", "token"}
        if fault := _text_fault(getattr(auth, name), charset if header else ""):
            problems.add(AuthConfigError, *fault, name)
    if ":" in auth.username and auth.method is AuthMethod.BASIC:
        problems.add(AuthConfigError, "holds a colon, which basic can't send", "use another user name", "username")
    _check_headers(auth, charset, problems)


def _check_headers(auth: AuthConfig, charset: str, problems: Problems) -> None:
    for name, value in auth.headers.items():
        if not is_header(name):
            fix = "use letters, digits and dashes"
            problems.add(AuthConfigError, "holds a name that no header can have", fix, "headers")
        elif fault := _text_fault(value, charset):
            problems.add(AuthConfigError, *fault, "headers", name)


def is_header(name: str, value: str = "") -> bool:
    """Whether a header may have this name and value."""
    try:
        check_headers({name: value})
    except InvalidHeaderError:
        return False
    return True


def _text_fault(text: str, charset: str) -> tuple[str, str] | None:
    """What is wrong with a credential, and the fix; ``charset`` is that of the header that it goes into as it is."""
    if text == MASK:
        fix = "write the secret, or to_json(include_secrets=True)"
        return f"is {MASK}, which stands for a secret that was left out", fix
    if not is_header("x", text):
        fix = "take it out; a secret read from a file often ends in a line break"
        return "holds a line break or control character", fix
    if charset and text != text.strip():
        return "begins or ends with a space", "take the space out"
    try:
        text.encode(charset or "utf-8")
    except UnicodeEncodeError:
        return f"holds a character outside {charset.upper()}, which no header can carry", "use other characters"
    return None


def check_auth_files(auth: AuthConfig, problems: Problems) -> None:
    """Notes which certificate, key, CA and token files can't be read here."""
    for name in ("cert_file", "key_file", "ca_file", "token_file"):
        path = getattr(auth, name)
        if not path:
            continue
        error: type[ConfigError] = MissingBearerTokenError if name == "token_file" else InvalidCertificateError
        if not os.path.isfile(path):
            state = "is a directory" if os.path.isdir(path) else "does not exist"
            kind = "the file that holds the token" if name == "token_file" else "a PEM file"
            problems.add(error, f"{path!r} {state}", f"write the path of {kind}", name)
        elif not os.access(path, os.R_OK):
            problems.add(error, f"{path!r} can't be read", "let this process's user read it", name)
