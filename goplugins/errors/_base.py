"""The root of all errors, and what an error says of its attempt."""

from __future__ import annotations

import enum
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

__all__ = ["PluginError", "RemoteCause", "Replay", "Verdict", "belongs_to_host", "redact_url", "verdict_of"]


class Replay(enum.Enum):
    """Whether the failed attempt may be sent again without risking a second effect."""

    ALWAYS = "always"
    IF_IDEMPOTENT = "if-idempotent"
    NEVER = "never"


class Verdict(enum.Enum):
    """What an attempt that ended with this error tells a circuit breaker about the plugin."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


def redact_url(url: str) -> str:
    """Returns ``url`` without user info, query and fragment: the parts that can carry a secret."""
    try:
        parts = urlsplit(url)
        if not parts.netloc:
            return url.split("?", 1)[0]
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "<unreadable URL>"


_HOST_PACKAGES = frozenset({"billiard", "celery", "gevent", "eventlet"})


def belongs_to_host(exc: BaseException) -> bool:
    """True for an exception that the host throws into whatever code happens to run, such as a task's time limit.

    Celery's SoftTimeLimitExceeded is an ``Exception``, so its home has to tell. Such an exception passes every
    layer unwrapped and is never retried.
    """
    return not isinstance(exc, Exception) or type(exc).__module__.partition(".")[0] in _HOST_PACKAGES


def verdict_of(error: BaseException | None) -> Verdict:
    """The verdict of an attempt that ended with ``error``; None stands for an answer."""
    if error is None:
        return Verdict.SUCCESS
    if isinstance(error, PluginError):
        return error.verdict
    return Verdict.IGNORED if belongs_to_host(error) else Verdict.FAILURE


class RemoteCause(Exception):  # noqa: N818 - it stands for a cause, it is none
    """Stands for a cause that could not travel as itself (unpicklable, or sent as JSON): its type and text."""


_JSON_FIELDS = ("code", "plugin", "endpoint", "attempts", "elapsed", "retryable", "retry_after", "details")


class PluginError(Exception):
    """The root of all that a call, a configuration or a manager raises.

    Attributes:
        message: what went wrong, without plugin name and attempts (``str(error)`` adds those).
        code: the stable code, such as ``PLUGIN_1204``.
        plugin: the plugin's name, if one was involved.
        endpoint: where the call went, without credentials.
        attempts: how many attempts were really made; 0 means that nothing was sent.
        elapsed: seconds from the start of the call to this error.
        retryable: True if the same call may succeed later.
        retry_after: seconds after which to try again, where the plugin or a policy said so.
        details: further facts, JSON values only, such as ``{"status": 503}``.
        replay: whether an attempt that ended so may be sent again (see :class:`Replay`).
        kind: the class of failure in metrics, spans and log lines, such as "timeout" or "refused".

    Attributes, cause and notes survive ``pickle`` and ``copy``; through a JSON channel that carries ``args`` (such
    as Celery's result backend) the attributes survive and the cause arrives as a :class:`RemoteCause`.
    """

    code: str = "PLUGIN_1200"
    retryable: bool = False
    replay: Replay = Replay.NEVER
    kind: ClassVar[str] = "plugin"
    verdict: ClassVar[Verdict] = Verdict.FAILURE
    _json_fields: ClassVar[tuple[str, ...]] = _JSON_FIELDS

    def __init__(
        self,
        message: str = "",
        state: Mapping[str, Any] | None = None,
        *,
        plugin: str | None = None,
        endpoint: str | None = None,
        attempts: int = 0,
        elapsed: float = 0.0,
        retryable: bool | None = None,
        retry_after: float | None = None,
        replay: Replay | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.plugin = plugin
        self.endpoint = endpoint
        self.attempts = attempts
        self.elapsed = elapsed
        self.retry_after = retry_after
        self.details: dict[str, Any] = dict(details) if details else {}
        if retryable is not None:
            self.retryable = retryable
        if replay is not None:
            self.replay = replay
        if state is not None:
            self._restore_json(state)

    def __str__(self) -> str:
        member = self.details.get("member")  # of a group: which one failed
        who = f"plugin {self.plugin!r}, member {member!r}" if member else f"plugin {self.plugin!r}"
        text = f"{who}: {self.message}" if self.plugin else self.message
        if self.attempts > 1:
            text += f" (after {self.attempts} attempts in {self.elapsed:.3f} s)"
        stopped = self.details.get("replay_refused") or self.details.get("retry_stopped")
        if stopped:
            text += f" (no further attempt: {stopped})"
        return f"[{self.code}] {text}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    if not TYPE_CHECKING:  # checkers know BaseException.args as a plain attribute, and would refuse a property

        @property
        def args(self) -> tuple[Any, ...]:
            """The message, then a mapping of JSON values from which the constructor rebuilds the attributes."""
            return (self.message, self._json_state())

        @args.setter
        def args(self, value: Sequence[Any]) -> None:
            self.message = str(value[0]) if value else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, dict(self.__dict__), _portable(self.__cause__))

    def _json_state(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self._json_fields}
        try:
            json.dumps(state["details"])
        except (TypeError, ValueError):
            state["details"] = {key: str(value) for key, value in self.details.items()}
        if self.__cause__ is not None:
            state["cause"] = f"{type(self.__cause__).__name__}: {self.__cause__}"
        return state

    def _restore_json(self, state: Mapping[str, Any]) -> None:
        for name in self._json_fields:
            if name in state and state[name] != getattr(self, name, None):
                setattr(self, name, state[name])
        if "cause" in state:
            self.__cause__ = RemoteCause(str(state["cause"]))


def _rebuild(
    cls: type[PluginError], message: str, attributes: dict[str, Any], cause: BaseException | None
) -> PluginError:
    error = cls.__new__(cls, message)
    error.__dict__.update(attributes)
    error.__cause__ = cause
    return error


def _portable(cause: BaseException | None) -> BaseException | None:
    """The cause itself where it pickles, else its type and text: an error must always be able to travel."""
    if cause is None:
        return None
    try:
        pickle.loads(pickle.dumps(cause))  # noqa: S301 - our own bytes of a moment ago
    except Exception:  # noqa: BLE001 - a foreign __reduce__ may raise anything
        return RemoteCause(f"{type(cause).__name__}: {cause}")
    return cause
