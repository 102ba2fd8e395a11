"""Tokens with an end: requested by one thread at a time, renewed ahead of their end, used by all calls meanwhile.

A token is requested on a helper thread. So a call that needs it waits no longer than its deadline, an interrupt of that
call ends no request that others wait for, and calls go on with a token that is valid while the next one is requested.
"""

from __future__ import annotations

import contextvars
import copy
import logging
import math
import random
from collections.abc import Callable

import attrs

from goplugins.errors import (
    BadReplyError,
    LocalResourceError,
    PluginError,
    PluginTimeoutError,
    Replay,
    TokenRefusedError,
)
from goplugins.runtime.clock import Clock, Event
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import create_lock, register_forkable
from goplugins.runtime.workers import WorkerPool

logger = logging.getLogger("goplugins.transports")

REQUEST_TIMEOUT = 10.0
"""Seconds that a request for a token may take, beside the deadline of each call that waits for it."""

_MARGIN = 60.0
"""Seconds before its end at which a token is renewed, or a tenth of its lifetime if that is less..."""

_JITTER = 0.5
"""...and up to this share of that time earlier, so that processes do not renew theirs in the same moment."""

_REFUSAL_PAUSE = 1.0
"""Seconds for which a refused request is not repeated: calls get the same error."""

_MIN_RENEWAL_PAUSE = 0.5
"""Seconds between two attempts to renew a token that is still valid."""

_THREADS = 16
_PATIENCE = 0.25
_MAX_QUEUED = 4096


@attrs.frozen(eq=False)
class Token:
    """A token as it is sent.

    Attributes:
        value: the secret.
        renew_at: from when on it is renewed, on the clock's monotonic scale.
        ends: when it ends; infinite if that is not known.
        margin: seconds before its end at which it is renewed at the latest.
    """

    value: str = attrs.field(repr=False)
    renew_at: float
    ends: float
    margin: float


class Grant:
    """A token endpoint's reply: the token, and the seconds for which it is valid; None if the reply has none."""

    __slots__ = ("lifetime", "value")

    def __init__(self, value: str, lifetime: float | None) -> None:
        self.value = value
        self.lifetime = lifetime


class _Request:
    """One request for a token; all calls that need it wait for it."""

    __slots__ = ("done", "error", "started", "token")

    def __init__(self) -> None:
        self.done = Event()
        self.started = False
        self.token: Token | None = None
        self.error: PluginError | None = None


