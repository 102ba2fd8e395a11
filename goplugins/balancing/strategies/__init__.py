"""Load balancing strategies: one class each; a pick is cheap with 3 members and with 1,000."""

from __future__ import annotations

import random
from collections.abc import Callable

from goplugins.balancing.member_state import MemberState, Traffic
from goplugins.balancing.strategies.base import NO_MEMBERS, Strategy
from goplugins.balancing.strategies.chance import PowerOfTwo, Random, WeightedRandom
from goplugins.balancing.strategies.least import Least
from goplugins.balancing.strategies.ring import HashRing
from goplugins.balancing.strategies.rotation import RoundRobin
from goplugins.balancing.strategies.tiers import Tiers
from goplugins.config import LoadBalancerConfig
from goplugins.enums import LoadBalancingStrategy

__all__ = ["NO_MEMBERS", "Least", "Strategy", "strategy_for"]


def strategy_for(config: LoadBalancerConfig, rng: random.Random, traffic: Traffic) -> Strategy:
    """The strategy of a configuration."""
    make: dict[LoadBalancingStrategy, Callable[[], Strategy]] = {
        LoadBalancingStrategy.ROUND_ROBIN: lambda: RoundRobin(rng),
        LoadBalancingStrategy.RANDOM: lambda: Random(rng),
        LoadBalancingStrategy.LEAST_CONNECTIONS: lambda: Least(MemberState.active_per_weight, rng),
        LoadBalancingStrategy.LEAST_LATENCY: lambda: Least(MemberState.load, rng),
        LoadBalancingStrategy.WEIGHTED_RANDOM: lambda: WeightedRandom(rng),
        LoadBalancingStrategy.CONSISTENT_HASH: lambda: HashRing(
            rng, traffic, config.hash_load_factor, config.hash_min_load
        ),
        LoadBalancingStrategy.PRIORITY: lambda: Tiers(rng),
        LoadBalancingStrategy.P2C: lambda: PowerOfTwo(rng),
    }
    return make[config.strategy]()
