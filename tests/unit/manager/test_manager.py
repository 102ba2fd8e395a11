"""The manager: names, types, batches, metrics and shutdown, with plugins in this process."""

import gc
import itertools
import logging
import pickle
import threading
import time

import attrs
import pytest

from goplugins import (
    CacheConfig,
    CallResult,
    ConfigError,
    DuplicatePluginNameError,
    ExecutionContext,
    InvalidArgumentError,
    Manager,
    ManagerClosedError,
    PluginClosedError,
    PluginConfig,
    PluginConnectionError,
    PluginExecutionError,
    PluginInfo,
    PluginInternalError,
    PluginNotFoundError,
    PluginTimeoutError,
    RateLimitConfig,
    RateLimitExceededError,
    ReplyTypeError,
    RetryConfig,
    deadline,
    serve,
)
from goplugins.enums import PluginStatus
from goplugins.models.results import HealthStatus
from goplugins.testing import ManualClock
from tests.timing import until
from tests.unit.pipeline.fakes import FakeSender, Latch


@attrs.frozen
class Ask:
    text: str


@attrs.frozen
class Answer:
    text: str


@serve.plugin(name="shout")
def shout(request: Ask, context: ExecutionContext) -> Answer:
    return Answer(request.text.upper())


class Recorder:
    """A plugin that records its contexts and runs a function."""

    def __init__(self, name="recorder", function=lambda request, context: request):
        self.name = name
        self.function = function
        self.contexts = []
        self.closed = 0

    def info(self):
        return PluginInfo(self.name)

    def execute(self, request, context):
        self.contexts.append(context)
        return self.function(request, context)

    def health(self, timeout):
        return HealthStatus(PluginStatus.HEALTHY, "fine")

    def close(self):
        self.closed += 1


@pytest.fixture
def manager():
    with Manager() as manager:
        yield manager


def quiet(name="recorder", **sections):
    return PluginConfig.from_mapping({"name": name, "health_check": {"enabled": False}, **sections})


def test_a_typed_call_by_name():
    with Manager(Ask, Answer) as manager:
        manager.register(shout)
        assert manager.execute("shout", Ask("hello")) == Answer("HELLO")
        result = manager.execute_result("shout", Ask("hello"), ExecutionContext(request_id="mine"))
        assert (result.value, result.attempts, result.source, result.request_id) == (
            Answer("HELLO"),
            1,
            "plugin",
            "mine",
        )
        assert result.member == "shout"
        assert manager.submit("shout", Ask("x")).result(5) == Answer("X")


def test_keywords_override_the_context_and_the_context_overrides_the_configuration(manager):
    plugin = Recorder()
    manager.register(plugin, quiet(connection={"request_timeout": 7}, retry={"idempotent": True}))
    context = ExecutionContext(timeout=5, idempotent=False, key="k", headers={"A": "1", "B": "1"}, metadata={"m": "1"})
    manager.execute("recorder", 1)
    manager.execute("recorder", 1, context)
    manager.execute("recorder", 1, context, timeout=2, idempotent=True, key="other", headers={"B": "2"})
    plain, seen, overridden = plugin.contexts
    assert (plain.timeout, plain.idempotent, plain.key) == (pytest.approx(7, abs=0.5), True, "")
    assert (seen.timeout, seen.idempotent, seen.key) == (pytest.approx(5, abs=0.5), False, "k")
    assert (overridden.timeout, overridden.idempotent, overridden.key) == (pytest.approx(2, abs=0.5), True, "other")
    assert overridden.headers == {"A": "1", "B": "2"}
    assert overridden.metadata == {"m": "1"}
    assert len({c.request_id for c in plugin.contexts}) == 3


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5", True])
def test_invalid_timeouts_are_rejected(manager, timeout):
    manager.register(Recorder())
    with pytest.raises(InvalidArgumentError, match="timeout: expected seconds greater than 0"):
        manager.execute("recorder", 1, timeout=timeout)


def test_an_enclosing_deadline_bounds_calls_submits_and_batches(manager):
    plugin = Recorder()
    manager.register(plugin)
    with deadline(0.5):
        manager.execute("recorder", 1, timeout=60)
        manager.submit("recorder", 1).result(5)
        list(manager.map("recorder", [1]))
    assert len(plugin.contexts) == 3
    assert all(context.timeout <= 0.5 for context in plugin.contexts)