class TokenSource:
    """The current token of one client at one token endpoint, shared by threads and plugins.

    Args:
        fetch: requests a token before the deadline; raises a PluginError.
        where: the token endpoint, for texts.
        clock: measures and waits.
        rng: varies the time of renewals.
    """

    def __init__(
        self, fetch: Callable[[Deadline], Grant], where: str, clock: Clock, rng: random.Random | None = None
    ) -> None:
        self._fetch = fetch
        self.where = where
        self._clock = clock
        self._rng = rng or random.SystemRandom()  # a forked child must not repeat its parent's numbers
        self._lock = create_lock(self)
        self._token: Token | None = None
        self._request: _Request | None = None
        self._refused_until = self._renew_from = -math.inf
        register_forkable(self)

    def after_fork_in_child(self) -> None:
        """Keeps the token, with a time of renewal of its own, and forgets a request of a thread of the parent."""
        self._request = None
        if self._token is not None:
            self._token = self._with_jitter(self._token)

    def token(self, deadline: Deadline) -> Token:
        """The current token; waits for the first one, and for one in the place of a token that has ended.

        Raises:
            TokenRefusedError: the token endpoint refuses the client.
            PluginTimeoutError: no token before the deadline; nothing was sent to the plugin.
            PluginError: the token endpoint can't be reached, or failed.
        """
        token = self._token
        now = self._clock.monotonic()
        if token is not None:
            if now < token.renew_at:
                return token
            if now < token.ends:
                if now >= self._renew_from:
                    self._renew_ahead(token, now)
                return token
        return self._wait(self._begin(token, now), deadline)

    def refuse(self, token: Token, may_renew: Callable[[], bool]) -> bool:
        """Removes a token that a plugin has refused, if it is still the current one.

        Args:
            token: that was sent.
            may_renew: whether the plugin may have another token for it; only called for the current one.

        Returns:
            Whether :meth:`token` gives another one now.
        """
        with self._lock:
            if self._token is not token:
                return True
            if not may_renew():
                return False
            self._token = None
            return True

    def _renew_ahead(self, token: Token, now: float) -> None:
        try:
            self._begin(token, now)
        except PluginError as error:  # no thread is free: the token is still valid
            self._failed(error)

    def _begin(self, old: Token | None, now: float) -> _Request:
        """The request in progress, a new one, or the last one if that was refused a moment ago. Takes the lock."""
        with self._lock:
            request = self._request
            if request is not None and (not request.done.is_set() or now < self._refused_until):
                return request
            current = self._token
            request = _Request()
            if current is not None and current is not old:  # it has come since this call found the old one
                request.token = current
                request.done.set()
                return request
            # In an empty context: the request must not end at the deadline of a block around this call. It is stored
            # once it is queued: an interrupt before leaves no request that will never run.
            run = _pool().submit_to
            contextvars.Context().run(run, None, lambda: self._run(request), request.done.set)
            self._request = request
            return request

    def _run(self, request: _Request) -> None:
        """Makes the request; on a helper thread."""
        request.started = True
        clock = self._clock
        started = clock.monotonic()
        try:
            grant = self._fetch(Deadline(started + REQUEST_TIMEOUT, clock))
            request.token = self._token = self._dated(grant, started)
        except Exception as exc:  # noqa: BLE001 - raised by each call that waits
            error = (
                exc
                if isinstance(exc, PluginError)
                else BadReplyError(f"no token from {self.where}: {type(exc).__name__}")
            )
            request.error = error.with_traceback(None)
            self._failed(error)
            return
        self._renew_from = self._refused_until = -math.inf

    def _dated(self, grant: Grant, started: float) -> Token:
        """The token with its times, counted from the moment when it was requested: it was made later."""
        lifetime = math.inf if grant.lifetime is None else grant.lifetime
        return self._with_jitter(Token(grant.value, math.inf, started + lifetime, min(_MARGIN, lifetime / 10)))

    def _with_jitter(self, token: Token) -> Token:
        return attrs.evolve(token, renew_at=token.ends - token.margin * (1 + _JITTER * self._rng.random()))

    def _failed(self, error: PluginError) -> None:
        """Delays the next request, and logs what calls don't see."""
        now = self._clock.monotonic()
        if isinstance(error, TokenRefusedError):
            self._refused_until = now + _REFUSAL_PAUSE
        token = self._token
        if token is not None and (left := token.ends - now) > 0:
            self._renew_from = now + max(_MIN_RENEWAL_PAUSE, left / 4)
            text = "the token of %s can't be renewed yet, the current one is valid for %.3g s: %s"
            logger.warning(text, self.where, left, error.message)

    def _wait(self, request: _Request, deadline: Deadline) -> Token:
        clock = self._clock
        limit = deadline.of_call
        started = clock.monotonic()
        if not clock.wait(request.done, max(limit.at - started, 0.0)):
            after = f"{clock.monotonic() - started:.3g} s (the call's deadline)"
            if not request.started:
                raise LocalResourceError(f"no thread was free to request a token from {self.where}, after {after}")
            message = f"timed out waiting for a token from {self.where}, after {after}; nothing was sent"
            raise PluginTimeoutError(message, replay=Replay.ALWAYS)
        deadline.restart()
        if request.token is not None:
            return request.token
        if request.error is None:
            text = "raise the limit of threads (ulimit -u, pids.max)"
            raise LocalResourceError(f"no free thread to request a token from {self.where}: {text}")
        # Each call raises an error of its own: one object in several threads would mix tracebacks and details.
        error = copy.copy(request.error)
        error.details = dict(error.details)
        raise error


_of_process: dict[str, WorkerPool] = {}


def _pool() -> WorkerPool:
    """The threads that request tokens, created at first use. Requests that hang delay no others."""
    found = _of_process.get("pool")
    if found is not None:
        return found
    made = WorkerPool("goplugins-tokens", _THREADS, _MAX_QUEUED, inline=False, patience=_PATIENCE)
    return _of_process.setdefault("pool", made)
