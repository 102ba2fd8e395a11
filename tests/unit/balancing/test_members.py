"""Who may take calls: ejection and its end, breakers, health, panic, slow start, operators."""

from __future__ import annotations

from collections import Counter

import pytest

from goplugins.enums import PluginStatus
from goplugins.errors import (
    AuthenticationError,
    CircuitBreakerOpenError,
    NoAvailablePluginsError,
    PluginClosedError,
    PluginExecutionError,
    PluginThrottledError,
    PluginTimeoutError,
    RateLimitExceededError,
    SaturatedError,
)

from .fakes import STRATEGIES, FakeMember, Group, refused

# --- ejection --------------------------------------------------------------------------------------------------------


def test_five_failures_in_a_row_eject_and_a_success_begins_the_count_anew() -> None:
    group = Group(3)
    group["a"].error = refused
    for _ in range(4):
        group.try_send(preferences=("a",))
    group["a"].error = None
    group.send(preferences=("a",))
    group["a"].error = refused
    for _ in range(4):
        group.try_send(preferences=("a",))
    assert group.states()["a"] == "ready"
    group.try_send(preferences=("a",))
    assert group.states()["a"] == "ejected"
    assert group.count(50)["a"] == 0


def test_known_fault_an_ejection_is_not_for_ever_but_ends_in_a_probe() -> None:
    group = Group(3)
    group.eject("a")
    group["a"].error = None
    group.clock.advance(29.9)
    assert group.count(10)["a"] == 0
    group.clock.advance(0.2)
    assert group.states()["a"] == "about to be probed"
    assert group.send() == "a"
    assert group.states()["a"] == "starting slowly"


def test_a_failed_probe_ejects_for_longer_up_to_the_longest() -> None:
    group = Group(3, max_ejection_time=100.0)
    group.eject("a")
    for seconds in (30, 60, 100, 100):
        group.clock.advance(seconds - 1)
        assert group.count(6)["a"] == 0
        group.clock.advance(2)
        assert group.count(6)["a"] == 1  # the probe, which fails


def test_an_ejection_after_a_time_of_health_is_a_first_one_again() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    group["a"].error = None
    group.send()
    group.clock.advance(31)
    group.send(preferences=("a",))
    group.eject("a")
    group.clock.advance(31)
    assert group.states()["a"] == "about to be probed"


def test_while_a_probe_is_under_way_nobody_else_goes_there() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    group["a"].error = None
    seen: list[object] = []

    def serve(_: object) -> str:
        seen.append(group.states()["a"])
        seen.append(group.count(10)["a"])
        return "a"

    group["a"].act = serve
    assert group.send() == "a"
    assert seen == ["being probed", 0]


def test_a_probe_that_says_nothing_leaves_it_to_the_next() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    group["a"].error = PluginThrottledError("HTTP 429")
    assert isinstance(group.try_send(), PluginThrottledError)
    assert group.states()["a"] == "about to be probed"


def test_a_probe_that_never_ends_frees_its_place_at_its_deadline() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    dispatcher = group.balancer._dispatcher
    with dispatcher.lock:
        lost_call = group.call(timeout=5)
        state = dispatcher.pick(lost_call, {}, group.clock.monotonic())
    assert state is not None
    assert state.name == "a"
    assert group.states()["a"] == "being probed"
    group.clock.advance(5)
    assert group.states()["a"] == "about to be probed"


def test_an_answer_to_a_call_from_before_the_ejection_says_nothing_of_now() -> None:
    group = Group(3)

    def slow(_: object) -> str:
        group["a"].act = None
        group.eject("a")
        return "at last"

    group["a"].act = slow
    assert group.send(preferences=("a",)) == "at last"
    assert group.states()["a"] == "ejected"


def test_retries_and_urgent_calls_are_no_probes() -> None:
    group = Group(3)
    group.eject("a")
    group.clock.advance(31)
    assert group.send(priority=1) != "a"
    retry = group.call()
    retry.tried = ("b",)
    assert group.balancer.send(retry) == "c"
    assert group.balancer.select_plugin().name != "a"  # nothing would come of it
    assert isinstance(group.try_send(), Exception)


@pytest.mark.parametrize(
    ("members", "percent", "ejected"), [(4, 50, 2), (5, 50, 2), (3, 10, 1), (10, 30, 3), (2, 100, 2)]
)
def test_never_more_than_the_percentage_but_one_always_may(members: int, percent: int, ejected: int) -> None:
    group = Group(members, max_ejection_percent=percent, panic_threshold=0)
    group.eject(*(member.name for member in group.members))
    assert Counter(group.states().values())["ejected"] == ejected


