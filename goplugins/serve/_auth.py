"""Who may call a served plugin: the credentials that a call must bring, on any wire."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from goplugins.config.credentials import auth_headers
from goplugins.enums import AuthMethod
from goplugins.errors import (
    AuthConfigError,
    UnsupportedAuthMethodError,
)
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.serve._rate_limited_log import RareWarning

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig

__all__ = ["Guard"]


class Guard:
    """Compares a call's headers with the expected ones, in constant time.

    Attributes:
        challenge: the WWW-Authenticate value that belongs to a refusal; empty where HTTP has none.

    Raises:
        AuthConfigError: the method lacks its credentials, or can't be checked here.
    """

    def __init__(self, auth: AuthConfig | None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._expected = () if auth is None else _expected(auth)
        self.challenge = _challenge(auth)
        self._warn = RareWarning("%d request(s) refused: missing or wrong credentials, the last from %s", clock)

    def admits(self, header: Callable[[str], bytes | None], caller: str) -> bool:
        """True if the call brings all that is expected.

        Args:
            header: gives a header's value as it came over the wire, by lower-case name.
            caller: the address, for the log.
        """
        # Every header is compared, so the time does not tell which of them was wrong.
        good = True
        for name, values in self._expected:
            found = _normal(header(name) or b"")
            good &= hmac.compare_digest(found, values[0]) | hmac.compare_digest(found, values[1])
        if not good:
            self._warn(caller)
        return good


def _normal(value: bytes) -> bytes:
    """An authentication scheme's name is read in any case; what follows it is not."""
    scheme, space, rest = value.partition(b" ")
    return scheme.lower() + space + rest if scheme.lower() in {b"basic", b"bearer"} else value


def _expected(auth: AuthConfig) -> tuple[tuple[str, tuple[bytes, bytes]], ...]:
    """What a client of this configuration sends, in both encodings that clients write header values in."""
    _check(auth)
    return tuple(
        (name.lower(), (_normal(value.encode("latin-1")), _normal(value.encode())))
        for name, value in auth_headers(auth).items()
    )


def _check(auth: AuthConfig) -> None:
    """Refuses what every caller could send, or no header shows."""
    if auth.method == AuthMethod.CUSTOM and not all(auth.headers.values()):
        raise AuthConfigError("expected the headers that callers send, none of them empty", path="auth.headers")
    if auth.method == AuthMethod.MTLS:
        fix = "let a proxy in front end mutual TLS"
        raise UnsupportedAuthMethodError("a served plugin sees no client certificate", path="auth.method", fix=fix)


def _challenge(auth: AuthConfig | None) -> str:
    schemes = {"bearer": "Bearer", "basic": 'Basic realm="goplugins", charset="UTF-8"'}
    return schemes.get(auth.method or "", "") if auth is not None else ""
