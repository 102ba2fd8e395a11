"""The groups of rows, by subject. A new row is a generator function under ``@GROUP.row("name")``."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.groups import balancing, codec, grpc, health, http, imports, lines, memory, policy, rest, throughput
from benchmarks.harness import Group

__all__ = ["GROUPS"]

GROUPS: Sequence[Group] = (
    policy.GROUP,
    *http.GROUPS,
    *rest.GROUPS,
    *lines.GROUPS,
    *grpc.GROUPS,
    throughput.GROUP,
    balancing.GROUP,
    health.GROUP,
    imports.GROUP,
    memory.GROUP,
    codec.GROUP,
)
