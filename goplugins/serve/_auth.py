"""Checks the credentials of calls to a served plugin, on any transport."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from goplugins.config.credentials import auth_headers
from goplugins.enums import AuthMethod
from goplugins.errors import AuthConfigError, UnsupportedAuthMethodError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.log_throttle import LogThrottle

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig

_logger = logging.getLogger("goplugins.serve")

_CHALLENGES = {
    AuthMethod.BEARER: "Bearer",
    AuthMethod.BASIC: 'Basic realm="goplugins", charset="UTF-8"',
}


class Guard:
    """Compares a call's headers with the expected ones, in constant time.

    Attributes:
        names: the expected headers, in lower case; empty if no credentials are required.
        challenge: the WWW-Authenticate value of a refusal; empty for methods without one.

    Raises:
        AuthConfigError: the method lacks its credentials, or can't be checked here.
    """

    def __init__(self, auth: AuthConfig | None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._expected = {} if auth is None else _expected(auth)
        self.names = frozenset(self._expected)
        self.challenge = "" if auth is None or auth.method is None else _CHALLENGES.get(auth.method, "")
        self._throttle = LogThrottle(clock=clock)

    def admits(self, header: Callable[[str], bytes | None], caller: str) -> bool:
        """Whether the call has all expected headers.

        Args:
            header: returns the received bytes of a header, by lower-case name.
            caller: the address, for the log.
        """
        # All headers are compared, so that the time does not reveal which one is wrong.
        good = True
        for name, values in self._expected.items():
            found = _normalized(header(name) or b"")
            good &= hmac.compare_digest(found, values[0]) | hmac.compare_digest(found, values[1])
        if not good and (count := self._throttle.count()):
            _logger.warning("%d request(s) refused: missing or wrong credentials, the last from %s", count, caller)
        return good


def _normalized(value: bytes) -> bytes:
    """Lower-cases the name of an authentication scheme, which is not case-sensitive; the rest is."""
    scheme, space, rest = value.partition(b" ")
    return scheme.lower() + space + rest if scheme.lower() in {b"basic", b"bearer"} else value


def _expected(auth: AuthConfig) -> dict[str, tuple[bytes, bytes]]:
    """The headers of a client with this configuration, in both encodings that clients use for header values."""
    if auth.method == AuthMethod.MTLS:
        fix = "let a reverse proxy verify client certificates"
        raise UnsupportedAuthMethodError("a served plugin gets no client certificate", path="auth.method", fix=fix)
    if auth.method == AuthMethod.OAUTH2:
        fix = "let a reverse proxy check tokens, or a middleware"
        raise UnsupportedAuthMethodError("a served plugin can't check tokens", path="auth.method", fix=fix)
    for name in ("query", "provider"):
        if getattr(auth, name):
            raise AuthConfigError("a served plugin compares fixed headers", path=f"auth.{name}", fix="remove it")
    headers = auth_headers(auth)
    if auth.method == AuthMethod.CUSTOM and not all(headers.values()):
        raise AuthConfigError("a header of method custom is empty", path="auth.headers", fix="write its value")
    return {
        name.lower(): (_normalized(value.encode("latin-1")), _normalized(value.encode()))
        for name, value in headers.items()
    }
