"""Single attempts: what their outcome reports to breaker, limiter and health checker."""

import sys
import threading

import pytest

from goplugins import Manager, ReloadOptions
from goplugins.enums import CircuitBreakerState
from goplugins.errors import (
    CircuitBreakerOpenError,
    CircuitBreakerTimeoutError,
    HTTPTransportError,
    PluginClosedError,
    PluginConnectionError,
    PluginRequestError,
    PluginTimeoutError,
    RateLimitExceededError,
    SaturatedError,
)
from goplugins.testing import ManualClock

from .fakes import FakeSender, guarded, make_call

EAGER = {"failure_threshold": 1, "min_request_threshold": 1, "success_threshold": 1}
ONCE = {"max_retries": 0, "random_jitter": False}


class Checker:
    """A health checker that records what is reported to it."""

    status = None

    def __init__(self):
        self.reports = []

    def report_success(self):
        self.reports.append("success")

    def report_failure(self, error):
        self.reports.append(error)

    def shorten_interval(self, interval):
        self.reports.append(("shorten_interval", interval))


class Plugin:
    """A guarded plugin whose attempts take as long as the test says."""

    def __init__(self, start=500.0, **sections):
        self.clock = ManualClock(start)
        self.sender = FakeSender()
        self.guarded = guarded(self.sender, self.clock, **({"retry": ONCE} | sections))
        self.checker = Checker()
        self.guarded.watch_with(self.checker, lambda: None)

    def attempt(self, outcome="ok", takes=0.0, **options):
        def step(call):
            self.clock.advance(takes)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        self.sender.script.append(step)
        return self.guarded.call(make_call(self.clock, **options))

    def fails(self, error, takes=0.0, **options):
        with pytest.raises(type(error)) as caught:
            self.attempt(error, takes, **options)
        return caught.value

    @property
    def breaker(self):
        return self.guarded.pipeline.breaker