def test_who_could_not_be_ejected_is_as_soon_as_there_is_room() -> None:
    group = Group(4, panic_threshold=0)
    group.eject("a", "b", "c")
    assert group.states()["c"] == "ready"
    group["a"].error = None
    group.clock.advance(31)
    group.count(4)  # the probe of a
    group.try_send(preferences=("c",))
    assert group.states()["c"] == "ejected"


@pytest.mark.parametrize(
    "error",
    [PluginExecutionError("no such account"), AuthenticationError("HTTP 401"), PluginThrottledError("HTTP 429")],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_request_and_throttling_eject_nobody(error: Exception) -> None:
    group = Group(2)
    group["a"].error = error
    for _ in range(20):
        group.try_send(preferences=("a",))
    assert group.states()["a"] == "ready"
    stats = group.balancer.stats()["a"]
    assert stats.total_requests == 20
    assert stats.failed_requests == 0
    assert stats.successful_requests == (0 if isinstance(error, PluginThrottledError) else 20)


def test_a_timeout_counts_only_where_there_was_time_enough() -> None:
    group = Group(2)
    group["a"].latency, group["a"].error = 0.05, PluginTimeoutError("timed out")
    for _ in range(10):
        group.try_send(preferences=("a",))
    assert group.states()["a"] == "ready"
    group["a"].latency = 0.1
    for _ in range(5):
        group.try_send(preferences=("a",))
    assert group.states()["a"] == "ejected"


def test_an_error_that_is_no_plugin_error_counts_as_failure_and_passes() -> None:
    group = Group(2)
    group["a"].error = ValueError("a bug")
    for _ in range(5):
        with pytest.raises(ValueError, match="a bug"):
            group.send(preferences=("a",))
    assert group.states()["a"] == "ejected"


# --- breakers and gates ----------------------------------------------------------------------------------------------


def test_an_open_breaker_keeps_calls_away_before_anybody_asks_it() -> None:
    group = Group(3)
    group["a"].open_until = group.clock.monotonic() + 20
    group["a"].notify()
    assert group.count(30)["a"] == 0
    group.clock.advance(20)
    assert group.count(300)["a"] > 0


def test_a_breaker_whose_news_got_lost_is_found_out_by_one_call_and_again_within_a_second() -> None:
    group = Group(3)
    group["a"].open_until = group.clock.monotonic() + 1000
    assert set(group.count(30)) == {"b", "c"}
    group["a"].open_until = 0.0  # reset, and nobody says so
    group.clock.advance(1.0)
    group.send()
    group.clock.advance(10)
    assert group.count(30)["a"] == 10


@pytest.mark.parametrize("error", [RateLimitExceededError("x"), SaturatedError("x"), PluginClosedError("x")], ids=repr)
def test_a_refusal_before_anything_was_sent_picks_again_and_costs_nothing(error: Exception) -> None:
    group = Group(3)
    group["a"].error = error
    call = group.call(preferences=("a",))
    assert group.balancer.send(call) in ("b", "c")
    assert call.member in ("b", "c")
    assert call.tried == ()
    assert group.clock.monotonic() == 1000.0
    assert group.balancer.stats()["a"].total_requests == 0


def test_a_member_whose_gate_is_closed_is_left_alone_for_a_while() -> None:
    group = Group(3)
    group["a"].error = PluginClosedError("it was removed")
    group.count(30)
    assert group["a"].calls == 1
    assert group.states()["a"] == "closed"
    group["a"].error = None
    group.clock.advance(1)
    group.send()
    group.clock.advance(10)
    assert group.count(30)["a"] == 10
    group["a"].gate_open = False
    group["a"].notify()
    assert group.states()["a"] == "closed"


def test_a_refused_call_whose_time_is_over_goes_no_further() -> None:
    group = Group(3)
    group["a"].latency, group["a"].error = 5.0, SaturatedError("no free connection")
    with pytest.raises(SaturatedError):
        group.send(preferences=("a",), timeout=5)


# --- nobody ----------------------------------------------------------------------------------------------------------


def test_all_breakers_open_is_a_breakers_refusal_with_the_smallest_retry_after() -> None:
    group = Group(3)
    for seconds, member in zip((20, 5, 60), group.members, strict=True):
        member.open_until = group.clock.monotonic() + seconds
    group.balancer.add_plugin(FakeMember("off", group.clock), enabled=False)
    with pytest.raises(CircuitBreakerOpenError) as caught:
        group.send()
    assert caught.value.retry_after == 5
    assert caught.value.plugin == "group"
    assert "3 circuit breaker open, 1 disabled; next try in 5.000 s" in str(caught.value)
    group.clock.advance(5)
    assert group.send() == "b"


def test_the_error_of_a_call_that_found_nobody_says_for_each_member_why() -> None:
    group = Group(3, panic_threshold=0, max_ejection_percent=100)
    group.eject("a")
    group.balancer.disable_plugin("b")
    group["c"].error = RateLimitExceededError("no token", retry_after=0.25)
    group.clock.advance(10)
    with pytest.raises(NoAvailablePluginsError) as caught:
        group.send()
    error = caught.value
    assert error.code == "LOADBALANCER_1701"
    assert error.retry_after == 0.25
    assert isinstance(error.__cause__, RateLimitExceededError)
    first, second, third = error.details["members"]
    assert first["name"] == "a"
    assert first["state"] == "ejected"
    assert first["next_try"] == pytest.approx(20)
    assert first["last_error"] == "PLUGIN_1205 connection refused"
    assert first["last_error_ago"] == pytest.approx(10)
    assert (second["state"], second["next_try"]) == ("disabled", None)
    assert (third["state"], third["reason"], third["next_try"]) == ("refused the call", "no token", 0.25)


def test_a_group_without_members_says_so() -> None:
    with pytest.raises(NoAvailablePluginsError, match="the group has no members"):
        Group(0).send()


def test_a_large_group_describes_ten_of_its_members() -> None:
    group = Group(100)
    for member in group.members:
        member.open_until = 2000.0
    error = group.try_send()
    assert isinstance(error, CircuitBreakerOpenError)
    assert len(error.details["members"]) == 10
    assert error.details["members_left_out"] == 90


# --- health, panic ---------------------------------------------------------------------------------------------------


def test_offline_members_get_nothing_others_keep_their_share() -> None:
    group = Group(4)
    for member, status in zip(group.members, ("offline", "unhealthy", "degraded", "unknown"), strict=True):
        member.becomes(PluginStatus(status))
    assert group.count(30) == {"b": 10, "c": 10, "d": 10}
    group["a"].becomes(PluginStatus.HEALTHY)
    assert group.eligible() == {*"abcd"}


def test_a_health_check_that_sees_a_dead_member_well_again_ends_its_ejection_in_a_probe() -> None:
    group = Group(3)
    group["a"].becomes(PluginStatus.OFFLINE)
    group["a"].becomes(PluginStatus.UNKNOWN)
    group.eject("a")
    group["a"].becomes(PluginStatus.OFFLINE)
    group["a"].becomes(PluginStatus.HEALTHY)
    assert group.states()["a"] == "about to be probed"


def test_below_the_panic_threshold_ejection_and_health_are_lifted_but_nothing_else() -> None:
    group = Group(6, max_ejection_percent=100)
    group["a"].open_until = 2000.0
    group["a"].notify()
    group.balancer.disable_plugin("b")
    group.eject("c")
    assert group.eligible() == {"d", "e", "f"}  # 3 of 5 that are enabled
    assert not group.balancer.explain().panic
    group["d"].becomes(PluginStatus.OFFLINE)  # 2 of 5
    assert group.balancer.explain().panic
    assert group.eligible() == {"c", "d", "e", "f"}
    assert set(group.count(40)) == {"c", "d", "e", "f"}
    group["d"].becomes(PluginStatus.HEALTHY)
    assert group.eligible() == {"d", "e", "f"}


def test_a_success_in_a_panic_ends_an_ejection() -> None:
    group = Group(2, max_ejection_percent=100)
    group.eject("a", "b")
    assert group.balancer.explain().panic
    group["a"].error = None
    group.clock.advance(0.001)  # calls from before say nothing
    group.send(preferences=("a",))
    assert group.states() == {"a": "starting slowly", "b": "ejected"}


def test_the_last_one_alive_is_called_even_where_it_is_ejected() -> None:
    group = Group(1)
    group.eject("a")
    group["a"].error = None
    assert group.send() == "a"


# --- slow start ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nobody_herds_onto_a_recovering_member(strategy: str) -> None:
    group = Group(4, strategy, slow_start=10.0)
    for member in group.members:
        member.latency = 0.001
    group["d"].open_until = group.clock.monotonic() + 100
    group["d"].notify()
    for number in range(2000):
        group.send(key=f"user-{number}")
    group.clock.advance(100)
    given = [0] * 12
    beginning = group.clock.monotonic()
    number = 0
    while (second := int(group.clock.monotonic() - beginning)) < 12:
        given[second] += group.send(key=f"user-{number}") == "d"
        number += 1
    # Of 1,000 calls a second: a tenth of the fair 250 in the first two, all of it after ten.
    least, most = (given[1], given[11]) if strategy not in ("least-latency", "p2c") else (given[1], 400)
    assert least < 90
    assert given[0] < 60
    assert most > 150
    if strategy not in ("least-latency", "p2c"):
        assert given[1] < given[5] < given[10]


def test_an_urgent_call_spares_who_starts_slowly() -> None:
    group = Group(2, slow_start=10.0)
    group.balancer.disable_plugin("a")
    group.send()
    group.balancer.enable_plugin("a")
    assert group.count(40, priority=1) == {"b": 40}
    assert group.count(400)["a"] > 0


def test_slow_start_can_be_switched_off() -> None:
    group = Group(2, slow_start=0.0)
    group.balancer.disable_plugin("a")
    group.send()
    group.balancer.enable_plugin("a")
    assert group.count(40) == {"a": 20, "b": 20}


def test_a_newcomer_to_a_group_at_work_starts_slowly_and_to_a_new_one_does_not() -> None:
    group = Group(2)
    assert group.states() == {"a": "ready", "b": "ready"}
    group.send()
    group.balancer.add_plugin(FakeMember("new", group.clock))
    assert group.states()["new"] == "starting slowly"


def test_members_that_all_come_back_at_once_share_as_ever() -> None:
    group = Group(3, weights=(2, 1, 1))
    group.send()
    for name in "abc":
        group.balancer.disable_plugin(name)
    for name in "abc":
        group.balancer.enable_plugin(name)
    assert set(group.states().values()) == {"starting slowly"}
    assert group.count(40) == {"a": 20, "b": 10, "c": 10}


def test_members_that_are_found_before_the_first_call_start_at_once() -> None:
    group = Group(2)
    group["a"].gate_open = False
    group["a"].notify()
    assert group.states()["a"] == "closed"
    group["a"].gate_open = True
    group["a"].notify()
    assert group.states()["a"] == "ready"


# --- wishes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_known_fault_a_retry_goes_to_a_member_that_was_not_tried(strategy: str) -> None:
    group = Group(4, strategy)
    for member in group.members:
        member.error = refused
    for number in range(50):
        call = group.call(key=f"user-{number}", idempotent=True)
        for _ in range(4):
            with pytest.raises(ConnectionError):
                group.balancer.send(call)
        assert sorted(call.tried) == [*"abcd"]
        for member in group.members:  # so that nobody is ejected
            member.error = None
            group.send(preferences=(member.name,))
            member.error = refused


def test_a_retry_goes_to_a_tried_member_rather_than_to_nobody() -> None:
    group = Group(2)
    call = group.call()
    call.tried = ("a", "b")
    assert group.balancer.send(call) in ("a", "b")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_known_fault_preferences_are_honoured_in_their_order_while_eligible(strategy: str) -> None:
    group = Group(4, strategy)
    assert group.count(20, preferences=("nobody", "c", "b")) == {"c": 20}
    group.balancer.disable_plugin("c")
    assert group.count(20, preferences=("nobody", "c", "b")) == {"b": 20}
    retry = group.call(preferences=("b", "d"))
    retry.tried = ("b",)
    assert group.balancer.send(retry) == "d"


# --- operators -------------------------------------------------------------------------------------------------------


def test_disabling_drains_and_enabling_brings_back() -> None:
    group = Group(2)
    seen: list[object] = []

    def serve(_: object) -> str:
        seen.append(group.balancer.disable_plugin("a"))
        seen.append(group.states()["a"])
        return "done"

    group["a"].act = serve
    assert group.send(preferences=("a",)) == "done"
    assert seen == [False, "draining"]
    assert group.states()["a"] == "disabled"
    assert group.balancer.disable_plugin("a") is True
    assert group.count(10) == {"b": 10}
    group.balancer.enable_plugin("a")
    assert group.states()["a"] == "starting slowly"


def test_a_person_who_reads_it_at_night_knows_what_to_do() -> None:
    group = Group(4)
    group.eject("a")
    group["b"].open_until = group.clock.monotonic() + 12
    group["b"].notify()
    group.balancer.disable_plugin("c")
    group.clock.advance(2)
    text = str(group.balancer.explain())
    assert text.splitlines()[0].startswith("group (round-robin): ")
    assert "a: ejected (ejection 1 in a row, after 5 failures in a row" in text
    assert "last error 2.0 s ago: PLUGIN_1205 connection refused" in text
    assert "b: circuit breaker open, next try in 10.0 s" in text
    assert "c: disabled (until the configuration or enable_plugin() enables it)" in text
    assert "d: ready" in text
