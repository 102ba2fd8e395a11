"""How strategies distribute calls."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from goplugins.balancing import LoadBalancer
from goplugins.balancing.strategies.ring import hash_key
from goplugins.errors import NoAvailablePluginsError
from goplugins.models.context import ExecutionContext

from .fakes import STRATEGIES, FakeMember, Group, make_call, refused

PICKS = 100_000


def shares(counts: Counter[str], total: int = PICKS) -> dict[str, float]:
    return {name: count / total for name, count in counts.items()}


# --- distribution ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "weights"),
    [(each, (5, 3, 2)) for each in STRATEGIES if each not in ("random", "priority")]
    + [("consistent-hash", (1, 1, 1)), ("consistent-hash", (1,) * 10)],
)
def test_weights_are_kept_within_one_percent(strategy: str, weights: tuple[int, ...]) -> None:
    group = Group(len(weights), strategy, weights=weights)
    picks = Counter(group.balancer.select_plugin(ExecutionContext(key=f"user-{n}")).name for n in range(PICKS))
    wanted = {member.name: weight / sum(weights) for member, weight in zip(group.members, weights, strict=True)}
    assert shares(picks) == pytest.approx(wanted, abs=0.01)


def test_random_ignores_weights() -> None:
    group = Group(4, "random", weights=(9, 1, 1, 1))
    picks = Counter(group.balancer.select_plugin().name for _ in range(PICKS))
    assert shares(picks) == pytest.approx(dict.fromkeys("abcd", 0.25), abs=0.01)


def test_priority_distributes_by_weight_within_the_highest_tier() -> None:
    group = Group(2, "priority", weights=(3, 1))
    group.balancer.add_plugin(FakeMember("backup", group.clock), priority=-1)
    picks = Counter(group.balancer.select_plugin().name for _ in range(PICKS))
    assert shares(picks) == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.01)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_member_gets_calls_one_after_the_other(strategy: str) -> None:
    group = Group(4, strategy)
    for member in group.members:
        member.latency = 0.02
    given: Counter[str] = Counter()
    for number in range(2000):
        given[group.send(key=f"user-{number}")] += 1
    assert min(given.values()) > 400


def test_round_robin_is_smooth() -> None:
    group = Group(3, weights=(5, 1, 1))
    order = "".join(group.balancer.select_plugin().name for _ in range(70))
    assert Counter(order) == {"a": 50, "b": 10, "c": 10}
    assert all("a" in order[start : start + 3] for start in range(68))  # never three others in a row


def test_processes_begin_with_different_members() -> None:
    firsts = set()
    for seed in range(20):
        balancer: LoadBalancer[Any, Any] = LoadBalancer("group", rng=random.Random(seed))
        for name in "abc":
            balancer.add_plugin(FakeMember(name, Group(0).clock))
        firsts.add(balancer.select_plugin().name)
    assert firsts == {"a", "b", "c"}


# --- load ------------------------------------------------------------------------------------------------------------


def held(group: Group, counts: dict[str, int]) -> list[threading.Thread]:
    """Keeps so many calls in flight on each member until the test sets ``group.release``."""
    group.release = threading.Event()  # type: ignore[attr-defined]
    entered = threading.Semaphore(0)

    def hold(_: Any) -> str:
        entered.release()
        assert group.release.wait(10)  # type: ignore[attr-defined]
        return "held"

    threads = []
    for name, count in counts.items():
        for _ in range(count):
            group[name].act = hold
            threads.append(threading.Thread(target=group.send, kwargs={"preferences": (name,)}))
            threads[-1].start()
            assert entered.acquire(timeout=10)
            group[name].act = None
    return threads


def release_all(group: Group, threads: list[threading.Thread]) -> None:
    group.release.set()  # type: ignore[attr-defined]
    for thread in threads:
        thread.join(10)


def test_least_connections_picks_the_fewest_calls_in_flight_per_weight() -> None:
    group = Group(3, "least-connections", weights=(1, 1, 4))
    threads = held(group, {"a": 1, "b": 2, "c": 3})
    try:
        assert {group.balancer.select_plugin().name for _ in range(20)} == {"c"}
        more = held_more = group.balancer.stats()["c"].active_connections
        assert more == held_more == 3
    finally:
        release_all(group, threads)
    assert {group.send() for _ in range(12)} == {"a", "b", "c"}


@pytest.mark.parametrize("strategy", ["least-latency", "p2c"])
def test_a_slow_member_gets_less_than_a_fifth_of_a_fair_share(strategy: str) -> None:
    group = Group(4, strategy)
    for member in group.members:
        member.latency = 0.2 if member.name == "d" else 0.02
    given = group.count(2000)
    assert 0 < given["d"] < 2000 / 4 / 5


@pytest.mark.parametrize("strategy", ["least-latency", "p2c"])
def test_a_slower_answer_counts_at_once_and_decays_slowly(strategy: str) -> None:
    group = Group(2, strategy)
    for member in group.members:
        member.latency = 0.02
    group.count(20)
    group["a"].latency = 1.0
    group.send(preferences=("a",))
    assert group.balancer.explain().members[0].latency == pytest.approx(1.0)
    group["a"].latency = 0.02
    group.send(preferences=("a",))
    assert group.balancer.explain().members[0].latency == pytest.approx(1.0, abs=0.01)
    assert group.count(100)["a"] == 0
    group.clock.advance(60.0)  # all latencies decay alike: only a new sample changes the order
    group.send(preferences=("b",))
    assert group.count(100)["a"] > 0


@pytest.mark.parametrize("strategy", ["least-latency", "p2c"])
def test_a_member_that_failed_first_counts_as_slow_until_it_answers(strategy: str) -> None:
    group = Group(4, strategy)
    for member in group.members:
        member.latency = 0.02
    group["d"].error = refused
    for member in group.members:
        group.try_send(preferences=(member.name,))
    group["d"].error = None
    assert group.count(100)["d"] == 0
    group.send(preferences=("d",))
    assert group.count(400)["d"] > 60


@pytest.mark.parametrize("strategy", ["least-latency", "p2c"])
def test_a_new_member_gets_one_call_until_its_latency_is_known(strategy: str) -> None:
    group = Group(3, strategy)
    for member in group.members:
        member.latency = 0.02
    group.count(50)
    group.members.append(FakeMember("new", group.clock))
    group.balancer.add_plugin(group["new"])
    group.clock.advance(30.0)  # past its slow start
    for member in group.members[:3]:
        group.send(preferences=(member.name,))
    threads = held(group, {"new": 1})
    try:
        assert "new" not in {group.balancer.select_plugin().name for _ in range(100)}
    finally:
        release_all(group, threads)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_member_that_fails_fast_is_ejected_and_then_only_probed(strategy: str) -> None:
    group = Group(4, strategy)
    for member in group.members:
        member.latency = 0.02
    group["d"].latency, group["d"].error = 0.001, refused
    given: Counter[str] = Counter()
    for number in range(10_000):  # some 200 s
        call = group.call(key=f"user-{number}")
        try:
            group.balancer.send(call)
        except Exception:
            assert call.member == "d"
        given[call.member] += 1
    # Five failures eject it; then one probe after 30, 60, ... seconds.
    assert 5 < given["d"] <= 5 + 3


@pytest.mark.parametrize("strategy", ["least-latency", "p2c"])
def test_without_ejection_failing_fast_attracts_no_calls(strategy: str) -> None:
    group = Group(4, strategy, ejection_failures=1_000_000)
    for member in group.members:
        member.latency = 0.02
    group["d"].latency, group["d"].error = 0.001, refused
    assert group.count(4000)["d"] < 4000 / 4 / 5


@pytest.mark.parametrize("strategy", ["least-connections", "least-latency"])
def test_members_excluded_for_one_call_are_picked_for_the_next(strategy: str) -> None:
    group = Group(4, strategy)
    for _ in range(20):
        retry = group.call()
        retry.tried = ("a", "b", "c")
        assert group.balancer.send(retry) == "d"
    with group.balancer._dispatcher.lock:
        group.balancer._dispatcher.table.states["d"].active += 50
    assert {group.send() for _ in range(30)} == {"a", "b", "c"}


# --- consistent hash -------------------------------------------------------------------------------------------------

KEYS = [f"user-{number}" for number in range(10_000)]


def owners(group: Group) -> dict[str, str]:
    return {key: group.balancer.select_plugin(ExecutionContext(key=key)).name for key in KEYS}


def test_known_fault_consistent_hash_removing_one_of_ten_moves_only_its_keys() -> None:
    group = Group(10, "consistent-hash")
    before = owners(group)
    group.balancer.remove_plugin("d")
    after = owners(group)
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == "d"}
    assert 700 < len(moved) < 1300
    assert set(after.values()) == {*"abcefghij"}


def test_a_new_member_takes_only_its_own_keys() -> None:
    group = Group(10, "consistent-hash")
    before = owners(group)
    group.balancer.add_plugin(FakeMember("new", group.clock))
    group.clock.advance(60.0)
    after = owners(group)
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if after[key] == "new"}
    assert 600 < len(moved) < 1200


def test_a_member_that_returns_gets_exactly_its_own_keys_back() -> None:
    group = Group(10, "consistent-hash")
    before = owners(group)
    group.balancer.disable_plugin("d")
    during = owners(group)
    assert {key for key in KEYS if before[key] != during[key]} == {key for key in KEYS if before[key] == "d"}
    group.balancer.enable_plugin("d")
    group.clock.advance(60.0)
    assert owners(group) == before


_OWNERS = """
import json, sys
from goplugins.balancing import LoadBalancer
from goplugins.errors import NoAvailablePluginsError
from goplugins.models.context import ExecutionContext
sys.path.insert(0, sys.argv[1])
from tests.unit.balancing.fakes import FakeMember, Group
names = json.loads(sys.argv[2])
balancer = LoadBalancer("group", strategy="consistent-hash")
clock = Group(0).clock
for name in names:
    balancer.add_plugin(FakeMember(name, clock))
