"""Calls on worker threads: bounds, context variables, nested calls, and batches in a bounded window."""

from __future__ import annotations

import contextvars
import itertools
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from goplugins import HealthStatus, InvalidArgumentError, Manager, PluginInfo, SaturatedError, deadline
from goplugins.config import HedgeConfig
from goplugins.pipeline.hedging import Hedger, hedge_pool
from goplugins.resilience.hedge_policy import HedgePolicy
from goplugins.resilience.retry_budget import RetryBudget
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.workers import WorkerPool
from goplugins.transports.json_codec import codec_for

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Plugin:
    """A plugin that runs a function."""

    def __init__(self, name: str, function: Callable[[Any], Any]) -> None:
        self._name = name
        self._function = function

    def info(self) -> PluginInfo:
        return PluginInfo(self._name)

    def execute(self, request: Any, context: Any) -> Any:
        return self._function(request)

    def health(self, timeout: float) -> HealthStatus:
        return HealthStatus()

    def close(self) -> None: ...


@pytest.fixture
def make() -> Iterator[Callable[..., Manager[Any, Any]]]:
    """Makes managers of plugins that run functions."""
    managers: list[Manager[Any, Any]] = []

    def build(sizes: dict[str, int] | None = None, /, **functions: Callable[[Any], Any]) -> Manager[Any, Any]:
        managers.append(Manager(**(sizes or {})))
        for name, function in functions.items():
            managers[-1].register(Plugin(name, function))
        return managers[-1]

    yield build
    for manager in managers:
        manager.shutdown(5)


def test_saturation_is_a_typed_refusal(make):
    gate = threading.Event()
    manager = make({"max_workers": 2, "max_queued": 3}, waits=lambda _: gate.wait(10))
    futures = [manager.submit("waits", None) for _ in range(5)]
    with pytest.raises(SaturatedError) as caught:
        manager.submit("waits", None)
    assert caught.value.details == {"max_workers": 2, "max_queued": 3}
    assert sum(thread.name.startswith("goplugins-call") for thread in threading.enumerate()) >= 2
    gate.set()
    assert all(future.result(5) for future in futures)
    assert manager.submit("waits", None).result(5)


class TestContextVariables:
    def test_are_copied_for_submit_and_batches(self, make):
        manager = make(reads=lambda _: variable.get())
        variable.set("mine")
        assert manager.submit("reads", 1).result(5) == "mine"
        assert list(manager.map("reads", range(3))) == ["mine"] * 3
        assert [result.value for result in manager.map_results("reads", range(3), ordered=False)] == ["mine"] * 3

    def test_are_a_copy_for_each_call(self, make):
        def changes(_: Any) -> str:
            before = variable.get()
            variable.set("changed")
            return before

        manager = make({"max_workers": 1}, changes=changes)
        variable.set("mine")
        assert list(manager.map("changes", range(5))) == ["mine"] * 5
        assert variable.get() == "mine"

    def test_are_copied_for_on_result(self, make):
        manager = make(echoes=lambda request: request)
        seen = []
        variable.set("mine")
        list(manager.map_results("echoes", range(3), on_result=lambda *_: seen.append(variable.get())))
        assert seen == ["mine"] * 3

    def test_are_copied_for_both_attempts_of_a_hedged_call(self):
        pool = hedge_pool()
        policy = HedgePolicy(HedgeConfig(enabled=True, delay=0.01))
        policy.record(0.001)
        hedger = Hedger(policy, pool, RetryBudget())
        seen: list[tuple[str, str]] = []
        both = threading.Barrier(2)

        def attempt(call: Call) -> str:
            call.attempts = 1
            seen.append((variable.get(), threading.current_thread().name))
            both.wait(5)
            return "ok"

        variable.set("mine")
        assert hedger(Call(1, codec_for(), Deadline.after(5), "r", idempotent=True), attempt) == "ok"
        assert [value for value, _ in seen] == ["mine", "mine"]
        assert {name for _, name in seen} == {"goplugins-hedge-worker"}
        pool.shutdown()


