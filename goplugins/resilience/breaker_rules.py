"""The rules of a circuit breaker: when it opens, and for how long."""

from __future__ import annotations

import enum
import math
import random

import attrs

from goplugins.config.defaults import completed
from goplugins.config.plugin_sections import CircuitBreakerConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import CircuitBreakerOpenError
from goplugins.resilience.rolling_window import RollingWindow

_WINDOW = 60.0  # seconds, where a rate is configured without a window


class BreakerMode(enum.Enum):
    """Whether outcomes decide the state of a breaker."""

    NORMAL = "normal"
    DISABLED = "disabled"  # stays CLOSED and only counts
    FORCED = "forced"  # stays OPEN


@attrs.frozen
class BreakerRules:
    """The configuration with its defaults filled in. A rate that is None is not checked."""

    enabled: bool
    failure_threshold: int
    recovery_timeout: float
    min_request_threshold: int
    success_threshold: int
    max_recovery_timeout: float
    window: float
    failure_rate: float | None
    slow_call_duration: float | None
    slow_call_rate: float | None
    metrics_only: bool

    @classmethod
    def of(cls, config: CircuitBreakerConfig) -> BreakerRules:
        """The rules of a configuration.

        Raises:
            InvalidConfigError: a value that its field does not admit.
        """
        settings = completed(config)
        return cls(**{**attrs.asdict(settings), "window": settings.window or _WINDOW})

    def new_window(self) -> RollingWindow | None:
        """A window if a rate is checked; None lets a success pass without reading the clock."""
        slow_rule = self.slow_call_rate is not None and self.slow_call_duration is not None
        return RollingWindow(self.window) if self.failure_rate is not None or slow_rule else None

    def is_slow(self, duration: float | None) -> bool:
        """Whether a call of ``duration`` seconds counts as slow."""
        return duration is not None and self.slow_call_duration is not None and duration >= self.slow_call_duration

    def rates_exceeded(self, window: RollingWindow) -> bool:
        """Whether the share of failed or of slow calls opens the breaker."""
        if window.calls < self.min_request_threshold:
            return False
        if self.failure_rate is not None and window.failures / window.calls >= self.failure_rate:
            return True
        return self.slow_call_rate is not None and window.slow / window.calls >= self.slow_call_rate

    def open_time(self, streak: int, rng: random.Random) -> float:
        """Seconds to stay open at the ``streak``-th trip in a row: doubled each time up to the cap, then jittered."""
        if streak <= 1:
            return self.recovery_timeout
        # The exponent is bounded: a float overflows at 2 ** 1024, and the cap is reached long before.
        doubled = min(self.recovery_timeout * 2.0 ** min(streak - 1, 64), self.max_recovery_timeout)
        return doubled * (0.9 + 0.1 * rng.random())


def refusal_of(name: str, state: CircuitBreakerState, left: float) -> CircuitBreakerOpenError:
    """The error for a call that a breaker refuses.

    Args:
        name: the plugin's; empty for none.
        state: of the breaker.
        left: seconds until it admits a call; infinite while it is forced open.
    """
    if left == math.inf:
        return CircuitBreakerOpenError("circuit breaker is held open by force_open()", plugin=name or None)
    half_open = state is CircuitBreakerState.HALF_OPEN
    where = "half-open and all its probes are in flight" if half_open else "open"
    message = f"circuit breaker is {where}, next call admitted in {left:.3f} s"
    return CircuitBreakerOpenError(message, plugin=name or None, retry_after=left)