print(json.dumps([balancer.select_plugin(ExecutionContext(key=f"k{n}")).name for n in range(500)]))
"""


def test_all_processes_agree_regardless_of_hash_seed_and_order_of_members() -> None:
    answers = []
    names = [f"search-{number}" for number in range(10)]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    for seed, order in (("0", names), ("1", names[::-1]), ("random", names[5:] + names[:5])):
        done = subprocess.run(
            [sys.executable, "-c", _OWNERS, root, json.dumps(order)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) == 10


@pytest.mark.parametrize("pattern", ["user-{}", "{}", "{:08d}", "/a/b/{}.html", "{}@example.org", "x" * 40 + "{}"])
def test_similar_keys_are_spread_evenly(pattern: str) -> None:
    buckets = Counter(hash_key(pattern.format(number)) >> 56 for number in range(25_600))
    chi_square = sum((buckets[place] - 100) ** 2 / 100 for place in range(256))
    assert chi_square < 400  # 255 expected; 400 practically never occurs


def test_calls_without_a_key_go_to_all_members() -> None:
    group = Group(4, "consistent-hash")
    assert set(group.count(200)) == {*"abcd"}


def test_bounded_load_holds_under_32_threads() -> None:
    group = Group(8, "consistent-hash")
    lock = threading.Lock()
    under_way: Counter[str] = Counter()
    worst = [0]
    release = threading.Event()
    entered = threading.Semaphore(0)

    def serve(call: Any) -> str:
        with lock:
            under_way[call.member] += 1
            worst[0] = max(worst[0], under_way[call.member])
        entered.release()
        release.wait(10)
        with lock:
            under_way[call.member] -= 1
        return "ok"

    for member in group.members:
        member.act = serve
    threads = [threading.Thread(target=group.send, kwargs={"key": "the same"}) for _ in range(32)]
    for thread in threads:
        thread.start()
        assert entered.acquire(timeout=10)
    # 32 calls on 8 members: at most 1.25 x 4 each, although all have one key.
    assert worst[0] == 5
    assert len([name for name, count in under_way.items() if count]) >= 7
    release.set()
    for thread in threads:
        thread.join(10)
    assert {each.active_connections for each in group.balancer.stats().values()} == {0}


def test_bounded_load_holds_while_32_threads_make_calls() -> None:
    group = Group(8, "consistent-hash")
    lock = threading.Lock()
    under_way: Counter[str] = Counter()
    worst: Counter[str] = Counter()
    start = threading.Barrier(32)

    def serve(call: Any) -> str:
        with lock:
            under_way[call.member] += 1
            worst[call.member] = max(worst[call.member], under_way[call.member])
        threading.Event().wait(0.001)
        with lock:
            under_way[call.member] -= 1
        return "ok"

    def work() -> None:
        start.wait(10)
        for _ in range(25):
            group.send(key="the same")

    for member in group.members:
        member.act = serve
    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(stats.successful_requests for stats in group.balancer.stats().values()) == 32 * 25
    assert max(worst.values()) <= 5, "more than 1.25 x the mean of at most 32 calls on 8 members"
    assert len(worst) > 1


def test_four_calls_at_once_stay_with_the_owner_of_their_key() -> None:
    group = Group(8, "consistent-hash")
    owner = group.balancer.select_plugin(ExecutionContext(key="k")).name
    threads = held(group, {owner: 3})
    try:
        assert group.balancer.select_plugin(ExecutionContext(key="k")).name == owner
        threads += held_again(group, owner)
        assert group.balancer.select_plugin(ExecutionContext(key="k")).name != owner
    finally:
        release_all(group, threads)


def held_again(group: Group, name: str) -> list[threading.Thread]:
    release = group.release  # type: ignore[attr-defined]
    threads = held(group, {name: 1})
    again = group.release  # type: ignore[attr-defined]
    threads.append(threading.Thread(target=lambda: release.wait(10) and again.set()))
    threads[-1].start()
    group.release = release  # type: ignore[attr-defined]
    return threads


# --- tiers -----------------------------------------------------------------------------------------------------------


def tiers(best: int, backup: int) -> Group:
    group = Group(best, "priority", panic_threshold=0, max_ejection_percent=100)
    for number in range(backup):
        member = FakeMember(f"backup-{number}", group.clock)
        group.members.append(member)
        group.balancer.add_plugin(member, priority=-1)
    return group


def on_backup(group: Group, **options: Any) -> float:
    picks = [group.balancer.select_plugin(ExecutionContext(**options)).name for _ in range(5000)]
    return sum(name.startswith("backup") for name in picks) / len(picks)


def test_a_tier_keeps_all_calls_until_it_weakens_and_then_spills_over() -> None:
    group = tiers(10, 2)
    assert on_backup(group) == 0
    for name in "abc":
        group.balancer.disable_plugin(name)  # disabled members do not weaken the tier
    assert on_backup(group) == 0
    for name in "abc":
        group.balancer.enable_plugin(name)
    group.clock.advance(60)
    for spilled, name in zip((0, 0, 0.02, 0.16, 0.3, 0.44, 0.58, 0.72, 0.86, 1), "abcdefghij", strict=True):
        group.eject(name)
        assert on_backup(group) == pytest.approx(spilled, abs=0.02)


def test_urgent_calls_stay_with_the_highest_tier() -> None:
    group = tiers(4, 2)
    group.eject("a", "b")
    assert on_backup(group) == pytest.approx(0.3, abs=0.03)
    assert on_backup(group, priority=1) == 0


def test_two_weak_tiers_share_all_the_traffic() -> None:
    group = tiers(4, 4)
    group.eject("a", "b", "c", "backup-0", "backup-1", "backup-2")
    assert on_backup(group) == pytest.approx(0.5, abs=0.03)


# --- no eligible member ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_error_without_eligible_members(strategy: str) -> None:
    group = Group(2, strategy)
    for name in "ab":
        group.balancer.disable_plugin(name)
    with pytest.raises(NoAvailablePluginsError, match="2 disabled"):
        group.balancer.select_plugin(ExecutionContext(key="k"))
    with pytest.raises(NoAvailablePluginsError, match="2 disabled"):
        group.balancer.send(make_call(group.clock))