class TestNestedCalls:
    def test_with_one_worker_and_a_full_queue(self, make):
        manager = make(
            {"max_workers": 1, "max_queued": 1},
            outer=lambda depth: manager.submit("outer", depth - 1).result(5) if depth else "bottom",
        )
        gate = threading.Event()
        manager.register(Plugin("waits", lambda _: gate.wait(5)))
        first = manager.submit("waits", None)
        second = manager.submit("outer", 5)  # fills the queue
        gate.set()
        assert (first.result(5), second.result(5)) == (True, "bottom")

    @pytest.mark.parametrize("ordered", [True, False])
    def test_batches_within_calls(self, make, ordered):
        def outer(count: int) -> list[int]:
            return sorted(result.value for result in manager.map_results("inner", range(count), ordered=ordered))

        manager = make({"max_workers": 2, "max_queued": 1}, outer=outer, inner=lambda request: request)
        assert list(manager.map("outer", [3, 4, 5])) == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]

    def test_from_a_thread_of_another_pool(self, make):
        """As an isolated plugin makes them: a worker waits for its thread."""
        other = WorkerPool("other", 4, 4, inline=False)
        manager = make(
            {"max_workers": 1, "max_queued": 8},
            outer=lambda _: other.submit(lambda: manager.submit("inner", 1).result(5)).result(5),
            inner=lambda request: request + 1,
        )
        started = time.monotonic()
        with deadline(3):
            assert manager.submit("outer", None).result(5) == 2
        assert time.monotonic() - started < 2
        other.shutdown()

    def test_from_a_plugin_of_another_manager(self, make):
        first = make({"max_workers": 1}, outer=lambda _: second.submit("middle", 1).result(5), inner=lambda n: n + 1)
        second = make({"max_workers": 1}, middle=lambda n: first.submit("inner", n).result(5))
        assert first.submit("outer", None).result(5) == 2

    def test_a_call_from_outside_the_pool_waits_in_the_queue(self, make):
        gate = threading.Event()
        manager = make({"max_workers": 1, "max_queued": 8}, waits=lambda _: gate.wait(5), names=lambda _: _name())
        blocked = manager.submit("waits", None)
        queued = manager.submit("names", None)
        assert not queued.done()
        gate.set()
        assert blocked.result(5)
        assert queued.result(5).startswith("goplugins-call")


class Item:
    """A request, counted while it is referenced."""

    alive = 0

    def __init__(self, number: int) -> None:
        self.number = number
        Item.alive += 1

    def __del__(self) -> None:
        Item.alive -= 1


def _name() -> str:
    return threading.current_thread().name


class TestBatches:
    @pytest.mark.parametrize("ordered", [True, False])
    @pytest.mark.parametrize(
        "count", [10_000, pytest.param(1_000_000, marks=[pytest.mark.stress, pytest.mark.timeout(900)])]
    )
    def test_a_long_batch_keeps_a_bounded_window(self, make, ordered, count):
        """Nothing of an item is kept once its result was read."""
        manager = make({"max_workers": 4}, echoes=lambda request: request)
        results = manager.map_results("echoes", map(Item, range(count)), ordered=ordered)
        total = most = 0
        usual = 0
        for done, result in enumerate(results):
            total += result.value.number
            most = max(most, Item.alive)
            if done == count // 10:
                usual = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert total == count * (count - 1) // 2
        assert most <= 4 + 8  # the window, and the items of the workers and of this loop
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - usual < 10_000  # KB

    def test_a_batch_is_resumed_by_the_recorded_results(self, make):
        """After a kill the next run makes the remaining calls only."""
        done: list[int] = []

        def record(request: int, result: Any) -> None:
            if result.ok:
                done.append(request)

        manager = make(echoes=lambda request: request)
        first = manager.map_results("echoes", range(100), on_result=record, concurrency=4)
        for _ in itertools.islice(first, 10):
            pass
        first.close()
        rest = [number for number in range(100) if number not in done]
        assert 10 <= len(done) < 20
        list(manager.map_results("echoes", rest, on_result=record))
        assert sorted(done) == list(range(100))

    def test_an_error_of_on_result_ends_the_batch(self, make):
        manager = make(echoes=lambda request: request)

        def full(request: int, result: Any) -> None:
            if request == 3:
                raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            list(manager.map_results("echoes", range(1000), on_result=full))

    def test_progress_with_tqdm(self, make, capsys):
        pytest.importorskip("tqdm")
        manager = make(echoes=lambda request: request)
        assert list(manager.map("echoes", range(5), progress=True)) == list(range(5))
        assert list(manager.map("echoes", iter(range(5)), progress=True)) == list(range(5))
        drawn = capsys.readouterr().err
        assert "5/5" in drawn  # the length is known
        assert "5it" in drawn  # it is not

    def test_progress_without_tqdm_is_an_error(self, make, monkeypatch):
        monkeypatch.setitem(sys.modules, "tqdm", None)
        manager = make(echoes=lambda request: request)
        for batch in (manager.map, manager.map_results, manager.bind("echoes").map):
            with pytest.raises(InvalidArgumentError, match="progress=True needs tqdm: pip install tqdm"):
                batch(*(() if batch.__self__ is not manager else ("echoes",)), range(5), progress=True)