def until(condition):
    for _ in range(10_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("the condition was never met")


# --- reports to the health checker ------------------------------------------------------------------------------


def test_failures_are_reported_and_the_first_success_after_one():
    plugin = Plugin(circuit_breaker={"enabled": False})
    plugin.attempt()
    assert plugin.checker.reports == []
    first, second = PluginConnectionError("refused"), HTTPTransportError("500")
    plugin.fails(first)
    plugin.fails(second)
    assert plugin.checker.reports == [first, second]
    plugin.attempt()
    plugin.attempt()
    assert plugin.checker.reports == [first, second, "success"]


def test_outcomes_without_relation_to_the_plugin_are_not_reported():
    plugin = Plugin(circuit_breaker={"enabled": False})
    plugin.fails(PluginRequestError("404"))
    plugin.fails(PluginTimeoutError("late"), takes=0.01)
    plugin.attempt()
    assert plugin.checker.reports == []


def test_attempts_without_a_checker():
    plugin = Plugin(circuit_breaker=EAGER)
    plugin.guarded.watch_with(None, lambda: None)
    plugin.fails(HTTPTransportError("500"))
    assert plugin.breaker.state is CircuitBreakerState.OPEN
    plugin.clock.advance(30.0)
    assert plugin.attempt() == "ok"


@pytest.mark.parametrize(("recovery", "interval"), [(30.0, 30.0), (0.25, 0.25), (0.1, 0.25)])
def test_a_plugin_whose_breaker_is_open_is_checked_more_often(recovery, interval):
    plugin = Plugin(circuit_breaker=EAGER | {"recovery_timeout": recovery})
    error = plugin.fails(HTTPTransportError("500"))
    assert plugin.checker.reports == [("shorten_interval", interval), error]
    plugin.clock.advance(recovery)
    plugin.attempt()
    assert plugin.checker.reports[2:] == [("shorten_interval", interval), ("shorten_interval", None), "success"]


# --- timeouts that do not count against the plugin --------------------------------------------------------------------


@pytest.mark.parametrize(("took", "counts"), [(0.0999, False), (0.1, True)])
def test_a_timeout_counts_from_100_milliseconds_on(took, counts):
    plugin = Plugin(start=0.0, circuit_breaker=EAGER)  # from 0, the difference of two readings is exact
    plugin.fails(PluginTimeoutError("late"), takes=took)
    assert (plugin.breaker.state is CircuitBreakerState.OPEN) is counts


def test_a_first_timeout_after_no_answer_at_all_needs_the_100_milliseconds():
    plugin = Plugin(circuit_breaker=EAGER)
    plugin.fails(PluginTimeoutError("late"), takes=0.05)
    assert plugin.breaker.state is CircuitBreakerState.CLOSED


@pytest.mark.parametrize(("took", "counts"), [(2**-5 - 2**-10, False), (2**-5, True), (2**-4, True)])
def test_a_timeout_counts_from_twice_the_usual_latency_on(took, counts):
    plugin = Plugin(circuit_breaker=EAGER)
    for _ in range(200):
        plugin.attempt(takes=2**-6)
    plugin.fails(PluginTimeoutError("late"), takes=took)
    assert (plugin.breaker.state is CircuitBreakerState.OPEN) is counts


def test_the_first_answer_is_the_usual_latency():
    plugin = Plugin(circuit_breaker=EAGER)
    plugin.attempt(takes=0.04)
    plugin.fails(PluginTimeoutError("late"), takes=0.06)
    assert plugin.breaker.state is CircuitBreakerState.CLOSED
    plugin.fails(PluginTimeoutError("late"), takes=0.09)
    assert plugin.breaker.state is CircuitBreakerState.OPEN


def test_the_usual_latency_follows_slowly():
    plugin = Plugin(circuit_breaker=EAGER)
    for _ in range(50):
        plugin.attempt(takes=0.01)
    for _ in range(3):
        plugin.attempt(takes=0.06)  # 0.01, then a tenth of the way to 0.06 each time: 0.0236
    plugin.fails(PluginTimeoutError("late"), takes=0.046)
    assert plugin.breaker.state is CircuitBreakerState.CLOSED
    plugin.fails(PluginTimeoutError("late"), takes=0.048)
    assert plugin.breaker.state is CircuitBreakerState.OPEN


def test_a_single_slow_answer_is_not_the_usual_one():
    plugin = Plugin(circuit_breaker=EAGER)
    for _ in range(50):
        plugin.attempt(takes=0.01)
    plugin.attempt(takes=1.0)  # 0.109 now
    for _ in range(30):
        plugin.attempt(takes=0.01)
    plugin.fails(PluginTimeoutError("late"), takes=0.06)
    assert plugin.breaker.state is CircuitBreakerState.OPEN


# --- probes -------------------------------------------------------------------------------------------------------


def half_open(plugin):
    plugin.fails(HTTPTransportError("500"))
    plugin.clock.advance(30.0)


def test_a_timeout_of_a_probe_is_an_error_of_its_own_with_the_same_details():
    plugin = Plugin(circuit_breaker=EAGER)
    half_open(plugin)
    late = PluginTimeoutError("no whole reply", details={"sent": True})
    with pytest.raises(CircuitBreakerTimeoutError) as caught:
        plugin.attempt(late, takes=1.0)
    assert caught.value.message == "probing for the circuit breaker: no whole reply"
    assert caught.value.details == {"sent": True}
    assert caught.value.__cause__ is late


def test_other_failures_of_probes_and_other_timeouts_are_raised_unchanged():
    plugin = Plugin(circuit_breaker=EAGER)
    half_open(plugin)
    refused = PluginConnectionError("refused")
    assert plugin.fails(refused) is refused
    calm = Plugin(circuit_breaker={"enabled": False})
    late = PluginTimeoutError("late")
    assert calm.fails(late, takes=1.0) is late


@pytest.mark.parametrize("limited", [False, True])
def test_a_probe_releases_its_permit_at_the_calls_own_deadline(limited):
    limit = {"rate_limit": {"enabled": True, "requests_per_second": 1000, "burst_size": 9}} if limited else {}
    plugin = Plugin(circuit_breaker=EAGER, **limit)
    half_open(plugin)
    seen = []

    def probing(call):
        with pytest.raises(CircuitBreakerOpenError) as caught:
            plugin.guarded.call(make_call(plugin.clock))
        seen.append(caught.value.retry_after)
        return "ok"

    plugin.sender.script.append(probing)
    plugin.guarded.call(make_call(plugin.clock, timeout=4.0))
    assert seen == [4.0]


# --- durations for the rule about slow calls --------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["ok", HTTPTransportError("500"), PluginRequestError("404")], ids=str)
def test_the_breaker_records_how_long_each_attempt_took(outcome):
    slow = {"failure_threshold": 99, "min_request_threshold": 3, "slow_call_duration": 1.0, "slow_call_rate": 1.0}
    for takes, state in ((0.5, CircuitBreakerState.CLOSED), (1.0, CircuitBreakerState.OPEN)):
        plugin = Plugin(circuit_breaker=slow)
        for _ in range(3):
            if outcome == "ok":
                plugin.attempt(takes=takes)
            else:
                plugin.fails(outcome, takes=takes)
        assert plugin.breaker.state is state


# --- events -------------------------------------------------------------------------------------------------------


def attached(plugin, **wanted):
    events = []
    plugin.guarded.events.attach(events.append, calls="none", changes=False, **wanted)
    return events


def test_each_attempt_that_was_sent_emits_an_event_with_number_time_and_outcome():
    retry = {"max_retries": 3, "random_jitter": False, "initial_interval": 1.0, "max_interval": 1.0}
    plugin = Plugin(retry=retry)
    events = attached(plugin)
    refused = PluginConnectionError("refused")
    plugin.sender.script.extend([refused, refused])
    plugin.attempt(takes=0.25)
    assert [(event.attempt, event.elapsed, event.error) for event in events] == [
        (1, 0.0, refused), (2, 0.0, refused), (3, 0.25, None)
    ]  # fmt: skip
    for event in events:
        assert (event.plugin, event.request_id) == ("fake", "id-1")
    assert [event.at - plugin.clock.time() for event in events] == [-2.25, -1.25, 0.0]


def test_a_sink_of_failed_attempts_gets_no_others_and_none_that_was_not_sent():
    plugin = Plugin(circuit_breaker={"enabled": False})
    events = attached(plugin, attempts="failed")
    plugin.attempt()
    for unsent in (SaturatedError("pool"), PluginClosedError("closed"), RateLimitExceededError("limit")):
        plugin.fails(unsent)
    late = plugin.fails(PluginTimeoutError("late"), takes=0.5)
    no = plugin.fails(PluginRequestError("404"))
    assert [(event.attempt, event.elapsed, event.error) for event in events] == [(1, 0.5, late), (1, 0.0, no)]


def test_an_event_names_the_member():
    plugin = Plugin(circuit_breaker={"enabled": False})
    events = attached(plugin)

    def by_a_member(call):
        call.member = "a"
        return "ok"

    plugin.sender.script.append(by_a_member)
    plugin.guarded.call(make_call(plugin.clock))
    plugin.fails(PluginConnectionError("refused", plugin="b"))
    plugin.fails(PluginConnectionError("refused"))
    assert [event.member for event in events] == ["a", "b", ""]


# --- refusals -----------------------------------------------------------------------------------------------------


def test_refusals_are_counted():
    plugin = Plugin(circuit_breaker=EAGER, rate_limit={"enabled": True, "requests_per_second": 0.001, "burst_size": 2})
    plugin.attempt()
    plugin.fails(HTTPTransportError("500"))
    for _ in range(3):
        with pytest.raises(CircuitBreakerOpenError):
            plugin.guarded.call(make_call(plugin.clock))
    plugin.breaker.reset()
    for _ in range(2):
        with pytest.raises(RateLimitExceededError):
            plugin.guarded.call(make_call(plugin.clock))
    counts = plugin.guarded.metrics()
    assert (counts.refused_circuit_breaker, counts.refused_rate_limit) == (3, 2)


@pytest.mark.parametrize("limited", [False, True])
def test_a_permit_lost_between_peek_and_entry_counts_as_refused_and_costs_no_token(limited):
    limit = {"rate_limit": {"enabled": True, "requests_per_second": 0.001, "burst_size": 9}} if limited else {}
    plugin = Plugin(circuit_breaker=EAGER, **limit)
    plugin.fails(HTTPTransportError("500"))
    plugin.breaker.refusal = lambda: None  # as if it had opened just after the peek
    for _ in range(2):
        with pytest.raises(CircuitBreakerOpenError):
            plugin.guarded.call(make_call(plugin.clock))
    assert plugin.guarded.metrics().refused_circuit_breaker == 2
    if limited:
        assert plugin.guarded.pipeline.limiter.tokens == 8.0


def test_a_call_whose_deadline_has_passed_is_not_sent():
    plugin = Plugin()
    call = make_call(plugin.clock, timeout=2.0)
    plugin.clock.advance(2.0)
    with pytest.raises(PluginTimeoutError) as caught:
        plugin.guarded.call(call)
    assert caught.value.message == "the deadline passed before anything was sent"
    assert plugin.sender.sent == []


def test_the_wait_for_a_token_ends_before_the_deadline():
    plugin = Plugin(rate_limit={"enabled": True, "requests_per_second": 1, "burst_size": 1, "max_wait": 60.0})
    plugin.attempt()
    with pytest.raises(RateLimitExceededError):
        plugin.guarded.call(make_call(plugin.clock, timeout=0.5))
    assert plugin.clock.monotonic() == 500.0


def test_closing_ends_the_wait_for_a_token():
    clock = ManualClock(auto_advance=False)
    limit = {"enabled": True, "requests_per_second": 1, "burst_size": 1, "max_wait": 60.0}
    plugin = guarded(FakeSender(), clock, rate_limit=limit)
    plugin.call(make_call(clock))
    caught = []

    def wait():
        with pytest.raises(PluginClosedError) as refusal:
            plugin.call(make_call(clock))
        caught.append(refusal.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    clock.wait_for_waiters(1)
    plugin.reject_calls("it was removed")
    waiting.join(10)
    assert len(caught) == 1


class Factory:
    """Creates senders that answer with their endpoint."""

    def __init__(self):
        self.made = {}

    def create_plugin(self, config):
        self.made[config.endpoint] = FakeSender(default=config.endpoint)
        return self.made[config.endpoint]

    def supported_transports(self):
        return ["unix"]

    def validate_config(self, config): ...


def reloaded(endpoint, **sections):
    limit = {"enabled": True, "requests_per_second": 0.2, "burst_size": 1, "max_wait": 15.0}
    own = {"name": "p", "type": "fake", "transport": "unix", "endpoint": endpoint, "health_check": {"enabled": False}}
    return {"plugins": [{**own, "rate_limit": limit, "retry": {"idempotent": True, "max_retries": 0}, **sections}]}


@pytest.mark.parametrize(
    "sections",
    [{}, {"bulkhead": {"max_concurrent": 5}}, {"hedge": {"enabled": True, "delay": 0.01}}, {"cache": {"ttl": 60}}],
    ids=["plain", "bulkhead", "hedge", "cache"],
)
@pytest.mark.parametrize("way", ["execute", "submit", "map"])
def test_a_call_that_still_waits_for_a_token_after_the_drain_is_made_by_the_successor(way, sections):
    factory, answers = Factory(), []
    with Manager() as manager:
        manager.register_factory("fake", factory)
        manager.load_from_config(reloaded("old", **sections))
        assert manager.execute("p", 0) == "old"  # and the next token is five seconds away
        ways = {
            "execute": lambda: manager.execute("p", 1, timeout=20),
            "submit": lambda: manager.submit("p", 1, timeout=20).result(20),
            "map": lambda: next(iter(manager.map("p", [1], timeout=20))),
        }
        waiting = threading.Thread(target=lambda: answers.append(ways[way]()))
        waiting.start()
        limiter = manager._registry.get("p").pipeline.limiter
        until(lambda: limiter.tokens < 0)
        manager.reload_config(reloaded("new", **sections), options=ReloadOptions(drain_timeout=0.01))
        waiting.join(10)
        assert answers == ["new"]
        assert [len(factory.made[endpoint].sent) for endpoint in ("old", "new")] == [1, 1]


@pytest.mark.parametrize("max_wait", [60.0, 0.0])
def test_a_call_counts_as_not_admitted_while_it_waits_for_its_token(max_wait):
    limit = {"enabled": True, "requests_per_second": 1, "burst_size": 1, "max_wait": max_wait}
    plugin, seen = Plugin(rate_limit=limit), []
    plugin.attempt()
    limiter, acquire = plugin.guarded.pipeline.limiter, plugin.guarded.pipeline.limiter.acquire

    def waiting(*args, **kwargs):
        seen.append(call.admitted)
        acquire(*args, **kwargs)

    limiter.acquire = waiting
    call = make_call(plugin.clock)
    if max_wait:
        plugin.guarded.call(call)
        assert call.admitted is True
    else:
        with pytest.raises(RateLimitExceededError):
            plugin.guarded.call(call)
    assert seen == [False]


def test_a_call_that_waits_for_a_token_when_the_plugin_is_removed_is_refused():
    caught = []
    with Manager() as manager:
        manager.register_factory("fake", Factory())
        manager.load_from_config(reloaded("old"))
        manager.execute("p", 0)

        def wait():
            with pytest.raises(PluginClosedError) as refusal:
                manager.execute("p", 1, timeout=20)
            caught.append(refusal.value)

        waiting = threading.Thread(target=wait)
        waiting.start()
        limiter = manager._registry.get("p").pipeline.limiter
        until(lambda: limiter.tokens < 0)
        manager.unregister("p", drain_timeout=0.01)
        waiting.join(10)
    assert caught[0].message == "it was closed while the call waited for the rate limit"


def test_a_retry_that_waits_for_a_token_when_the_plugin_is_replaced_ends_with_the_plugins_error():
    caught = []
    retry = {"idempotent": True, "max_retries": 3, "initial_interval": 0.001}
    with Manager() as manager:
        factory = Factory()
        manager.register_factory("fake", factory)
        manager.load_from_config(reloaded("old", retry=retry))
        said = HTTPTransportError("500")
        factory.made["old"].script.append(said)

        def wait():
            with pytest.raises(HTTPTransportError) as error:
                manager.execute("p", 1, timeout=20)
            caught.append(error.value)

        waiting = threading.Thread(target=wait)
        waiting.start()
        limiter = manager._registry.get("p").pipeline.limiter
        until(lambda: limiter.tokens < 0)
        manager.reload_config(reloaded("new"), options=ReloadOptions(drain_timeout=0.01))
        waiting.join(10)
        assert caught == [said]
        assert said.details["replay_refused"] == PluginClosedError.code
        assert factory.made["new"].sent == []


def with_another_in_between(number, work, other, within):
    """Runs ``work`` and, before its ``number``-th bytecode, ``other``, as another thread may; False if it has fewer."""
    left = number

    def trace(frame, event, argument):
        nonlocal left
        if not frame.f_code.co_filename.endswith(within):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                other()
        return trace if left >= 0 else None

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = (
        True  # Python 3.12 reports bytecodes only if a frame has this set before settrace()
    )
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return left < 0


@pytest.mark.parametrize("refused", ["by the breaker at the peek", "by the breaker at the entry", "by the limiter"])
def test_a_refusal_is_counted_whatever_another_thread_does_at_the_same_moment(refused):
    plugin = Plugin(circuit_breaker=EAGER, rate_limit={"enabled": True, "requests_per_second": 0.001, "burst_size": 1})
    if refused == "by the limiter":
        plugin.attempt()
    else:
        plugin.breaker.force_open()
    if refused == "by the breaker at the entry":
        plugin.breaker.refusal = lambda: None  # as if it had opened just after the peek
    attempt = plugin.guarded.pipeline.run_as_member

    def make_attempt():
        with pytest.raises((CircuitBreakerOpenError, RateLimitExceededError)):
            attempt(make_call(plugin.clock))

    def refused_so_far():
        counts = plugin.guarded.metrics()
        return counts.refused_circuit_breaker + counts.refused_rate_limit

    number, more = 0, True
    while more:
        before = refused_so_far()
        more = with_another_in_between(number, make_attempt, make_attempt, "goplugins/pipeline/attempts.py")
        assert refused_so_far() - before == 1 + more, f"bytecode {number}"
        number += 1
    assert number > 20
