"""Credentials of a plugin: loading and renewal from files, and their removal from texts."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, quote_plus

import attrs

from goplugins.config.credentials import AuthConfig, files_of
from goplugins.enums import AuthMethod
from goplugins.errors import AuthConfigError, ConfigError, MissingBearerTokenError, PluginError
from goplugins.runtime.clock import Clock
from goplugins.runtime.text import CUT
from goplugins.transports.watched_files import WatchedFiles, reader_of

logger = logging.getLogger("goplugins.transports")

_SETTLE = 0.3
"""Seconds that new content of a file must stay the same before it is used."""

_SECRET_NAME = re.compile(
    "auth|token|cookie|secret|passw|credential|signature|session|(?<!idempotency)[-_]key$", re.IGNORECASE
)
"""Names of headers with which calls carry credentials of their own."""

_MIN_PREFIX = 8
"""Characters by which the beginning of a credential is recognised at the end of a text, which others may have cut."""

_MARKS = re.compile(rf"{CUT}|\.{{3,}}")
"""What follows the beginning of a credential that was cut in two."""

_MIN_BEFORE_DOTS = 4

_LONGEST_CUT = 16_384
"""Characters; longer texts have not been cut by this library."""


class PluginCredentials:
    """Credentials of one plugin: loaded from its ``auth`` section, renewed when their files change, kept out of texts.

    Args:
        auth: the section; None for no credentials.
        clock: measures.
        name: the plugin's, for the log.

    Attributes:
        auth: the section as first loaded, with the token of its file; that of method oauth2 has a token that is none.
        watched: whether there are files to watch, for :meth:`renew`.

    Raises:
        ConfigError: the token file can't be used.
    """

    def __init__(self, auth: AuthConfig | None, clock: Clock, name: str) -> None:
        self._section = section = auth or AuthConfig()
        self._name = name
        self._failure = ""
        self._secrets: tuple[str, ...] = ()
        self._last: Mapping[str, str] = {}
        paths = files_of(auth)
        self.watched = bool(paths)
        # Before the files are read: a change in between must not be missed.
        self._files = WatchedFiles(reader_of(paths, clock), clock, settle=_SETTLE)
        self.auth = _with_token(section)

    def renew(self, apply: Callable[[AuthConfig], None]) -> None:
        """Applies new credentials if the files have changed and can be used; otherwise the old ones stay.

        Args:
            apply: applies a section whose token has been read. If it raises a ConfigError, it has changed nothing.
        """
        if not self._files.changed():
            return
        try:
            apply(_with_token(self._section))
        except ConfigError as error:
            # A key file is written after its certificate: until both match, the old ones are used.
            if str(error) != self._failure:
                self._failure = str(error)
                logger.warning("plugin %r: new credentials can't be used, the old ones stay: %s", self._name, error)
            return
        self._failure = ""
        self._files.accept()
        logger.info("plugin %r: uses the new credentials of its files", self._name)

    def protect(self, auth: AuthConfig, headers: Mapping[str, str]) -> None:
        """Removes these credentials from texts from now on, and the previous ones, which calls in flight still use."""
        secrets = secrets_of(headers, auth.password, auth.token, auth.api_key)
        self._secrets = tuple(dict.fromkeys((*secrets, *self._secrets)))[: 3 * len(secrets)]

    def remember(self, headers: Mapping[str, str]) -> None:
        """Removes these headers from texts, too, until the next ones: of a provider, for a health check."""
        self._last = headers

    def scrub(self, text: str) -> str:
        """A remote text without the credentials; see :func:`scrub`."""
        return scrub(text, self._secrets + secrets_of(self._last) if self._last else self._secrets)

    def scrub_error(
        self, error: PluginError, headers: Mapping[str, str], signed: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Removes the credentials from the message and the details of an error.

        Args:
            error: of an attempt.
            headers: of the call, which may have credentials of its own.
            signed: what a provider has added.
        """
        secrets = self._secrets + secrets_of(signed) if signed else self._secrets
        if headers:
            secrets += secrets_of({name: value for name, value in headers.items() if _SECRET_NAME.search(name)})
        if secrets:
            error.message = scrub(error.message, secrets)
            error.details = _scrubbed(error.details, secrets)


