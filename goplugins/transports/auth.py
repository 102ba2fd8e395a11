"""Credentials as headers: the same on every transport."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from goplugins.config.credentials import AuthConfig
from goplugins.errors import MissingBearerTokenError, PluginError

__all__ = ["joined_secrets", "scrub", "scrub_error", "secrets_of", "with_token"]

_TELLING = 8
"""Characters by which the beginning of a credential is known."""


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
    return attrs.evolve(auth, token=token, token_file="")


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