def test_nested_calls_are_bounded_by_the_outer_calls_own_deadline(manager):
    plugin = Recorder()
    manager.register(plugin)

    @serve.plugin(name="outer")
    def outer(request: int) -> int:
        return manager.execute("recorder", request, timeout=60)

    manager.register(outer)
    assert manager.execute("outer", 1, timeout=0.7) == 1
    assert plugin.contexts[0].timeout <= 0.7


def test_known_fault_request_ids_repeated():
    seen, lock = set(), threading.Lock()
    managers = [Manager() for _ in range(4)]

    def draw(manager):
        mine = {manager._dispatcher._next_id() for _ in range(20_000)}
        with lock:
            assert seen.isdisjoint(mine)
            seen.update(mine)

    threads = [threading.Thread(target=draw, args=(manager,)) for manager in managers * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 160_000


def test_the_error_for_an_unknown_name_has_a_suggestion(manager):
    with pytest.raises(PluginNotFoundError, match="known names: none yet"):
        manager.execute("auth", 1)
    manager.register(Recorder("auth-service"))
    with pytest.raises(PluginNotFoundError, match="did you mean 'auth-service'") as caught:
        manager.execute("auth-servce", 1)
    assert isinstance(caught.value, LookupError)
    for call in (manager.get_plugin, manager.unregister, manager.explain, lambda n: manager.submit(n, 1)):
        with pytest.raises(PluginNotFoundError):
            call("nobody")


def test_names_are_unique(manager):
    manager.register(Recorder())
    with pytest.raises(DuplicatePluginNameError, match="there is a plugin 'recorder' already"):
        manager.register(Recorder())
    manager.register(Recorder(), name="other")
    assert set(manager.list_plugins()) == {"recorder", "other"}


def test_an_object_without_the_methods_of_a_plugin_is_rejected(manager):
    with pytest.raises(InvalidArgumentError, match="lacks info, execute, health, close"):
        manager.register(object(), name="x")
    with pytest.raises(InvalidArgumentError, match="lacks create_plugin"):
        manager.register_factory("x", object())


def test_an_exception_of_a_python_plugin_is_translated(manager):
    def fail(request, context):
        raise request

    manager.register(Recorder(function=fail))
    for raised, expected in (
        (ZeroDivisionError("x"), PluginInternalError),
        (TimeoutError("x"), PluginTimeoutError),
        (PluginExecutionError("no"), PluginExecutionError),
    ):
        with pytest.raises(expected) as caught:
            manager.execute("recorder", raised)
        assert caught.value.plugin == "recorder"


def test_an_error_in_info_hides_no_error_of_the_call(manager):
    def fail(request, context):
        def say_nothing():
            raise ZeroDivisionError

        plugin.info = say_nothing
        raise PluginExecutionError("no", plugin="another")

    plugin = Recorder(function=fail)
    manager.register(plugin)
    with pytest.raises(PluginInternalError, match="its call of 'another' failed: no"):
        manager.execute("recorder", 1)


def test_an_error_of_a_nested_call_is_not_the_outer_plugins(manager):
    manager.register(FakeSender(*[PluginConnectionError("refused")] * 50), quiet("inner", retry={"max_retries": 0}))
    outer = Recorder("outer", lambda request, context: manager.execute("inner", request))
    manager.register(outer)
    with pytest.raises(PluginInternalError, match="its call of 'inner' failed: refused") as caught:
        manager.execute("outer", 1)
    assert isinstance(caught.value.__cause__, PluginConnectionError)
    assert len(outer.contexts) == 1


def test_types_must_come_in_pairs_and_as_arguments():
    with pytest.raises(InvalidArgumentError, match="both"):
        Manager(int)
    subscripted = Manager[int, str]()
    subscripted.register(Recorder())
    with pytest.raises(InvalidArgumentError, match=r"write Manager\(A, B\)"):
        subscripted.execute("recorder", 1)


def test_none_is_a_type_like_any_other():
    """Of an operation whose answer has no body, for instance; only a type that is left out is the manager's own."""
    with Manager(str, None) as manager:
        manager.register(Recorder(function=lambda request, context: None if request == "a" else request))
        assert manager.execute("recorder", "a") is None
        for bound in (manager.bind("recorder"), manager.bind("recorder", str, None)):
            assert bound("a") is None
            with pytest.raises(ReplyTypeError):
                bound("b")
        assert manager.bind("recorder", None, str | None)(None) is None
    assert pickle.loads(pickle.dumps(Manager(str, None)))._codec.response_type is None
    assert pickle.loads(pickle.dumps(Manager()))._codec is None


def test_bind_before_anything_is_registered(manager):
    ask = manager.bind("shout", Ask, Answer)
    with pytest.raises(PluginNotFoundError):
        ask(Ask("x"))
    manager.register(shout)
    assert ask(Ask("x")) == Answer("X")
    assert ask.result(Ask("x"), timeout=2).value == Answer("X")
    assert ask.submit(Ask("x")).result(5) == Answer("X")
    assert list(ask.map([Ask("a"), Ask("b")])) == [Answer("A"), Answer("B")]


def test_get_plugin_returns_the_plugin_without_policies(manager):
    plugin = Recorder()
    manager.register(plugin, quiet(rate_limit={"enabled": True, "burst_size": 1, "requests_per_second": 0.001}))
    assert manager.get_plugin("recorder") is plugin
    manager.execute("recorder", 1)
    with pytest.raises(RateLimitExceededError):
        manager.execute("recorder", 1)
    sender = FakeSender()
    manager.register(sender, name="wire")
    assert manager.get_plugin("wire").execute(1, ExecutionContext()) == "ok"
    manager.get_plugin("wire").close()
    assert sender.closed == 0


# --- batches -----------------------------------------------------------------------------------------------------


def test_map_yields_in_order_and_reads_requests_within_the_window(manager):
    manager.register(Recorder(function=lambda request, context: request * 2))
    pulled = []

    def source():
        for number in itertools.count():
            pulled.append(number)
            yield number

    results = manager.map("recorder", source(), concurrency=4)
    assert pulled == []
    assert list(itertools.islice(results, 10)) == [n * 2 for n in range(10)]
    assert len(pulled) <= 14


def test_the_first_error_ends_a_map_and_cancels_what_has_not_started():
    with Manager(max_workers=2) as manager:
        ran = []

        def function(request, context):
            ran.append(request)
            if request == 3:
                raise ValueError("three")
            return request

        manager.register(Recorder(function=function))
        results = manager.map("recorder", range(1000))
        with pytest.raises(PluginInternalError, match="three"):
            list(results)
        assert len(ran) < 10


def test_map_results_never_raises_for_an_item(manager):
    def function(request, context):
        if request % 2:
            raise PluginExecutionError("odd")
        return request

    manager.register(Recorder(function=function))
    seen = []
    results = list(manager.map_results("recorder", range(6), on_result=lambda request, result: seen.append(request)))
    assert [result.ok for result in results] == [True, False] * 3
    assert isinstance(results[1].error, PluginExecutionError)
    assert sorted(seen) == list(range(6))
    unordered = manager.map_results("recorder", range(6), ordered=False)
    assert sorted(result.value for result in unordered if result.ok) == [0, 2, 4]
    missing = list(manager.map_results("nobody", range(2)))
    assert all(isinstance(result.error, PluginNotFoundError) for result in missing)


def test_map_waits_for_the_rate_limit_and_takes_a_context_per_item(manager):
    plugin = Recorder()
    manager.register(plugin, quiet(rate_limit={"enabled": True, "burst_size": 2, "requests_per_second": 100}))
    answers = list(manager.map("recorder", range(10), context=lambda n: ExecutionContext(request_id=f"id-{n}")))
    assert answers == list(range(10))
    assert {context.request_id for context in plugin.contexts} == {f"id-{n}" for n in range(10)}


def test_map_waits_when_the_pool_is_full():
    latch = Latch()
    with Manager(max_workers=1, max_queued=1) as manager:
        manager.register(Recorder("slow", lambda request, context: latch(None)))
        manager.register(Recorder())
        blocked = [manager.submit("slow", 1), manager.submit("slow", 1)]
        assert list(manager.map("recorder", range(5))) == list(range(5))
        latch.gate.set()
        assert [future.result(5) for future in blocked] == ["ok", "ok"]


def test_progress(manager):
    manager.register(Recorder())
    counts = []
    list(manager.map("recorder", range(3), progress=counts.append))
    assert counts == [1, 2, 3]


@pytest.mark.parametrize("bad", [{"concurrency": 0}, {"timeout": 0}])
def test_invalid_batch_arguments_are_rejected_at_the_call(manager, bad):
    manager.register(Recorder())
    with pytest.raises(InvalidArgumentError):
        manager.map("recorder", [1], **bad)


def test_a_submitted_calls_deadline_counts_from_its_submission():
    latch = Latch()
    with Manager(max_workers=1) as manager:
        plugin = Recorder()
        manager.register(plugin)
        manager.register(Recorder("slow", lambda request, context: latch(None)))
        first = manager.submit("slow", 1)
        late = manager.submit("recorder", 1, timeout=0.05)
        time.sleep(0.1)
        latch.gate.set()
        with pytest.raises(PluginTimeoutError) as caught:
            late.result(5)
        assert caught.value.attempts == 0
        assert plugin.contexts == []
        assert first.result(5) == "ok"


# --- counts and the end ------------------------------------------------------------------------------------------


def test_known_fault_metrics_were_always_zero(manager):
    manager.register(shout)
    manager.register(Recorder("bad", lambda request, context: 1 / 0))
    for _ in range(3):
        manager.execute("shout", Ask("x"))
    with pytest.raises(PluginInternalError):
        manager.execute("bad", 1)
    counts = manager.metrics()
    assert (counts.requests_total, counts.requests_success, counts.requests_failure) == (4, 3, 1)
    assert counts.request_duration > 0
    assert counts.plugins["bad"].requests_failure == 1
    manager.unregister("bad")
    assert "bad" not in manager.metrics().plugins
    assert manager.metrics().requests_total == 4


def test_health_checks_plugins_with_unknown_health(manager):
    manager.register(Recorder(), quiet())
    assert manager.list_plugins()["recorder"].status is PluginStatus.UNKNOWN
    assert manager.health()["recorder"].status is PluginStatus.HEALTHY
    assert manager.overall_health().status is PluginStatus.HEALTHY


def test_known_fault_shutdown_cut_calls_and_calls_ran_on_closed_plugins():
    latch = Latch()
    plugin = Recorder(function=lambda request, context: latch(None))
    manager = Manager()
    manager.register(plugin)
    calls = [manager.submit("recorder", 1) for _ in range(3)]
    for _ in calls:
        latch.entered.acquire()
    ending = threading.Thread(target=manager.shutdown)
    ending.start()
    while not manager._registry.closed:
        time.sleep(0.001)
    with pytest.raises(ManagerClosedError):
        manager.execute("recorder", 1)
    assert plugin.closed == 0
    latch.gate.set()
    ending.join(5)
    assert [call.result(5) for call in calls] == ["ok"] * 3
    assert plugin.closed == 1
    manager.shutdown()
    for refused in (
        lambda: manager.execute("recorder", 1),
        lambda: manager.register(Recorder()),
        lambda: manager.load_from_config({"plugins": []}),
    ):
        with pytest.raises((ManagerClosedError, ValueError)):
            refused()


def test_shutdown_waits_for_its_timeout_at_most():
    latch = Latch()
    manager = Manager()
    manager.register(Recorder(function=lambda request, context: latch(None)))
    call = manager.submit("recorder", 1)
    latch.entered.acquire()
    started = time.monotonic()
    manager.shutdown(timeout=0.1)
    assert time.monotonic() - started < 1
    latch.gate.set()
    assert call.result(5) == "ok"


def test_a_call_may_unregister_its_own_plugin(manager):
    plugin = Recorder(function=lambda request, context: manager.unregister("recorder"))
    manager.register(plugin)
    assert manager.execute("recorder", 1) is None
    assert plugin.closed == 1
    with pytest.raises(PluginNotFoundError):
        manager.execute("recorder", 1)


def test_a_call_rejected_by_a_replaced_plugin_goes_to_its_successor(manager):
    old, new = Recorder(), Recorder(function=lambda request, context: "new")
    manager.register(old)
    guarded = manager._registry.plugins["recorder"]
    original = guarded.call

    def replaced_meanwhile(call):
        guarded.call = original
        manager.unregister("recorder")
        manager.register(new)
        return original(call)

    guarded.call = replaced_meanwhile
    assert manager.execute("recorder", 1) == "new"


def test_a_call_of_an_unregistered_plugin_is_an_error(manager):
    manager.register(Recorder())
    guarded = manager._registry.plugins["recorder"]
    original = guarded.call

    def removed_meanwhile(call):
        manager.unregister("recorder")
        return original(call)

    guarded.call = removed_meanwhile
    with pytest.raises((PluginClosedError, PluginNotFoundError)):
        manager.execute("recorder", 1)


def test_no_thread_is_left_after_shutdown():
    gc.collect()
    before = set(threading.enumerate())
    with Manager() as manager:
        manager.register(Recorder())
        list(manager.map("recorder", range(100)))
        manager.health()
    until(lambda: all(each in before or "scheduler" in each.name for each in threading.enumerate()))


def test_results_are_values_of_a_generic_type():
    assert CallResult[int](3).value == 3


def test_submitted_calls_are_not_lost_when_the_manager_is_shut_down():
    with Manager(max_workers=2) as manager:
        manager.register(Recorder(function=lambda request, context: time.sleep(0.02) or request))
        futures = [manager.submit("recorder", number) for number in range(10)]
    assert [future.result(0) for future in futures] == list(range(10))


def test_submitted_calls_are_not_lost_when_their_plugin_is_unregistered(manager):
    plugin = Recorder(function=lambda request, context: time.sleep(0.02) or request)
    manager.register(plugin)
    futures = [manager.submit("recorder", number) for number in range(50)]
    manager.unregister("recorder")
    assert [future.result(0) for future in futures] == list(range(50))
    assert plugin.closed == 1


def test_a_cancelled_call_delays_no_other():
    latch = Latch()
    manager = Manager(max_workers=1)
    manager.register(Recorder(function=lambda request, context: latch(None)))
    first, second = manager.submit("recorder", 1), manager.submit("recorder", 2)
    latch.entered.acquire()
    assert second.cancel()
    latch.gate.set()
    started = time.monotonic()
    manager.shutdown()
    assert time.monotonic() - started < 5
    assert first.result(0) == "ok"


def test_an_admitted_call_may_still_call_others_while_the_manager_shuts_down():
    manager = Manager()
    entered, go = threading.Event(), threading.Event()

    def outer(request, context):
        entered.set()
        assert go.wait(5)
        return manager.execute("inner", request) + manager.submit("inner", request).result(5)

    inner = Recorder("inner")
    manager.register(inner)
    manager.register(Recorder("outer", outer))
    call = manager.submit("outer", 2)
    entered.wait(5)
    ending = threading.Thread(target=manager.shutdown)
    ending.start()
    while not manager._registry.closed:
        time.sleep(0.001)
    with pytest.raises(ManagerClosedError):
        manager.execute("inner", 1)
    go.set()
    assert call.result(5) == 4
    ending.join(5)
    assert inner.closed == 1


def test_an_interrupted_shutdown_is_finished_by_the_next_one(monkeypatch):
    latch = Latch()
    plugin = Recorder(function=lambda request, context: latch(None))
    manager = Manager()
    manager.register(plugin)
    call = manager.submit("recorder", 1)
    latch.entered.acquire()
    guarded = manager._registry.plugins["recorder"]

    def interrupted(timeout):
        raise KeyboardInterrupt

    monkeypatch.setattr(guarded, "drain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        manager.shutdown()
    monkeypatch.undo()
    latch.gate.set()
    manager.shutdown()
    assert plugin.closed == 1
    assert call.result(5) == "ok"
    assert manager.metrics().requests_total == 1


def test_counts_never_decrease():
    latch = Latch()
    with Manager() as manager:
        manager.register(Recorder(function=lambda request, context: latch(None) if request else None))
        manager.execute("recorder", 0)
        call = manager.submit("recorder", 1)
        latch.entered.acquire()
        removing = threading.Thread(target=manager.unregister, args=("recorder",))
        removing.start()
        while manager.list_plugins():
            time.sleep(0.001)
        counts = manager.metrics()
        assert (counts.requests_total, counts.active_requests) == (1, 1)
        latch.gate.set()
        removing.join(5)
        counts = manager.metrics()
        assert (counts.requests_total, counts.active_requests) == (2, 0)
        assert call.result(5) == "ok"


def test_short_deadlines_do_not_open_the_breaker():
    clock = ManualClock()
    manager = Manager(clock=clock)

    def slow(request, context):
        clock.advance(min(0.08, context.timeout))
        if context.timeout < 0.08:
            raise TimeoutError
        return request

    manager.register(Recorder(function=slow), quiet(circuit_breaker={"failure_threshold": 2}))
    manager.execute("recorder", 1)
    for _ in range(10):
        with pytest.raises(PluginTimeoutError):
            manager.execute("recorder", 1, timeout=0.03)
    assert manager.metrics().circuit_breaker_trips == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.execute("recorder", 1, 5), "context: expected an ExecutionContext, got a int"),
        (lambda m: m.execute("recorder", 1, {"timeout": 5}), "context: expected an ExecutionContext, got a dict"),
        (lambda m: m.execute("recorder", 1, headers=[("a", "b")]), "headers: expected a mapping, got a list"),
        (lambda m: m.execute(None, 1), "name: expected a string, got a NoneType"),
        (lambda m: list(m.map("recorder", [1], concurrency="4")), "concurrency: expected an integer"),
        (lambda m: list(m.map("recorder", [1], context=lambda r: next(iter(())))), "raised StopIteration"),
    ],
)
def test_invalid_arguments_are_named(manager, call, message):
    manager.register(Recorder())
    with pytest.raises(InvalidArgumentError, match=message):
        call(manager)


