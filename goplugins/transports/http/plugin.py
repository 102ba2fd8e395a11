"""The HTTP and HTTPS transport."""

from __future__ import annotations

import os
import ssl
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from goplugins.config.credentials import AuthConfig, auth_headers, basic_credentials, validate_auth
from goplugins.config.plugin_sections import DEFAULT_CONNECTION, ConnectionConfig
from goplugins.config.schema import merge
from goplugins.enums import AuthMethod, TransportType
from goplugins.errors import (
    InvalidConfigError,
    PluginError,
    redact_url,
)
from goplugins.models.context import ExecutionContext
from goplugins.models.plugin import PluginInfo
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import register_forkable
from goplugins.transports.auth import (
    joined_secrets,
    scrub,
    scrub_error,
    secrets_of,
    with_token,
)
from goplugins.transports.credential_files import CredentialFiles
from goplugins.transports.envelope import decode_data
from goplugins.transports.http.health import HealthReader
from goplugins.transports.http.request import RequestWriter
from goplugins.transports.http.target import Target, target_of
from goplugins.transports.interface import Sender
from goplugins.transports.resolver import Address, FixedResolver, Resolver, ThreadedResolver
from goplugins.transports.single_call import single_call
from goplugins.transports.tls import client_context

if TYPE_CHECKING:
    import requests

    from goplugins.config import PluginConfig
    from goplugins.transports.http.engine import Engine

__all__ = ["HTTPPlugin", "HTTPPluginFactory"]


class HTTPPlugin(Sender):
    """A plugin behind HTTP or HTTPS. Connects when it is first called; used by many threads at once.

    Args:
        config: what is None in ``connection`` takes the production defaults.
        clock: measures and waits.
        resolver: finds addresses; one of its own by default.
        session: carries the exchanges, with adapters, authentication and proxies of its own. It stays open when the
            plugin is closed.

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
        from goplugins._version import __version__
        from goplugins.transports.http.reply import read_envelope, status_error

        connection = merge(config.connection or ConnectionConfig(), DEFAULT_CONNECTION)
        self._files = CredentialFiles.of(config.auth, clock, self._renew, config.name)
        auth = with_token(config.auth)
        self._name = config.name
        self._clock = clock
        self._timeout = connection.request_timeout or 30.0
        self._idempotent = bool(config.retry is not None and config.retry.idempotent)
        self._target = target = target_of(config)
        self._endpoint = redact_url(config.endpoint)
        self._trust_env = bool(config.options.get("trust_env"))
        self._secrets: tuple[str, ...] = ()
        self._write = partial(
            RequestWriter,
            target,
            version=__version__,
            compression=not connection.disable_compression,
            keep_alive=bool(connection.keep_alive),
        )
        self._use(auth)
        self._check, self._status_error = read_envelope, status_error
        if resolver is None:
            resolver = ThreadedResolver(clock=clock)
        self._resolver = resolver
        self._engine: Engine
        if session is not None:
            from goplugins.transports.http.session_engine import SessionEngine

            self._engine = SessionEngine(session, target, auth, connection, clock)
        else:
            context = _context(auth, trust_env=self._trust_env) if target.tls else None
            kind = _engine_kind(config.options.get("engine") or "fast")
            self._engine = kind(target, context, connection, resolver, clock)
        self._health = HealthReader(self._engine, lambda: self._request, clock, self._scrub)
        # Before the collector comes to the sockets, which would warn of not having been closed.
        weakref.finalize(self, self._engine.pool.close).atexit = False
        self.watches_credentials = self._files is not None
        register_forkable(self)

    def _use(self, auth: AuthConfig) -> None:
        credentials = _credentials(auth, self._target, trust_env=self._trust_env)
        headers = {**credentials, **self._target.proxy_headers}
        self._secrets = joined_secrets(
            secrets_of(headers, auth.password, auth.token, auth.api_key), before=self._secrets
        )
        self._request = self._write(credentials=credentials)

    # --- Sender ------------------------------------------------------------------------------------------------

    def prepare(self, call: Call) -> None:
        """Writes the request as JSON, and refuses headers that can't be sent."""
        self._request.check(call)
        call.payload = call.codec.encode(call.request)

    def send(self, call: Call) -> Any:
        """One POST. See :class:`goplugins.transports.interface.Sender`."""
        try:
            reply = self._engine.send(call, self._request, self._check)
            if not 200 <= reply.status < 300:
                raise self._status_error(reply, self._clock.time(), self._scrub)
            return decode_data(reply.fields, call)
        except PluginError as error:
            scrub_error(error, self._secrets)
            error.endpoint = self._endpoint
            raise

    def health(self, timeout: float) -> HealthStatus:
        """One GET, outside the policies; UNKNOWN if every connection is in use; never raises."""
        return self._health.look(timeout)

    def info(self) -> PluginInfo:
        """What the configuration says: HTTP has no call for it."""
        return PluginInfo(name=self._name, metadata={"transport": self._target.scheme, "endpoint": self._endpoint})

    def close(self) -> None:
        """Closes idle connections now, and those in use as their calls end; later calls are refused."""
        self._engine.close()

    def sweep(self) -> None:
        """Closes connections that were idle for longer than ``idle_timeout``; for a scheduler."""
        self._engine.sweep()

    def renew_credentials(self) -> None:
        """Looks whether certificates and tokens have changed on disk, and uses those that have; for a scheduler.

        No call is dropped: connections with an old certificate serve out the call that they are in.
        """
        if self._files is not None:
            self._files.renew()

    def _renew(self, auth: AuthConfig) -> None:
        context = _context(auth, trust_env=self._trust_env) if self._target.tls else None
        self._use(auth)
        if context is not None:
            self._engine.renew(context)

    # --- Plugin ------------------------------------------------------------------------------------------------

    def execute(self, request: Any, context: ExecutionContext = ExecutionContext(), /) -> Any:  # noqa: B008 - frozen
        """One attempt with plain JSON values, outside the policies.

        Raises:
            PluginError: what went wrong.
        """
        return single_call(
            self, request, context, timeout=self._timeout, idempotent=self._idempotent, clock=self._clock
        )

    def after_fork_in_child(self) -> None:
        """Forgets the parent's connections and lookups."""
        self._engine.after_fork_in_child()
        if isinstance(self._resolver, ThreadedResolver):
            self._resolver.after_fork_in_child()

    def _scrub(self, text: str) -> str:
        """A remote text without our credentials: debugging pages like to echo a request."""
        return scrub(text, self._secrets)

    def __repr__(self) -> str:
        return f"<HTTPPlugin {self._name!r} at {self._endpoint}>"