def _scrubbed(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return scrub(value, secrets)
    if isinstance(value, Mapping):
        return {_scrubbed(name, secrets): _scrubbed(each, secrets) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(each, secrets) for each in value]
    return value


def _with_token(auth: AuthConfig) -> AuthConfig:
    """The section with the current token of its ``token_file``; unchanged if it has none.

    Raises:
        MissingBearerTokenError: the file can't be read, or is empty.
    """
    if auth.method is AuthMethod.OAUTH2:
        return with_bearer(auth, _NO_TOKEN)
    if not auth.token_file:
        return auth
    return attrs.evolve(auth, token=_read(auth.token_file, "auth.token_file", MissingBearerTokenError), token_file="")


_NO_TOKEN = "-"  # noqa: S105 - what is made of it checks a call's headers, and is never sent


def with_bearer(auth: AuthConfig, token: str) -> AuthConfig:
    """A section of method oauth2 as one of method bearer with a token that was requested."""
    return attrs.evolve(
        auth,
        method=AuthMethod.BEARER,
        token=token,
        token_url="",
        client_id="",
        client_secret="",
        client_secret_file="",
        client_auth=None,
        scopes=(),
        audience="",
    )


def read_secret(auth: AuthConfig) -> str:
    """The secret of method oauth2, from its file if there is one.

    Raises:
        AuthConfigError: the file can't be read, or is empty.
    """
    file = auth.client_secret_file
    return _read(file, "auth.client_secret_file", AuthConfigError) if file else auth.client_secret


def _read(file: str, path: str, kind: type[ConfigError]) -> str:
    try:
        with open(file, encoding="utf-8") as stream:
            found = stream.read().strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else "") or "not a UTF-8 text"
        raise kind(f"{file!r} can't be read: {reason}", path=path) from None  # the cause may hold the secret
    if not found:
        raise kind(f"{file!r} is empty", path=path)
    return found


def secrets_of(headers: Mapping[str, str], *others: str) -> tuple[str, ...]:
    """Texts that must not appear in an error: header values, credentials without their scheme, and ``others``.

    Each also in the forms in which services echo a text: percent-encoded, and escaped for HTML and JSON.

    >>> secrets_of({"Authorization": "Bearer tok-456"})
    ('Bearer tok-456', 'Bearer%20tok-456', 'Bearer+tok-456', 'tok-456')
    """
    found = list(others)
    for value in headers.values():
        scheme, _, credential = value.partition(" ")
        found.append(value)
        if credential and scheme.lower() in ("bearer", "basic", "token", "apikey"):
            found.append(credential.strip())
    forms = (form for secret in found if len(secret) >= 4 for form in _forms(secret))
    return tuple(dict.fromkeys(forms))


def _forms(secret: str) -> Iterable[str]:
    encoded = quote(secret, safe="")
    yield from (secret, encoded, re.sub("%..", lambda found: found[0].lower(), encoded))
    yield from (quote(secret), quote_plus(secret), html.escape(secret), html.escape(secret, quote=False))
    yield html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])


def scrub(text: str, secrets: Iterable[str]) -> str:
    """A remote text without the credentials: debugging pages and plugins may echo a request.

    >>> scrub("got Bearer tok-456; then Bearer tok", secrets_of({"Authorization": "Bearer tok-456"}))
    'got ***; then ***'
    >>> scrub("got 'Bearer t…' and tok-…", secrets_of({"Authorization": "Bearer tok-456"}))
    "got '***…' and ***…"
    """
    secrets = tuple(secrets)
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, "***")
        # The text may have been cut within a credential.
        start = text.rfind(secret[:_MIN_PREFIX])
        if start >= 0 and secret.startswith(text[start:]):
            text = text[:start] + "***"
    marks = tuple(_MARKS.finditer(text)) if len(text) <= _LONGEST_CUT else ()
    for mark in reversed(marks):
        end = mark.start()
        start = min((_start_of(secret, text, end, mark[0] == CUT) for secret in secrets), default=end)
        if start < end:
            text = f"{text[:start]}***{text[end:]}"
    return text


def _start_of(secret: str, text: str, end: int, cut: bool) -> int:
    """Where the beginning of the secret starts that ends at ``end``; ``end`` if none does.

    Args:
        cut: the text was certainly cut here, so that one character is a beginning, too.
    """
    first = secret[: 1 if cut else _MIN_BEFORE_DOTS]
    start = text.find(first, max(0, end - len(secret)), end)
    while start >= 0 and not secret.startswith(text[start:end]):
        start = text.find(first, start + 1, end)
    return end if start < 0 else start
