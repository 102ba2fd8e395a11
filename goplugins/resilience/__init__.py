"""Pure policies: when to call, when to wait, when to try again. No I/O, no thread; clock and chance are handed in."""

from __future__ import annotations

from goplugins.resilience.budget import RetryBudget
from goplugins.resilience.bulkhead import Bulkhead
from goplugins.resilience.circuit_breaker import CircuitBreaker, Permit
from goplugins.resilience.gate import GateSnapshot, InFlightGate
from goplugins.resilience.hedge import HedgePolicy
from goplugins.resilience.rate_limiter import RateLimiter
from goplugins.resilience.retry import RetryPolicy

__all__ = [
    "Bulkhead",
    "CircuitBreaker",
    "GateSnapshot",
    "HedgePolicy",
    "InFlightGate",
    "Permit",
    "RateLimiter",
    "RetryBudget",
    "RetryPolicy",
]
