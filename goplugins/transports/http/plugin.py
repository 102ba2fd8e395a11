"""The HTTP and HTTPS transport."""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from goplugins._version import __version__
from goplugins.config.credentials import AuthConfig, auth_headers, basic_credentials, validate_auth
from goplugins.config.plugin import PluginConfig
from goplugins.enums import AuthMethod, TransportType
from goplugins.errors import BadReplyError, InvalidConfigError, PluginError, ReplyTooLargeError, redact_url
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.authorizer import Authorizer
from goplugins.transports.base import TransportFactory, TransportSettings
from goplugins.transports.credential_rotation import PluginCredentials
from goplugins.transports.envelope import decode_data
from goplugins.transports.health_status import check_connection, run_check
from goplugins.transports.http.engine import Engine, HTTPReply, Writer, unread
from goplugins.transports.http.reply import health_result, read_envelope, status_error
from goplugins.transports.http.request import RequestWriter
from goplugins.transports.http.rest.protocol import RestProtocol, RestWriter
from goplugins.transports.http.signing import SigningWriter
from goplugins.transports.http.target import Target, target_of
from goplugins.transports.interface import Sender
from goplugins.transports.provider import Provider
from goplugins.transports.proxies import mention_proxy
from goplugins.transports.resolver import Address, FixedResolver, Resolver, shared_resolver
from goplugins.transports.tls import client_context

if TYPE_CHECKING:
    import requests

_REFUSED = 401


class HTTPPlugin(Sender):
    """A plugin behind HTTP or HTTPS. Connects with the first call; used by many threads at once.

    Args:
        config: fields of ``connection`` that are None take the production defaults.
        clock: measures and waits.
        resolver: finds addresses; by default that of the process.
        session: sends the requests, with its own adapters, authentication and proxies. It stays open when the plugin
            is closed.

    Raises:
        ConfigError: an endpoint, credential, certificate or proxy that can't be used.
    """

    def __init__(
        self,
        config: PluginConfig,
        *,
        clock: Clock = SYSTEM_CLOCK,
        resolver: Resolver | None = None,
        session: requests.Session | None = None,
    ) -> None:
        self._settings = settings = TransportSettings.of(config, clock)
        self._credentials = PluginCredentials(config.auth, clock, config.name)
        self.watches_credentials = self._credentials.watched
        target = target_of(config)
        self._trust_env = bool(config.options.get("trust_env")) and (session is None or session.trust_env)
        if session is not None:
            # It sends to the proxy by itself, so requests have the form for the plugin.
            target = attrs.evolve(target, prefix="", proxy_headers={})
            if not self._trust_env:
                target = attrs.evolve(target, proxy=None, proxy_url="")
        # Until a tunnel is made the connector names the proxy in errors; later errors are the plugin's own.
        self._proxy = target.proxy if target.prefix or session is not None else None
        self._target = target
        self._endpoint = redact_url(config.endpoint)
        given = config.health_check is not None and config.health_check.endpoint
        self._expects_health = bool(given) or settings.health_kind == "message"
        self._rest = RestProtocol.of(config, target)
        self._read = read_envelope if self._rest is None else unread
        self._new_writer = partial(
            RequestWriter if self._rest is None else RestWriter,
            target,
            version=__version__,
            compression=not settings.connection.disable_compression,
            keep_alive=bool(settings.connection.keep_alive),
        )
        self._provider = Provider.of(config.auth, config.name, self._credentials.scrub)
        auth = self._credentials.auth
        self._use(auth)
        self._authorizer = self._authorizer_for(config)
        self._engine: Engine
        if session is not None:
            if settings.health_kind == "connect":
                message, fix = "is not possible with a session, which connects by itself", "write auto"
                raise InvalidConfigError(message, path="health_check.kind", fix=fix)
            if target.key:
                message, fix = "is not sent by a session, whose URLs libraries log", "set session.params"
                raise InvalidConfigError(message, path="auth.query", fix=fix)
            from goplugins.transports.http.session_engine import SessionEngine

            if config.options.get("proxy"):
                raise InvalidConfigError(
                    "has no effect with a session", path="options.proxy", fix="set session.proxies"
                )
            self._engine = SessionEngine(session, target, auth, settings.connection, clock, trust_env=self._trust_env)
        else:
            kind = _engine_kind(config.options.get("engine") or "fast")
            self._engine = kind(target, self._context(auth), settings.connection, resolver or shared_resolver(), clock)
        # Runs before the collector reaches the sockets, which would warn that they were not closed.
        weakref.finalize(self, self._engine.pool.close).atexit = False

    def _authorizer_for(self, config: PluginConfig) -> Authorizer[Writer] | None:
        """What requests and renews tokens; None for a method that has none."""
        if config.auth is None or config.auth.method is not AuthMethod.OAUTH2:
            return None
        from goplugins.transports.http.oauth2 import authorizer_of

        return authorizer_of(config, self._writer_for, self._settings.clock)

    def _use(self, auth: AuthConfig) -> None:
        self._writer = self._writer_for(auth)

    def _writer_for(self, auth: AuthConfig) -> Writer:
        headers = auth_headers(auth)
        defaults = {}
        if self._trust_env and not headers and self._provider is None and auth.method in (None, AuthMethod.NONE):
            defaults = _netrc_headers(self._target)
        self._credentials.protect(auth, {**headers, **defaults, **self._target.proxy_headers})
        writer = self._new_writer(credentials=headers, defaults=defaults)
        provider = self._provider
        return writer if provider is None else SigningWriter(writer, provider, self._target, self._credentials.remember)

    def _renew(self, auth: AuthConfig) -> None:
        context = self._context(auth)
        if self._authorizer is not None:
            self._authorizer.reload()
        self._use(auth)
        if context is not None:
            self._engine.renew(context)

    def _context(self, auth: AuthConfig) -> ssl.SSLContext | None:
        return client_context(auth, trust_env=self._trust_env) if self._target.tls else None

    # --- Sender ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:
        self._writer.check(call)
        if self._rest is None:
            call.payload = call.codec.encode(call.request)
        else:
            self._rest.prepare(call)

    def send(self, call: Call) -> Any:
        """One request. See :class:`goplugins.transports.interface.Sender`."""
        try:
            if self._authorizer is None:
                reply = self._engine.send(call, self._writer, self._read)
            else:
                reply = self._authorized(
                    self._authorizer, call.deadline, lambda writer: self._engine.send(call, writer, self._read)
                )
            if self._rest is not None:
                return self._rest.answer(reply, call, self._settings.clock.time(), self._credentials.scrub)
            if not 200 <= reply.status < 300:
                raise status_error(reply, self._settings.clock.time(), self._credentials.scrub)
            return decode_data(reply.fields, call)
        except PluginError as error:
            self._credentials.scrub_error(error, call.headers, call.signed)
            error.endpoint = self._endpoint
            if self._proxy is not None:
                mention_proxy(error, self._proxy)
            raise

    @staticmethod
    def _authorized(
        authorizer: Authorizer[Writer], deadline: Deadline, send: Callable[[Writer], HTTPReply]
    ) -> HTTPReply:
        """Sends with a token; once more with another one if the plugin refuses it (HTTP 401)."""
        authorized = authorizer.authorized(deadline)
        reply = send(authorized.writer)
        if reply.status == _REFUSED and (renewed := authorizer.renewed(authorized, deadline)) is not None:
            reply = send(renewed.writer)
        if reply.status != _REFUSED:
            authorizer.accepted()
        return reply

    def health(self, timeout: float) -> HealthStatus:
        """One GET or connection, outside the policies; UNKNOWN if every connection is in use; never raises."""
        return run_check(self._check, timeout, self._settings.clock, self._credentials.scrub)

    def _check(self, deadline: Deadline) -> HealthStatus:
        if self._settings.health_kind == "connect":
            return check_connection(self._engine.pool, deadline)
        try:
            if self._authorizer is None:
                reply = self._engine.get_health(self._writer, deadline)
            else:
                reply = self._authorized(
                    self._authorizer, deadline, lambda writer: self._engine.get_health(writer, deadline)
                )
        except (BadReplyError, ReplyTooLargeError) as error:
            if error.details.get("status") is None:
                raise
            reply = HTTPReply(error.details["status"], {}, b"", framed=False)  # the status decides, not the body
        return health_result(reply, expected=self._expects_health)

    def info(self) -> PluginInfo:
        """Name and endpoint of the configuration: the HTTP protocol has no request for more."""
        metadata = {"transport": self._target.scheme, "endpoint": self._endpoint}
        return PluginInfo(name=self._settings.name, metadata=metadata)

    def close(self) -> None:
        """Closes idle connections now, and those in use as their calls end; later calls are rejected."""
        self._engine.pool.close()

    def sweep(self) -> None:
        self._engine.pool.sweep()

    def renew_credentials(self) -> None:
        """Loads changed certificates and tokens. Calls in flight end on their connections, which are then closed."""
        self._credentials.renew(self._renew)

    # --- Plugin ------------------------------------------------------------------------------------------------

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """One attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: the attempt failed.
        """
        return self._settings.execute(self, request, context)

    def __repr__(self) -> str:
        return f"<HTTPPlugin {self._settings.name!r} at {self._endpoint}>"


