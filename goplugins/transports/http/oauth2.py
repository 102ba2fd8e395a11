"""OAuth2 client credentials (RFC 6749, 4.4): requests to the token endpoint, on all transports."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote_plus, urlencode

import attrs

from goplugins._version import __version__
from goplugins.config.credentials import AuthConfig, basic_credentials, is_header
from goplugins.config.plugin import PluginConfig
from goplugins.config.plugin_sections import DEFAULT_CONNECTION
from goplugins.enums import TransportType
from goplugins.errors import (
    BadReplyError,
    ConfigError,
    PluginError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    TokenRefusedError,
    UnexpectedRedirectError,
    redact_url,
)
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.text import from_outside
from goplugins.transports.authorizer import Authorizer
from goplugins.transports.credential_rotation import read_secret, scrub, secrets_of
from goplugins.transports.envelope import parse_object
from goplugins.transports.http.engine import HTTPReply, unread
from goplugins.transports.http.httptools_engine import HttptoolsEngine
from goplugins.transports.http.reply import parse_retry_after
from goplugins.transports.http.request import RequestWriter
from goplugins.transports.http.target import target_of
from goplugins.transports.reconnect import HealthAttempt
from goplugins.transports.resolver import shared_resolver
from goplugins.transports.tls import file_stamp, token_endpoint_context
from goplugins.transports.token_source import REQUEST_TIMEOUT, Grant, TokenSource

W = TypeVar("W")

_CONNECTION = attrs.evolve(
    DEFAULT_CONNECTION,
    max_connections=4,
    max_idle_connections=0,
    connection_timeout=REQUEST_TIMEOUT,
    keep_alive=False,  # a token is requested once an hour or so
    disable_compression=True,
    max_response_bytes=1 << 20,
)

_SNIPPET = 300
"""Characters of a text of the token endpoint."""

_FIXES = {
    "invalid_client": "check auth.client_id and auth.client_secret, and auth.client_auth: basic or post",
    "invalid_scope": "check auth.scopes",
    "unauthorized_client": "permit the grant client_credentials to this client",
    "unsupported_grant_type": "the grant client_credentials is required",
}

_LIMIT = "the limit of a request for a token"
_OWN_TEXTS = (("the call's deadline", _LIMIT), ("the plugin", "the token endpoint"))
"""Words of errors of the engine, which name the plugin, and what is meant here."""


@attrs.frozen
class _Client:
    """A client at a token endpoint. Plugins with equal ones share tokens."""

    url: str
    client_id: str
    secret: str = attrs.field(repr=False)
    secret_file: str
    post: bool
    scopes: tuple[str, ...]
    audience: str
    ca_file: object
    proxy: str | None = attrs.field(repr=False)
    trust_env: bool
    clock: Clock


_sources: weakref.WeakValueDictionary[_Client, TokenSource] = weakref.WeakValueDictionary()


def authorizer_of(config: PluginConfig, make: Callable[[AuthConfig], W], clock: Clock) -> Authorizer[W]:
    """The authorizer of a plugin with method oauth2.

    Args:
        config: the plugin's; the token endpoint is reached with its ``auth.ca_file``, ``options.proxy`` and
            ``options.trust_env``.
        make: makes what writes requests, of a section whose method is bearer.
        clock: measures and waits.

    Raises:
        ConfigError: a file, proxy or authority that can't be used.
    """
    auth = config.auth or AuthConfig()
    return Authorizer(lambda: _source_of(auth, config.options, clock), auth, make, clock)


def _source_of(auth: AuthConfig, options: Mapping[str, Any], clock: Clock) -> TokenSource:
    """The source of tokens for these settings, which plugins share."""
    client = _Client(
        url=auth.token_url,
        client_id=auth.client_id,
        secret=auth.client_secret,
        secret_file=auth.client_secret_file,
        post=auth.client_auth == "post",
        scopes=auth.scopes,
        audience=auth.audience,
        ca_file=file_stamp(auth.ca_file),
        proxy=options.get("proxy"),
        trust_env=bool(options.get("trust_env")),
        clock=clock,
    )
    read_secret(auth)  # a file that can't be read is an error now, not at the first call
    found = _sources.get(client)
    if found is None:
        endpoint = _TokenEndpoint(client, auth, clock)
        found = _sources.setdefault(client, TokenSource(endpoint.fetch, endpoint.url, clock))
    return found


class _TokenEndpoint:
    """Requests tokens for one client.

    Attributes:
        url: without its query, for texts.
    """

    def __init__(self, client: _Client, auth: AuthConfig, clock: Clock) -> None:
        self.url = redact_url(client.url)
        self._client = client
        self._auth = auth
        self._clock = clock
        options = {"trust_env": client.trust_env, **({"proxy": client.proxy} if client.proxy else {})}
        transport = TransportType.HTTP if client.url[:5].lower() == "http:" else TransportType.HTTPS
        try:
            target = target_of(PluginConfig(transport=transport, endpoint=client.url, options=options))
        except ConfigError as exc:
            exc.path = "auth.token_url" if exc.path == "endpoint" else exc.path
            raise
        context = token_endpoint_context(auth, trust_env=client.trust_env) if target.tls else None
        self._engine = HttptoolsEngine(target, context, _CONNECTION, shared_resolver(), clock)
        defaults = {"Accept": "application/json"}
        self._writer = RequestWriter(
            target, version=__version__, credentials={}, defaults=defaults, compression=False, keep_alive=False
        )

    def fetch(self, deadline: Deadline) -> Grant:
        """Requests a token.

        Raises:
            TokenRefusedError: the request is refused.
            PluginError: no connection, no reply, or one that is no token.
        """
        secret = read_secret(self._auth)
        try:
            reply = self._exchange(secret, deadline)
        except PluginError as error:
            self._place(error)
            raise
        if not 200 <= reply.status < 300:
            raise self._refusal(reply, secret)
        try:
            return _grant_of(parse_object(reply.body))
        except BadReplyError as error:
            self._place(error)
            raise

    def _exchange(self, secret: str, deadline: Deadline) -> HTTPReply:
        client, writer = self._client, self._writer
        headers = {**writer.health_headers, "Content-Type": "application/x-www-form-urlencoded"}
        fields = {"grant_type": "client_credentials", "scope": " ".join(client.scopes), "audience": client.audience}
        if client.post:
            fields.update(client_id=client.client_id, client_secret=secret)
        else:  # RFC 6749, 2.3.1: both are encoded like fields of a form
            headers["Authorization"] = basic_credentials(quote_plus(client.client_id), quote_plus(secret))
        body = urlencode({name: value for name, value in fields.items() if value}).encode()
        message = writer.encode("POST", writer.path, headers, body)
        lease = self._engine.pool.acquire(deadline)
        return self._engine.exchanges.run(lease, message, HealthAttempt(deadline), unread)

    def _place(self, error: PluginError) -> None:
        """Has an error of the exchange name the token endpoint. Nothing was sent to the plugin."""
        for text, meant in _OWN_TEXTS:
            error.message = error.message.replace(text, meant)
        if isinstance(error, PluginTimeoutError) and _LIMIT not in error.message:
            error.message = f"{error.message} ({_LIMIT})"
        error.message = f"no token from {self.url}: {error.message}"
        error.details["token_url"] = self.url
        if error.retryable:
            error.replay = Replay.ALWAYS

    def _refusal(self, reply: HTTPReply, secret: str) -> PluginError:
        """The error for a reply whose status is not 2xx: RFC 6749, 5.2."""
        client, encoded = quote_plus(self._client.client_id), quote_plus(secret)
        secrets = secrets_of({"Authorization": basic_credentials(client, encoded)}, secret, encoded)
        try:
            fields = parse_object(reply.body)
        except BadReplyError:
            fields = {}
        name, description = (_text(fields.get(key), secrets) for key in ("error", "error_description"))
        status, headers = reply.status, reply.headers
        text = f"HTTP {status}" + (f" {name}" if name else "") + (f": {description}" if description else "")
        details = {"token_url": self.url, "token_status": status, **({"oauth2_error": name} if name else {})}
        wait = parse_retry_after(headers.get("retry-after"), self._clock.time())
        if status == 429:
            message = f"the token endpoint {self.url} limits the rate of requests: {text}"
            return PluginThrottledError(message, retry_after=wait, details=details)
        if status >= 500 or status == 408:
            message = f"the token endpoint {self.url} failed: {text}"
            return PluginUnavailableError(message, retry_after=wait, replay=Replay.ALWAYS, details=details)
        if status < 400:
            message = f"the token endpoint {self.url} redirects, which is not followed: {text}"
            return UnexpectedRedirectError(message, details=details)
        fix = _FIXES.get(name, "" if name else "check auth.token_url")
        message = f"the token endpoint {self.url} refused the request: {text}" + (f" ({fix})" if fix else "")
        return TokenRefusedError(message, details=details)


def _text(value: object, secrets: tuple[str, ...]) -> str:
    return from_outside(scrub(value, secrets), _SNIPPET) if isinstance(value, str) else ""


def _grant_of(fields: Mapping[str, Any]) -> Grant:
    """The token of a reply: RFC 6749, 5.1."""
    value, kind, lifetime = fields.get("access_token"), fields.get("token_type", "Bearer"), fields.get("expires_in")
    if not isinstance(value, str) or not value:
        raise BadReplyError("the reply has no access_token")
    if not (value.isascii() and value.isprintable() and value == value.strip() and is_header("x", value)):
        raise BadReplyError("the reply's access_token can't be sent in a header")
    if not isinstance(kind, str) or kind.casefold() != "bearer":
        raise BadReplyError(f"the reply has a token of the type {from_outside(str(kind), 40)!r}, expected Bearer")
    if lifetime is None:
        return Grant(value, None)
    try:
        seconds = math.nan if isinstance(lifetime, bool) else float(lifetime)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not seconds > 0:
        raise BadReplyError(
            f"the reply's expires_in is {from_outside(str(lifetime), 40)}, expected seconds more than 0"
        )
    return Grant(value, seconds)
