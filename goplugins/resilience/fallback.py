"""Fallback: another plugin, a static value or a function that answers when a plugin could not serve a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from goplugins.config.plugin_sections import FallbackConfig
from goplugins.config.schema import UNSET
from goplugins.errors import (
    InvalidConfigError,
    PluginError,
    PluginTimeoutError,
    ReplyTypeError,
)
from goplugins.resilience.cache_entry import CopyableValue
from goplugins.runtime.call import Call, Codec
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline, deadline as deadline_block

Forward = Callable[[str, Call], Any]

_MIN_SECONDS = 1e-6  # a deadline block admits no 0


def could_not_serve(error: BaseException, on: Collection[str] = ()) -> bool:
    """Whether the call failed because the plugin could not serve it.

    True for timeouts, failed connections, 5xx, broken replies, an open breaker, a full bulkhead and a group without an
    available member. False for what the plugin rejected (4xx, business errors), for invalid arguments, for a closed
    plugin or manager, and for any exception that is no :class:`~goplugins.errors.PluginError`.

    Args:
        error: the exception of the call.
        on: with ``"rate-limit"`` it is also True for refusals of the rate limiter and for a plugin's 429.

    >>> from goplugins.errors import PluginRequestError, RateLimitExceededError
    >>> could_not_serve(PluginTimeoutError()), could_not_serve(PluginRequestError())
    (True, False)
    >>> could_not_serve(RateLimitExceededError()), could_not_serve(RateLimitExceededError(), ["rate-limit"])
    (False, True)
    """
    return isinstance(error, PluginError) and (error.fallback == "always" or error.fallback in on)


def deadline_less_reserve(deadline: Deadline, reserve: float) -> Deadline:
    """The deadline less the ``reserve`` seconds for the fallback, which are at most half of the remaining time.

    So a call with little time still goes to the plugin first, whose answer is the better one.
    """
    kept = min(reserve, deadline.remaining() / 2)
    return Deadline(deadline.at - kept, deadline.clock) if kept > 0 else deadline


class Fallback:
    """The fallback of one plugin: another plugin, a static value, or a function.

    Args:
        config: which of them; exactly one.
        name: the name of the plugin whose fallback it is.
        forward: calls another plugin, under that plugin's own policies.
        clock: measures the deadline of a function.

    Raises:
        InvalidConfigError: a value set in code that can't be copied.
    """

    def __init__(self, config: FallbackConfig, name: str, forward: Forward, clock: Clock) -> None:
        self.name = name
        self._forward = forward
        self._clock = clock
        self._plugin = config.plugin
        self._function = config.function
        self._value = config.value
        self._text: str | None = None
        self._copies: CopyableValue | None = None
        self._checked: Codec | None = None
        if self._value is not UNSET:
            self._prepare_value()

    def __str__(self) -> str:
        if self._plugin:
            return f"plugin {self._plugin!r}"
        return "a static value" if self._function is None else "a function"

    def check(self, codec: Codec) -> None:
        """Checks that a static value fits the call's response type, before it is needed.

        Raises:
            InvalidConfigError: it does not; the message says where.
        """
        if self._value is UNSET or codec is self._checked:
            return
        try:
            self._static(codec)
        except ReplyTypeError as exc:
            raise self._refusal(exc.message.replace("the reply is", "it is", 1)) from exc
        kind = getattr(codec, "response_type", None)
        if self._text is None and type(kind) is type and not isinstance(self._value, kind):
            raise self._refusal(f"it is of type {type(self._value).__name__}, and the response of type {kind.__name__}")
        self._checked = codec

    def answer(self, call: Call, error: PluginError) -> Any:
        """The fallback's answer; sets ``call.member`` to the other plugin's, if one answered.

        Args:
            call: the call that failed, its whole deadline restored.
            error: its error.

        Raises:
            PluginExecutionError: the other plugin, or the function, rejected the call: that is an answer, too.
            Exception: the error with which the fallback failed.
        """
        if self._plugin:
            return self._call_plugin(call)
        if self._function is not None:
            # Bounds the plugin calls that the function makes; its own work can't be interrupted.
            with deadline_block(max(call.deadline.remaining(), _MIN_SECONDS), clock=self._clock):
                answer = self._function(call.request, error)
            return call.codec.typed.admit_answer(answer)
        return self._static(call.codec)

    def _call_plugin(self, call: Call) -> Any:
        path = (*call.through, self.name)
        if self._plugin in path:
            raise InvalidConfigError(f"fallbacks go in a circle: {' -> '.join([*path, self._plugin])}", path="fallback")
        if call.deadline.remaining() <= 0:
            raise PluginTimeoutError("no time was left for the fallback; set fallback.reserve to keep some back")
        other = call.copy_for_attempt(call.deadline)
        other.payload, other.prepared = b"", None
        other.reconnected = False
        other.through = path
        value = self._forward(self._plugin, other)
        call.adopt_result(other)
        call.member = other.member or self._plugin
        return value

    def _prepare_value(self) -> None:
        try:
            self._text = json.dumps(self._value)
        except (TypeError, ValueError, RecursionError):  # an object that only code can set
            self._copies = CopyableValue.of(self._value)
            if self._copies is None:
                raise self._refusal(f"a {type(self._value).__name__} can't be copied for each caller") from None

    def _static(self, codec: Codec) -> Any:
        """A new object for each call, which the caller may change."""
        if self._copies is not None:
            return self._copies.copy()
        return codec.decode(json.loads(self._text or "null"))

    def _refusal(self, message: str) -> InvalidConfigError:
        fix = "write a value of the type of the plugin's answers"
        return InvalidConfigError(message, path="fallback.value", fix=fix, source=f"plugin {self.name!r}")
