"""Load balancing: groups of members behind one name."""

from __future__ import annotations

from goplugins.balancing.load_balancer import LoadBalancer
from goplugins.balancing.member import Member, Selection
from goplugins.balancing.report import LoadBalancerStats
from goplugins.models.explanation import GroupExplanation, MemberExplanation

__all__ = ["GroupExplanation", "LoadBalancer", "LoadBalancerStats", "Member", "MemberExplanation", "Selection"]