def _netrc_headers(target: Target) -> dict[str, str]:
    from requests.utils import get_netrc_auth

    found = get_netrc_auth(target.origin)
    return {"Authorization": basic_credentials(*found)} if found else {}


def _engine_kind(name: str) -> Callable[..., Engine]:
    """The engine for ``options.engine``; `requests` is imported only for the one that needs it."""
    if name == "requests":
        from goplugins.transports.http.requests_engine import RequestsEngine

        return RequestsEngine
    from goplugins.transports.http.httptools_engine import HttptoolsEngine

    return HttptoolsEngine


class HTTPPluginFactory(TransportFactory[HTTPPlugin]):
    """Creates HTTP and HTTPS plugins.

    Args:
        clock: for its plugins.
    """

    transports = (TransportType.HTTP, TransportType.HTTPS)

    def _create(self, config: PluginConfig) -> HTTPPlugin:
        return HTTPPlugin(config, clock=self._clock)

    def create_at(self, config: PluginConfig, address: Address) -> HTTPPlugin:
        """A plugin that connects to one address of its endpoint's host; requests and certificate name the host.

        Raises:
            ConfigError: as :meth:`create_plugin`.
        """
        return HTTPPlugin(config, clock=self._clock, resolver=FixedResolver(address))

    def _check(self, config: PluginConfig) -> None:
        target = target_of(config)
        if target.proxy is not None and config.options.get("resolve"):
            fix = "remove options.resolve or the proxy"
            raise InvalidConfigError(
                "has no effect behind a proxy, which resolves names itself", path="options.resolve", fix=fix
            )
        validate_auth(config.auth, config.transport)