@pytest.mark.parametrize("timeout", [float("inf"), 1e12, 10**400])
def test_infinite_timeouts(manager, timeout):
    plugin = Recorder()
    manager.register(plugin)
    manager.execute("recorder", 1, timeout=timeout)
    assert 1e8 < plugin.contexts[0].timeout <= 1e9


def test_batches_after_shutdown_are_an_error():
    manager = Manager()
    manager.shutdown()
    for call in (manager.map, manager.map_results):
        with pytest.raises(ManagerClosedError):
            call("recorder", [1])
    with pytest.raises(ManagerClosedError):
        manager.load_from_config({"plugins": [{"name": "a", "transport": "http", "endpoint": "http://127.0.0.1:1"}]})


def test_a_slow_info_delays_no_call(manager):
    go = threading.Event()

    class Slow(Recorder):
        def info(self):
            assert go.wait(5)
            return super().info()

    registering = threading.Thread(target=manager.register, args=(Slow(),))
    registering.start()
    manager.metrics()
    go.set()
    registering.join(5)
    assert "recorder" in manager.list_plugins()


def test_the_log_level_of_the_application_stays_unless_configured():
    logger = logging.getLogger("goplugins")
    before = logger.level
    try:
        logger.setLevel(logging.ERROR)
        plugin = {"name": "a", "transport": "http", "endpoint": "http://127.0.0.1:1"}
        Manager().load_from_config({"plugins": [plugin]})
        assert logger.level == logging.ERROR
        Manager().load_from_config({"plugins": [plugin], "log_level": "debug"})
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        (PluginConfig(name="x", enabled=False), None, "enabled"),
        (PluginConfig(name="x", retry=RetryConfig(max_retries=-4)), None, "max_retries"),
        (PluginConfig(name="x", rate_limit=RateLimitConfig(requests_per_second=1.0)), None, "rate_limit.enabled"),
        (PluginConfig(name="x", cache=CacheConfig()), None, "cache"),
        (PluginConfig(name="x"), "a b", "name"),
    ],
)
def test_policies_in_code_are_validated(manager, config, name, message):
    with pytest.raises(ConfigError, match=message):
        manager.register(Recorder(), config, name=name)
    assert manager.list_plugins() == {}


def test_settings_that_need_a_missing_package_are_rejected_with_all_problems(monkeypatch):
    monkeypatch.setattr("goplugins.observability.setup.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        Manager().load_from_config(
            {
                "metrics_port": 9090,
                "plugins": [
                    {"name": "a", "transport": "http", "endpoint": "http://127.0.0.1:1", "cache": {}},
                    {"name": "b", "transport": "https", "endpoint": "http://127.0.0.1:1"},
                    {"name": "c", "type": "mine", "transport": "http", "endpoint": "http://127.0.0.1:1"},
                    {"name": "d", "transport": "python", "endpoint": "no.such.module:f"},
                ],
            }
        )
    paths = {problem.path for problem in caught.value.problems}
    assert {"metrics_port", "plugins[0].cache.ttl", "plugins[1].endpoint", "plugins[2].type"} <= paths


def test_an_error_has_the_registered_name(manager):
    @serve.plugin(name="its own name")
    def refuse(request: int) -> int:
        raise serve.Rejected("no")

    manager.register(refuse, name="alias")
    with pytest.raises(PluginExecutionError) as caught:
        manager.execute("alias", 1)
    assert caught.value.plugin == "alias"
