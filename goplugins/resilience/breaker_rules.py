"""When a circuit breaker opens and for how long: its configuration as numbers to go by."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import attrs

from goplugins.config.defaults import setting
from goplugins.config.plugin_sections import DEFAULT_CIRCUIT_BREAKER
from goplugins.errors import InvalidArgumentError
from goplugins.resilience.rolling_window import RollingWindow

if TYPE_CHECKING:
    from goplugins.config import CircuitBreakerConfig


_WINDOW = 60.0  # seconds, where a rate is configured without a window
_GROWTH = 8  # times recovery_timeout: how far the open time grows without max_recovery_timeout


@attrs.frozen
class BreakerRules:
    """The configuration with its defaults filled in. None as a rate means: no such rule."""

    enabled: bool
    failure_threshold: int
    recovery_timeout: float
    min_request_threshold: int
    success_threshold: int
    metrics_only: bool
    window: float
    max_recovery_timeout: float
    failure_rate: float | None
    slow_call_duration: float | None
    slow_call_rate: float | None

    @classmethod
    def of(cls, config: CircuitBreakerConfig) -> BreakerRules:
        """The rules that ``config`` asks for; a field that is None, or that it lacks, has its default.

        Raises:
            InvalidArgumentError: a threshold or time of 0 or less.
        """
        recovery_timeout: float = setting(config, DEFAULT_CIRCUIT_BREAKER, "recovery_timeout")
        for name in ("failure_threshold", "min_request_threshold", "success_threshold", "recovery_timeout"):
            value = setting(config, DEFAULT_CIRCUIT_BREAKER, name)
            if not value > 0:
                raise InvalidArgumentError(f"{name}: expected more than 0, got {value!r}")
        max_recovery_timeout = getattr(config, "max_recovery_timeout", None) or recovery_timeout * _GROWTH
        return cls(
            enabled=setting(config, DEFAULT_CIRCUIT_BREAKER, "enabled"),
            failure_threshold=setting(config, DEFAULT_CIRCUIT_BREAKER, "failure_threshold"),
            recovery_timeout=recovery_timeout,
            min_request_threshold=setting(config, DEFAULT_CIRCUIT_BREAKER, "min_request_threshold"),
            success_threshold=setting(config, DEFAULT_CIRCUIT_BREAKER, "success_threshold"),
            metrics_only=setting(config, DEFAULT_CIRCUIT_BREAKER, "metrics_only"),
            window=getattr(config, "window", None) or _WINDOW,
            max_recovery_timeout=max(max_recovery_timeout, recovery_timeout),
            failure_rate=getattr(config, "failure_rate", None),
            slow_call_duration=getattr(config, "slow_call_duration", None),
            slow_call_rate=getattr(config, "slow_call_rate", None),
        )

    def new_window(self) -> RollingWindow | None:
        """A window if a rule needs one: without, a success costs no look at the clock."""
        slow_rule = self.slow_call_rate is not None and self.slow_call_duration is not None
        return RollingWindow(self.window) if self.failure_rate is not None or slow_rule else None

    def is_slow(self, duration: float | None) -> bool:
        """Whether a call of ``duration`` seconds counts for the rule about slow calls."""
        return duration is not None and self.slow_call_duration is not None and duration >= self.slow_call_duration

    def rates_exceeded(self, window: RollingWindow) -> bool:
        """Whether one of the two windowed rules says to open."""
        if window.calls < self.min_request_threshold:
            return False
        if self.failure_rate is not None and window.failures / window.calls >= self.failure_rate:
            return True
        return self.slow_call_rate is not None and window.slow / window.calls >= self.slow_call_rate

    def open_time(self, streak: int, rng: random.Random) -> float:
        """Seconds to stay open at the ``streak``-th trip in a row: doubling, capped, jittered but for the first."""
        if streak <= 1:
            return self.recovery_timeout
        # The exponent is bounded because a float overflows at 2 ** 1024; the cap has long been reached by then.
        doubled = min(self.recovery_timeout * 2.0 ** min(streak - 1, 64), self.max_recovery_timeout)
        return doubled * (0.9 + 0.1 * rng.random())
