"""Use of tokens by one plugin: what it sends with each token, and one token anew when the plugin refuses one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import attrs

from goplugins.config.credentials import AuthConfig
from goplugins.errors import AuthenticationError
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.transports.credential_rotation import with_bearer
from goplugins.transports.token_source import Token, TokenSource

W = TypeVar("W")
R = TypeVar("R")

_NO_PERMISSION = "PERMISSION_DENIED"
"""The gRPC status of a call whose token is valid."""

_MAX_PAUSE = 60.0
"""Seconds between two tokens for a plugin that has refused them all."""


@attrs.frozen(eq=False)
class Authorized(Generic[W]):
    """A token, and what writes requests with it."""

    token: Token
    writer: W


class Authorizer(Generic[W]):
    """The credentials of a plugin whose method is oauth2.

    A token that the plugin refuses is replaced once in an attempt, and not again until a token was accepted, or after a
    pause that doubles: a plugin that refuses every token must not become a load of the token endpoint.

    Args:
        find_source: the source of tokens by the present content of the files that the section names.
        auth: the section.
        make: makes what writes requests, of a section whose method is bearer.
        clock: measures.
    """

    def __init__(
        self, find_source: Callable[[], TokenSource], auth: AuthConfig, make: Callable[[AuthConfig], W], clock: Clock
    ) -> None:
        self._find_source = find_source
        self._source = find_source()
        self._auth = auth
        self._make = make
        self._now = clock.monotonic
        self._current: Authorized[W] | None = None
        self._refusals = 0
        self._paused_until = 0.0

    def reload(self) -> None:
        """Finds the source again, after files have changed."""
        self._source = self._find_source()

    def authorized(self, deadline: Deadline) -> Authorized[W]:
        """What to send with; waits for a token until the deadline if there is none.

        Raises:
            PluginError: as :meth:`TokenSource.token`.
        """
        token = self._source.token(deadline)
        current = self._current
        if current is not None and current.token is token:
            return current
        made = Authorized(token, self._make(with_bearer(self._auth, token.value)))
        self._current = made
        return made

    def renewed(self, refused: Authorized[W], deadline: Deadline) -> Authorized[W] | None:
        """What to send the same attempt with once more, after the plugin has refused its token; None for not at all.

        Raises:
            PluginError: as :meth:`TokenSource.token`.
        """
        if not self._source.refuse(refused.token, self._may_renew):
            return None
        return self.authorized(deadline)

    def _may_renew(self) -> bool:
        """Counts a refusal. Runs within the source's lock."""
        now = self._now()
        if self._refusals and now < self._paused_until:
            return False
        self._paused_until = now + min(2.0**self._refusals, _MAX_PAUSE)
        self._refusals = min(self._refusals + 1, 16)
        return True

    def run(self, send: Callable[[W], R], deadline: Deadline) -> R:
        """Sends with a token; once more with another one if the plugin refuses it with an AuthenticationError.

        Raises:
            PluginError: as ``send`` and :meth:`TokenSource.token`.
        """
        used = self.authorized(deadline)
        try:
            found = send(used.writer)
        except AuthenticationError as error:
            if error.details.get("status") == _NO_PERMISSION:
                raise
            renewed = self.renewed(used, deadline)
            if renewed is None:
                raise
        else:
            self.accepted()
            return found
        found = send(renewed.writer)
        self.accepted()
        return found

    def accepted(self) -> None:
        """The plugin has accepted a token."""
        if self._refusals:
            self._refusals = 0
