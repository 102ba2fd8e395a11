"""The root of all errors, and what an error means for the attempt that ended with it."""

from __future__ import annotations

import enum
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlsplit, urlunsplit

from goplugins.errors._host import belongs_to_host


class Replay(enum.Enum):
    """Whether a failed attempt may be repeated without the risk of a second effect."""

    ALWAYS = "always"
    IF_IDEMPOTENT = "if-idempotent"
    NEVER = "never"


class Verdict(enum.Enum):
    """How a circuit breaker counts an attempt that ended with this error."""

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


_FAIR_TIMEOUT = 0.1
"""Seconds. A timeout after less than this and less than twice the usual latency is not the plugin's failure."""


def is_fair_timeout(elapsed: float, usual_latency: float) -> bool:
    """Whether a plugin that timed out had enough time for the timeout to count as a failure of the plugin.

    Args:
        elapsed: seconds that the attempt took.
        usual_latency: mean seconds of the plugin's answers; 0 while unknown.
    """
    return elapsed >= _FAIR_TIMEOUT or 0 < 2 * usual_latency <= elapsed


def verdict_of(error: BaseException | None) -> Verdict:
    """The verdict of an attempt that ended with ``error``; None stands for an answer."""
    if error is None:
        return Verdict.SUCCESS
    if isinstance(error, PluginError):
        return error.verdict
    return Verdict.IGNORED if belongs_to_host(error) else Verdict.FAILURE


class RemoteCause(Exception):  # noqa: N818 - it stands for a cause, it is none
    """Type and text of a cause that could not be transferred itself (not picklable, or sent as JSON)."""


_JSON_FIELDS = (
    "code",
    "plugin",
    "operation",
    "endpoint",
    "attempts",
    "elapsed",
    "retryable",
    "retry_after",
    "details",
)


class PluginError(Exception):
    """The base class of all errors of calls, configurations and managers.

    Attributes:
        message: the reason, without plugin name and attempts (``str(error)`` adds those).
        code: the stable code, such as ``PLUGIN_1204``.
        plugin: the plugin's name, if one was involved.
        operation: the operation of the plugin, if the call named one.
        endpoint: the plugin's endpoint, without credentials.
        attempts: attempts that were made; 0 means that nothing was sent.
        elapsed: seconds from the start of the call to this error.
        retryable: True if the same call may succeed later.
        retry_after: seconds to wait before the next call, as given by the plugin or a policy.
        details: further facts, JSON values only, such as ``{"status": 503}``.
        replay: whether the attempt may be repeated (see :class:`Replay`).
        verdict: how a circuit breaker counts the attempt (see :class:`Verdict`).
        kind: the class of failure in metrics, spans and log lines, such as "timeout" or "refused".
        unsent: True for errors that are raised before anything is sent, so that there was no attempt.
        elsewhere: True if nothing was sent to the plugin, so that another member of its group may make the call,
            whatever ``replay`` says of this one: a missing program is still missing at a retry.
        overload: True if the error is a sign that the plugin has more calls than it can serve.
        fallback: when a configured fallback answers instead of this error: "always", "never", or "rate-limit" (if
            ``FallbackConfig.on`` has that word).

    ``pickle`` and ``copy`` keep attributes, cause and notes. A JSON channel that carries ``args`` (such as Celery's
    result backend) keeps the attributes, and the cause becomes a :class:`RemoteCause`.
    """

    code: str = "PLUGIN_1200"
    operation: str | None = None
    retryable: bool = False
    replay: Replay = Replay.NEVER
    kind: ClassVar[str] = "plugin"
    verdict: ClassVar[Verdict] = Verdict.FAILURE
    unsent: bool = False
    elsewhere: bool = False
    overload: ClassVar[bool] = False
    fallback: ClassVar[Literal["always", "never", "rate-limit"]] = "always"
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
        operation: str | None = None,
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
        if operation is not None:
            self.operation = operation
        if state is not None:
            self._restore_json(state)

    def __str__(self) -> str:
        member = self.details.get("member")  # of a group: the member that failed
        operation = f", operation {self.operation!r}" if self.operation else ""
        who = f"plugin {self.plugin!r}{operation}" + (f", member {member!r}" if member else "")
        text = f"{who}: {self.message}" if self.plugin else self.message
        if self.attempts > 1:
            text += f" (after {self.attempts} attempts in {self.elapsed:.3f} s)"
        stopped = self.details.get("replay_refused") or self.details.get("retry_stopped")
        if stopped:
            text += f" (no further attempt: {stopped})"
        return f"[{self.code}] {text}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    if not TYPE_CHECKING:  # type checkers would reject a property in place of the attribute BaseException.args

        @property
        def args(self) -> tuple[Any, ...]:
            """The message, and a mapping of JSON values from which the constructor restores the attributes."""
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
    """The cause itself if it can be pickled, else its type and text: errors must always be picklable."""
    if cause is None:
        return None
    try:
        pickle.loads(pickle.dumps(cause))  # noqa: S301 - our own bytes of a moment ago
    except Exception:  # noqa: BLE001 - a foreign __reduce__ may raise anything
        return RemoteCause(f"{type(cause).__name__}: {cause}")
    return cause
