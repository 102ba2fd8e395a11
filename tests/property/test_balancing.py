"""Random histories of a group: healthy members return, ineligible ones are not called, counts stay right."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from goplugins.enums import PluginStatus
from goplugins.errors import CircuitBreakerOpenError, NoAvailablePluginsError, PluginError, PluginThrottledError
from goplugins.models.context import ExecutionContext
from tests.unit.balancing.fakes import STRATEGIES, FakeMember, Group, refused

NAMES = st.sampled_from("abcdef")


class History(RuleBasedStateMachine):
    """A random history of a group."""

    @initialize(
        strategy=st.sampled_from(STRATEGIES),
        count=st.integers(1, 5),
        percent=st.sampled_from([1, 30, 50, 100]),
        panic=st.sampled_from([0, 50, 100]),
        slow_start=st.sampled_from([0.0, 10.0]),
    )
    def begin(self, strategy: str, count: int, percent: int, panic: int, slow_start: float) -> None:
        self.group = Group(count, strategy, max_ejection_percent=percent, panic_threshold=panic, slow_start=slow_start)
        self.percent = percent
        self.disabled: set[str] = set()
        self.number = 0

    def member(self, name: str) -> FakeMember | None:
        return next((member for member in self.group.members if member.name == name), None)

    # --- rules ------------------------------------------------------------------------------------------------------

    @rule(name=NAMES, kind=st.sampled_from(["fails", "throttles", "succeeds"]), notified=st.booleans())
    def behaves(self, name: str, kind: str, notified: bool) -> None:
        if member := self.member(name):
            member.error = {"fails": refused, "throttles": lambda: PluginThrottledError("429"), "succeeds": None}[kind]

    @rule(name=NAMES, seconds=st.sampled_from([0.0, 0.5, 20.0, math.inf]), notified=st.booleans())
    def breaker_opens(self, name: str, seconds: float, notified: bool) -> None:
        if member := self.member(name):
            member.open_until = self.group.clock.monotonic() + seconds
            if notified:
                member.notify()

    @rule(name=NAMES, status=st.sampled_from(list(PluginStatus)), notified=st.booleans())
    def health_changes(self, name: str, status: PluginStatus, notified: bool) -> None:
        if member := self.member(name):
            member.health_status = status
            if notified:
                member.notify()

    @rule(name=NAMES, is_open=st.booleans())
    def gate_changes(self, name: str, is_open: bool) -> None:
        if member := self.member(name):
            member.gate_open = is_open

    @rule(name=NAMES, enabled=st.booleans())
    def operator_acts(self, name: str, enabled: bool) -> None:
        if self.member(name):
            (self.group.balancer.enable_plugin if enabled else self.group.balancer.disable_plugin)(name)
            (self.disabled.discard if enabled else self.disabled.add)(name)

    @rule(name=NAMES, weight=st.integers(1, 5), priority=st.integers(-1, 1))
    def member_is_added(self, name: str, weight: int, priority: int) -> None:
        if not self.member(name):
            self.group.members.append(FakeMember(name, self.group.clock))
            self.group.balancer.add_plugin(self.group[name], weight=weight, priority=priority)

    @rule(name=NAMES)
    @precondition(lambda self: len(self.group.members) > 1)
    def member_is_removed(self, name: str) -> None:
        if member := self.member(name):
            self.group.balancer.remove_plugin(name)
            self.group.members.remove(member)
            self.disabled.discard(name)

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 10.0, 31.0, 300.0]))
    def time_passes(self, seconds: float) -> None:
        self.group.clock.advance(seconds)

    @rule(
        calls=st.integers(1, 12),
        tried=st.lists(NAMES, max_size=3),
        preferences=st.lists(NAMES, max_size=2),
        priority=st.integers(-1, 1),
    )
    def calls_are_made(self, calls: int, tried: list[str], preferences: list[str], priority: int) -> None:
        for _ in range(calls):
            self.number += 1
            call = self.group.call(key=f"user-{self.number}", preferences=tuple(preferences), priority=priority)
            call.tried = tuple(tried)
            before = {member.name: member.calls for member in self.group.members}
            try:
                self.group.balancer.send(call)
            except (NoAvailablePluginsError, CircuitBreakerOpenError):
                assert {member.name: member.calls for member in self.group.members} == before
                self.check_refusal()
                continue
            except PluginError:
                pass
            served = [member for member in self.group.members if member.calls > before[member.name]]
            assert [member.name for member in served] == [call.member]
            assert call.member not in self.disabled
            assert not served[0].retry_after()

    def check_refusal(self) -> None:
        """A call was refused only because no member was eligible."""
        assert not any(found.eligible for found in self.group.balancer.explain().members)

    # --- invariants ------------------------------------------------------------------------------------------------

    @invariant()
    def no_call_is_counted(self) -> None:
        if hasattr(self, "group"):
            assert {stats.active_connections for stats in self.group.balancer.stats().values()} <= {0}
            assert self.group.balancer._dispatcher._traffic.active == 0

    @invariant()
    def disabled_members_are_not_eligible(self) -> None:
        if hasattr(self, "group"):
            assert not self.group.eligible() & self.disabled

    @rule()
    def all_members_recover(self) -> None:
        """No condition is permanent: with time and calls, and without notifications, all members become ready."""
        group = self.group
        for member in group.members:
            member.error = None
            member.open_until = 0.0
            member.gate_open = True
            member.health_status = PluginStatus.HEALTHY
        for name in set(self.disabled):
            group.balancer.enable_plugin(name)
        self.disabled.clear()
        for _ in range(330):  # longer than the longest ejection
            group.clock.advance(1.0)
            for _ in range(2):
                self.number += 1
                try:
                    group.send(key=f"user-{self.number}")
                except (NoAvailablePluginsError, CircuitBreakerOpenError):
                    self.check_refusal()
        for _ in range(len(group.members)):  # a probe each, for those ejected last
            group.try_send()
        group.clock.advance(10.0)
        assert set(group.states().values()) <= {"ready"}, str(group.balancer.explain())


History.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestHistory = History.TestCase


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(2, 12),
    weights=st.lists(st.integers(1, 5), min_size=12, max_size=12),
    gone=st.integers(0, 11),
)
def test_removing_a_member_moves_only_its_keys_and_adding_it_again_restores_them(
    count: int, weights: list[int], gone: int
) -> None:
    group = Group(count, "consistent-hash", weights=weights, slow_start=0.0)
    name = group.members[gone % count].name

    def owners() -> list[str]:
        return [group.balancer.select_plugin(ExecutionContext(key=f"k{number}")).name for number in range(300)]

    before = owners()
    group.balancer.remove_plugin(name)
    after = owners()
    assert all(new == old for old, new in zip(before, after, strict=True) if old != name)
    assert name not in after
    group.balancer.add_plugin(group[name], weight=weights[gone % count])
    assert owners() == before


@settings(max_examples=50, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    count=st.integers(1, 8),
    steps=st.lists(st.tuples(st.sampled_from(["call", "slow", "fail"]), st.integers(0, 7)), max_size=60),
)
def test_the_lazy_heap_picks_the_minimum_over_all_members(strategy: str, count: int, steps: list[Any]) -> None:
    """The heaps of least-connections and least-latency against a plain minimum."""
    if not strategy.startswith("least"):
        strategy = "least-latency"
    group = Group(count, strategy, ejection_failures=1000)
    states = group.balancer._dispatcher.table.states
    for kind, number in steps:
        member = group.members[number % count]
        member.latency = {"call": 0.01, "slow": 0.5, "fail": 0.001}[kind]
        member.error = refused if kind == "fail" else None
        group.try_send(preferences=(member.name,))
        name = group.balancer.select_plugin().name
        score = (
            (lambda state: state.active_per_weight())
            if strategy == "least-connections"
            else (lambda state: state.load())
        )
        assert score(states[name]) == min(score(state) for state in states.values())
