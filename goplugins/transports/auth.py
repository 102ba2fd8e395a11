"""Credentials as headers: the same on every transport."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from goplugins.config.plugin_sections import AuthConfig
from goplugins.enums import AuthMethod
from goplugins.errors import AuthConfigError, InvalidHeaderError, MissingBearerTokenError, PluginError
from goplugins.headers import check_headers

__all__ = ["auth_headers", "basic_credentials", "joined_secrets", "scrub", "scrub_error", "secrets_of", "with_token"]

_TELLING = 8
"""Characters by which the beginning of a credential is known."""


def basic_credentials(username: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617, UTF-8).

    >>> basic_credentials("user", "pa:ss")
    'Basic dXNlcjpwYTpzcw=='
    """
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")


def auth_headers(auth: AuthConfig) -> dict[str, str]:
    """The headers that prove who a call comes from; none for the methods none and mtls.

    ``auth.headers`` are sent with every method, and are all there is for the method custom.

    Raises:
        AuthConfigError: a credential that no header can carry; never tells its value.
    """
    headers = dict(auth.headers or {})
    method = AuthMethod(auth.method or AuthMethod.NONE)
    if method is AuthMethod.API_KEY:
        _set(headers, "X-API-Key", auth.api_key or "")
    elif method is AuthMethod.BEARER:
        _set(headers, "Authorization", f"Bearer {auth.token or ''}")
    elif method is AuthMethod.BASIC:
        _set(headers, "Authorization", basic_credentials(auth.username or "", auth.password or ""))
    try:
        check_headers(headers, "auth.headers")
    except InvalidHeaderError as exc:
        raise AuthConfigError(exc.message, path="auth") from None  # the cause's frames hold the value
    for name, value in headers.items():
        if not _is_latin1(value):
            raise AuthConfigError(f"the value of {name!r} has characters outside Latin-1", path="auth")
    return headers


def with_token(auth: AuthConfig | None) -> AuthConfig:
    """The section with the token that its ``token_file`` holds now; as it is where it names none.

    Raises:
        MissingBearerTokenError: the file can't be read, or is empty.
        AuthConfigError: it holds what no header can carry.
    """
    if auth is None or not auth.token_file:
        return auth or AuthConfig()
    try:
        with open(auth.token_file, encoding="utf-8") as stream:
            token = stream.read().strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else "") or "it is no text"
        message = f"{auth.token_file!r} can't be read: {reason}"
        raise MissingBearerTokenError(message, path="auth.token_file") from None  # the cause may hold the token
    if not token:
        raise MissingBearerTokenError(f"{auth.token_file!r} is empty", path="auth.token_file")
    return attrs.evolve(auth, token=token)


def _set(headers: dict[str, str], name: str, value: str) -> None:
    for other in [other for other in headers if other.lower() == name.lower()]:
        del headers[other]
    headers[name] = value


def _is_latin1(value: str) -> bool:
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def secrets_of(headers: Mapping[str, str], *others: str) -> tuple[str, ...]:
    """The texts that must not appear in an error: each header's value, a scheme's credential by itself, ``others``.

    >>> secrets_of({"Authorization": "Bearer tok-456"})
    ('Bearer tok-456', 'tok-456')
    """
    found = list(others)
    for value in headers.values():
        scheme, _, credential = value.partition(" ")
        found.append(value)
        if credential and scheme.lower() in ("bearer", "basic", "token", "apikey"):
            found.append(credential.strip())
    return tuple(secret for secret in found if len(secret) >= 4)


def joined_secrets(new: tuple[str, ...], *, before: tuple[str, ...]) -> tuple[str, ...]:
    """The secrets of now and those of shortly before, with which calls are still under way."""
    return tuple(dict.fromkeys((*new, *before)))[: 3 * len(new)]


def scrub(text: str, secrets: Iterable[str]) -> str:
    """A remote text without our credentials: debugging pages and plugins like to echo a request.

    >>> scrub("got Bearer tok-456; then Bearer tok", secrets_of({"Authorization": "Bearer tok-456"}))
    'got ***; then ***'
    """
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "***")
        # The text may have been cut within the last one.
        start = text.rfind(secret[:_TELLING])
        if start >= 0 and secret.startswith(text[start:]):
            text = text[:start] + "***"
    return text


def scrub_error(error: PluginError, secrets: Iterable[str]) -> None:
    """Takes our credentials out of all that an error says: of its message, and of names and values of its details.

    >>> error = PluginError("refused tok-456", details={"metadata": {"tok-456": "1"}, "status": 400})
    >>> scrub_error(error, ["tok-456"])
    >>> error.message, error.details
    ('refused ***', {'metadata': {'***': '1'}, 'status': 400})
    """
    if secrets:
        error.message = scrub(error.message, secrets)
        error.details = _scrubbed(error.details, secrets)


def _scrubbed(value: Any, secrets: Iterable[str]) -> Any:
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, Mapping):
        return {_scrubbed(name, secrets): _scrubbed(each, secrets) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(each, secrets) for each in value]
    return value
