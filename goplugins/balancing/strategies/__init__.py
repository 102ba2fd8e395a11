"""How a member is picked: one class a strategy, each cheap at 3 members and at 1,000."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from goplugins.balancing.member_state import MemberState, Traffic
from goplugins.balancing.strategies.base import NOBODY, Strategy
from goplugins.balancing.strategies.chance import PowerOfTwo, Random, WeightedRandom
from goplugins.balancing.strategies.least import Least
from goplugins.balancing.strategies.ring import HashRing
from goplugins.balancing.strategies.rotation import RoundRobin
from goplugins.balancing.strategies.tiers import Tiers
from goplugins.enums import LoadBalancingStrategy

if TYPE_CHECKING:
    from goplugins.config import LoadBalancerConfig

__all__ = ["NOBODY", "Least", "Strategy", "strategy_for"]


def strategy_for(config: LoadBalancerConfig, rng: random.Random, traffic: Traffic) -> Strategy:
    """The strategy that a configuration asks for."""
    make: dict[LoadBalancingStrategy, Callable[[], Strategy]] = {
        LoadBalancingStrategy.ROUND_ROBIN: lambda: RoundRobin(rng),
        LoadBalancingStrategy.RANDOM: lambda: Random(rng),
        LoadBalancingStrategy.LEAST_CONNECTIONS: lambda: Least(MemberState.crowd, rng),
        LoadBalancingStrategy.LEAST_LATENCY: lambda: Least(MemberState.load, rng),
        LoadBalancingStrategy.WEIGHTED_RANDOM: lambda: WeightedRandom(rng),
        LoadBalancingStrategy.CONSISTENT_HASH: lambda: HashRing(
            rng, traffic, config.hash_load_factor, config.hash_min_load
        ),
        LoadBalancingStrategy.PRIORITY: lambda: Tiers(rng),
        LoadBalancingStrategy.P2C: lambda: PowerOfTwo(rng),
    }
    return make[config.strategy]()
