"""Policies: when to call, to wait and to try again. No I/O; clock and random generator are parameters."""

from __future__ import annotations

from goplugins.resilience.bulkhead import Bulkhead
from goplugins.resilience.circuit_breaker import CircuitBreaker
from goplugins.resilience.hedge_policy import HedgePolicy
from goplugins.resilience.in_flight import InFlightTracker
from goplugins.resilience.permits import Permit
from goplugins.resilience.rate_limiter import RateLimiter
from goplugins.resilience.retry import RetryPolicy
from goplugins.resilience.retry_budget import RetryBudget

__all__ = [
    "Bulkhead",
    "CircuitBreaker",
    "HedgePolicy",
    "InFlightTracker",
    "Permit",
    "RateLimiter",
    "RetryBudget",
    "RetryPolicy",
]
