"""What guards one plugin: its breaker, limiter, retry rules and budget, made from its configuration."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

import attrs

from goplugins.config import PluginConfig
from goplugins.enums import CircuitBreakerState
from goplugins.errors import InvalidArgumentError
from goplugins.resilience.circuit_breaker import CircuitBreaker
from goplugins.resilience.rate_limiter import RateLimiter
from goplugins.resilience.retry import RetryPolicy
from goplugins.resilience.retry_budget import RetryBudget
from goplugins.runtime.clock import Clock

__all__ = ["Policies", "resolved"]

T = TypeVar("T")


@attrs.frozen
class Policies:
    """What guards a plugin; replaced as a whole."""

    breaker: CircuitBreaker
    limiter: RateLimiter | None
    retry: RetryPolicy
    budget: RetryBudget

    @classmethod
    def of(
        cls,
        config: PluginConfig,
        *,
        clock: Clock,
        rng: random.Random,
        on_transition: Callable[[CircuitBreakerState, CircuitBreakerState], object] | None = None,
    ) -> Policies:
        """The policies that a resolved configuration asks for."""
        retry, limit = resolved(config.retry), resolved(config.rate_limit)
        breaker = resolved(config.circuit_breaker)
        return cls(
            breaker=CircuitBreaker(breaker, clock=clock, rng=rng, name=config.name, on_transition=on_transition),
            limiter=RateLimiter(limit, clock=clock) if limit.enabled else None,
            retry=RetryPolicy(retry, rng=rng),
            budget=RetryBudget(resolved(retry.budget_ratio), clock=clock),
        )

    def adapted(self, config: PluginConfig, *, clock: Clock, rng: random.Random) -> Policies:
        """The same going by another resolved configuration from now on; their counts and states stay.

        Put the result in their place: what was switched on or off is not in the old ones.
        """
        retry, limit = resolved(config.retry), resolved(config.rate_limit)
        limiter = self.limiter
        if limiter is not None:
            limiter.set_rate(limit)  # switched off, it lets through who waits
        elif limit.enabled:
            limiter = RateLimiter(limit, clock=clock)
        self.breaker.configure(resolved(config.circuit_breaker))
        self.budget.set_ratio(resolved(retry.budget_ratio))
        return attrs.evolve(self, limiter=limiter if limit.enabled else None, retry=RetryPolicy(retry, rng=rng))


def resolved(value: T | None) -> T:
    """A field of a configuration that has its defaults filled in: never None.

    Raises:
        InvalidArgumentError: it is None all the same.
    """
    if value is None:
        raise InvalidArgumentError("the plugin's configuration has fields to inherit: pass ManagerConfig().resolve(it)")
    return value