def _credentials(auth: AuthConfig, target: Target, *, trust_env: bool) -> dict[str, str]:
    """Headers from ``auth``; from .netrc only if the environment is trusted and ``auth`` says nothing."""
    headers = auth_headers(auth)
    if headers or not trust_env or auth.method not in (None, AuthMethod.NONE):
        return headers
    from requests.utils import get_netrc_auth

    found = get_netrc_auth(target.origin)
    return {"Authorization": basic_credentials(*found)} if found else headers


def _engine_kind(name: str) -> Callable[..., Engine]:
    """What ``options.engine`` names; `requests` is loaded only for the engine that needs it."""
    if name == "requests":
        from goplugins.transports.http.requests_engine import RequestsEngine

        return RequestsEngine
    from goplugins.transports.http.httptools_engine import HttptoolsEngine

    return HttptoolsEngine


def _context(auth: AuthConfig, *, trust_env: bool) -> ssl.SSLContext:
    ca_file = ""
    if trust_env:
        ca_file = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
    return client_context(auth, ca_file=ca_file)


class HTTPPluginFactory:
    """Makes HTTP and HTTPS plugins.

    Args:
        clock: for its plugins.
        resolve: runs a function on another thread, for name resolution; such as a worker pool's ``submit``.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK, resolve: Callable[..., object] | None = None) -> None:
        self._clock = clock
        self._resolver = ThreadedResolver(resolve, clock=clock)
        register_forkable(self._resolver)

    def create_plugin(self, config: PluginConfig) -> HTTPPlugin:
        """A plugin that has not connected to anything yet.

        Raises:
            ConfigError: what :meth:`validate_config` raises, and certificate files that can't be used.
        """
        return HTTPPlugin(config, clock=self._clock, resolver=self._resolver)

    def create_at(self, config: PluginConfig, address: Address) -> HTTPPlugin:
        """A plugin for one of the addresses of its endpoint's host: all but the connection's other end is the host's.

        Raises:
            ConfigError: as :meth:`create_plugin`.
        """
        return HTTPPlugin(config, clock=self._clock, resolver=FixedResolver(address))

    def supported_transports(self) -> Sequence[str]:
        """The values ``http`` and ``https``."""
        return (TransportType.HTTP, TransportType.HTTPS)

    def validate_config(self, config: PluginConfig) -> None:
        """Checks endpoint, health endpoint, proxy and credentials; opens no file.

        Raises:
            ConfigError: what can't be used.
        """
        target = target_of(config)
        if target.proxy is not None and config.options.get("resolve"):
            fix = "leave one of them out"
            raise InvalidConfigError("does nothing behind a proxy: it looks names up", path="options.resolve", fix=fix)
        validate_auth(config.auth, config.transport)
