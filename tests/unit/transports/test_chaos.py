"""Injected faults: repeated by seed, timed by the clock, treated by the policies as real ones, and absent when off."""

from __future__ import annotations

import logging
import threading

import pytest

from goplugins.config import ChaosConfig, PluginConfig
from goplugins.config.chaos import FAULTS
from goplugins.enums import PluginStatus, TransportType
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    CircuitBreakerOpenError,
    ConnectionLostError,
    GRPCTransportError,
    HTTPTransportError,
    PluginConnectionError,
    PluginError,
    PluginExecutionError,
    PluginInternalError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    Replay,
    SaturatedError,
)
from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.deadline import CancellableDeadline, Deadline
from goplugins.testing import ManualClock
from goplugins.transports.chaos import ChaosSender, with_chaos
from goplugins.transports.interface import Sender
from tests.unit.pipeline.fakes import FakeSender, guarded, make_call, plugin_config

UNSENT, SENT = ("error", "refuse"), ("reset", "garbage", "hang")


def config_of(transport="http", name="p", **options):
    return PluginConfig(name=name, transport=transport, options=options)


def sender(wire=None, clock=None, *, transport="http", name="p", **chaos):
    chaos.setdefault("seed", 1)
    settings = ChaosConfig(enabled=True, **chaos)
    settings.validate()
    return ChaosSender(wire or FakeSender(), settings, config_of(transport, name), clock=clock or ManualClock())


def outcome(chaos, clock=None, **call):
    """The reply of one attempt, or the class of its error."""
    try:
        return chaos.send(make_call(clock or ManualClock(), **call))
    except PluginError as error:
        return type(error)


def failure(chaos, clock=None, **call):
    with pytest.raises(PluginError) as caught:
        chaos.send(make_call(clock or ManualClock(), **call))
    return caught.value


# --- by seed -------------------------------------------------------------------------------------------------------

ALL = {"latency": 0.3, "delay": (0.1, 0.5), "error": 0.1, "refuse": 0.1, "reset": 0.1, "garbage": 0.1, "hang": 0.1}


def outcomes(count=200, **chaos):
    clock = ManualClock()
    faulty = sender(clock=clock, **{**ALL, **chaos})
    return [(outcome(faulty, clock), round(clock.monotonic(), 9)) for _ in range(count)]


def test_the_same_seed_injects_the_same_faults():
    assert outcomes(seed=7) == outcomes(seed=7)
    assert outcomes(seed=7) != outcomes(seed=8)
    assert outcomes(seed=7) != outcomes(seed=7, name="another")  # plugins of one seed don't fail in step


def test_without_a_seed_each_run_differs_and_names_its_seed(caplog):
    first, second = sender(seed=None, **ALL), sender(seed=None, **ALL)
    assert first.chaos != second.chaos
    seed = int(first.chaos.rpartition("seed ")[2])
    again = sender(seed=seed, **ALL)
    assert [outcome(again) for _ in range(50)] == [outcome(first) for _ in range(50)]


def test_the_nth_attempt_meets_the_same_faults_with_any_number_of_threads():
    def run(threads):
        chaos = sender(**{**ALL, "hang": None, "delay": 0.0})
        begin = threading.Barrier(threads)

        def work():
            begin.wait(5)
            for _ in range(400 // threads):
                outcome(chaos)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(10)
        return chaos.attempts, chaos.counts

    assert run(1) == run(8)
    assert run(1)[0] == 400


def test_shares_are_kept():
    counts = sender_after(2000, latency=0.5, delay=1, error=0.2, refuse=0.1, reset=0.05, garbage=0.05, hang=0.1).counts
    expected = {"latency": 1000, "error": 400, "refuse": 200, "reset": 100, "garbage": 100, "hang": 200, "health": 0}
    assert {name: pytest.approx(count, rel=0.25) for name, count in expected.items()} == counts


def sender_after(attempts, **chaos):
    clock = ManualClock()
    made = sender(clock=clock, **chaos)
    for _ in range(attempts):
        outcome(made, clock)
    return made


def test_shares_of_zero_and_one_are_exact():
    assert sender_after(300, reset=1.0).counts["reset"] == 300
    assert not any(sender_after(300, reset=0.0).counts.values())


def test_the_share_of_late_attempts_does_not_shift_the_faults():
    faults = {
        latency: sender_after(200, latency=latency, delay=1, error=0.3).counts["error"] for latency in (0, 0.5, 1)
    }
    assert len(set(faults.values())) == 1


# --- latency -------------------------------------------------------------------------------------------------------


def test_a_delayed_attempt_waits_on_the_clock_and_is_then_made():
    clock, wire = ManualClock(), FakeSender()
    chaos = sender(wire, clock, latency=1.0, delay=2.0)
    assert chaos.send(make_call(clock)) == "ok"
    assert clock.monotonic() == pytest.approx(2.0)
    assert wire.remaining == [pytest.approx(28.0)]
    assert chaos.counts["latency"] == 1


def test_delays_are_spread_over_the_whole_range():
    clock = ManualClock()
    chaos = sender(clock=clock, latency=0.5, delay=(1.0, 3.0))
    waits = []
    for _ in range(400):
        before = clock.monotonic()
        chaos.send(make_call(clock))
        waits.append(clock.monotonic() - before)
    late = [wait for wait in waits if wait]
    assert 150 < len(late) < 250
    assert 1.0 <= min(late) < 1.2
    assert 2.8 < max(late) <= 3.0
    assert sum(late) / len(late) == pytest.approx(2.0, rel=0.1)


def test_a_delay_beyond_the_deadline_is_a_timeout_at_the_deadline():
    clock, wire = ManualClock(), FakeSender()
    error = failure(sender(wire, clock, latency=1.0, delay=60.0), clock, timeout=5.0)
    assert type(error) is PluginTimeoutError
    assert clock.monotonic() == pytest.approx(5.0)
    assert error.details["chaos"] is True
    assert not wire.sent


def test_a_real_timeout_after_an_injected_delay_mentions_the_delay():
    wire = FakeSender(PluginTimeoutError("timed out waiting for the reply"))
    error = failure(sender(wire, latency=1.0, delay=0.5))
    assert "after an injected latency of 0.500 s" in error.message
    assert error.details["chaos"] is True


def test_another_failure_after_an_injected_delay_is_unchanged():
    real = ConnectionLostError("really")
    assert failure(sender(FakeSender(real), latency=1.0, delay=0.5)) is real
    assert (real.message, real.details) == ("really", {})


# --- what is sent, and what comes back -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", UNSENT)
def test_faults_before_the_attempt_send_nothing(fault):
    wire = FakeSender()
    assert failure(sender(wire, **{fault: 1.0})).details["chaos"] is True
    assert not wire.sent


@pytest.mark.parametrize("fault", SENT)
def test_the_attempt_is_made_and_its_reply_dropped(fault):
    wire = FakeSender()
    assert failure(sender(wire, **{fault: 1.0})).details["chaos"] is True
    assert len(wire.sent) == 1


@pytest.mark.parametrize("fault", SENT)
def test_a_real_failure_is_not_hidden(fault):
    real = SaturatedError("no connection is free")
    chaos = sender(FakeSender(real), **{fault: 1.0})
    assert failure(chaos) is real
    assert "chaos" not in real.details
    assert not chaos.counts[fault]


@pytest.mark.parametrize("fault", SENT)
def test_a_business_error_is_a_reply_and_dropped_as_well(fault):
    wire = FakeSender(PluginExecutionError("no such user"))
    assert failure(sender(wire, **{fault: 1.0})).details["chaos"] is True


def test_metadata_of_a_dropped_reply_is_dropped():
    def answer(call):
        call.reply_metadata = {"rows": "3"}
        return "ok"

    clock = ManualClock()
    call = make_call(clock)
    with pytest.raises(ConnectionLostError):
        sender(FakeSender(answer), clock, reset=1.0).send(call)
    assert call.reply_metadata == {}


def test_a_hanging_attempt_ends_with_its_deadline():
    clock = ManualClock()
    assert type(failure(sender(clock=clock, hang=1.0), clock, timeout=3.0)) is PluginTimeoutError
    assert clock.monotonic() == pytest.approx(3.0)


@pytest.mark.parametrize("chaos", [{"hang": 1.0}, {"latency": 1.0, "delay": 20.0}])
def test_attempts_that_wait_get_the_real_reply_when_chaos_ends(chaos):
    clock = ManualClock(auto_advance=False)
    faulty = sender(clock=clock, **chaos)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(outcome(faulty, clock)))
    thread.start()
    clock.wait_for_waiters(1)
    faulty.end()
    thread.join(5)
    assert answers == ["ok"]
    assert outcome(faulty, clock) == "ok"  # later attempts meet no fault


def test_closing_ends_the_waits_and_closes_the_wire():
    clock, wire = ManualClock(), FakeSender()
    chaos = sender(wire, clock, hang=1.0)
    chaos.close()
    assert wire.closed == 1
    assert outcome(chaos, clock) == "ok"
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize("chaos", [{"hang": 1.0}, {"latency": 1.0, "delay": 20.0}])
def test_a_cancelled_hedged_attempt_ends_at_once(chaos):
    clock = ManualClock(auto_advance=False)
    faulty, cancellation, ends = sender(clock=clock, **chaos), Cancellation(), []
    call = make_call(clock)
    call.deadline = CancellableDeadline(30.0, clock, cancellation)

    def attempt():
        try:
            faulty.send(call)
        except AttemptCancelledError as error:
            ends.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    clock.wait_for_waiters(1)
    cancellation.cancel()
    thread.join(5)
    assert len(ends) == 1


def test_an_interrupted_wait_leaks_nothing():
    class Interrupted(ManualClock):
        def wait(self, waiter, timeout):
            raise KeyboardInterrupt

    chaos = sender(clock=Interrupted(), hang=1.0)
    with pytest.raises(KeyboardInterrupt):
        chaos.send(make_call(ManualClock()))
    chaos.end()
    assert chaos.send(make_call(ManualClock())) == "ok"


# --- the errors, by wire ---------------------------------------------------------------------------------------------

WIRES = ("http", "https", "grpc", "grpc-tls", "unix", "exec", "python")
NEVER, IF_SAFE, ALWAYS = Replay.NEVER, Replay.IF_IDEMPOTENT, Replay.ALWAYS


@pytest.mark.parametrize("transport", WIRES)
@pytest.mark.parametrize(
    ("fault", "kind", "replay"),
    [
        ("refuse", PluginConnectionError, ALWAYS),
        ("reset", ConnectionLostError, IF_SAFE),
        ("garbage", BadReplyError, NEVER),
        ("hang", PluginTimeoutError, IF_SAFE),
    ],
)
def test_a_fault_is_of_the_class_that_the_wire_raises(transport, fault, kind, replay):
    error = failure(sender(transport=transport, **{fault: 1.0}))
    assert type(error) is kind
    assert error.replay is replay
    assert error.details["chaos"] is True
    assert error.message.endswith("(injected)")


@pytest.mark.parametrize(
    ("transport", "status", "kind", "replay"),
    [
        ("http", 500, HTTPTransportError, IF_SAFE),
        ("http", 501, HTTPTransportError, NEVER),
        ("https", 503, PluginUnavailableError, IF_SAFE),
        ("http", 429, PluginThrottledError, ALWAYS),
        ("http", 401, AuthenticationError, NEVER),
        ("http", 404, PluginRequestError, NEVER),
        ("grpc", 500, PluginInternalError, IF_SAFE),
        ("grpc", 502, GRPCTransportError, IF_SAFE),
        ("grpc-tls", 503, PluginUnavailableError, IF_SAFE),
        ("grpc", 429, PluginThrottledError, ALWAYS),
        ("grpc", 504, PluginTimeoutError, IF_SAFE),
        ("grpc", 403, AuthenticationError, NEVER),
        ("grpc", 400, PluginRequestError, NEVER),
        ("unix", 500, PluginInternalError, IF_SAFE),
        ("exec", 503, PluginUnavailableError, IF_SAFE),
        ("unix", 504, PluginTimeoutError, IF_SAFE),
        ("unix", 401, AuthenticationError, NEVER),
        ("exec", 422, PluginRequestError, NEVER),
        ("python", 500, PluginInternalError, IF_SAFE),
    ],
)
def test_an_injected_status_raises_the_error_of_its_transport(transport, status, kind, replay):
    error = failure(sender(transport=transport, error=1.0, status=status))
    assert type(error) is kind
    assert error.replay is replay
    assert error.details["chaos"] is True
    assert error.message.endswith("(injected)")


def test_a_native_grpc_service_fails_with_a_status():
    chaos = ChaosConfig(enabled=True, seed=1, error=1.0)
    native = ChaosSender(FakeSender(), chaos, config_of("grpc", method="/a.B/C"), clock=ManualClock())
    error = failure(native)
    assert type(error) is GRPCTransportError


@pytest.mark.parametrize("transport", WIRES)
def test_retry_after_allows_a_retry_on_every_wire(transport):
    error = failure(sender(transport=transport, error=1.0, status=503, retry_after=2))
    assert type(error) is PluginUnavailableError
    assert (error.retry_after, error.replay) == (2.0, ALWAYS)


# --- policies --------------------------------------------------------------------------------------------------------


def behind_policies(wire, clock, *, retry=None, failures=4, **chaos):
    plugin = guarded(
        wire,
        clock,
        retry={"random_jitter": False, "max_retries": 2, **(retry or {})},
        circuit_breaker={"failure_threshold": failures},
    )
    plugin.replace_sender(lambda present: sender(present, clock, **chaos))
    return plugin


@pytest.mark.parametrize(
    ("chaos", "attempts", "idempotent_attempts", "sent"),
    [
        ({"refuse": 1.0}, 3, 3, 0),
        ({"error": 1.0}, 1, 3, 0),
        ({"error": 1.0, "status": 503}, 1, 3, 0),
        ({"error": 1.0, "status": 503, "retry_after": 1}, 3, 3, 0),
        ({"error": 1.0, "status": 404}, 1, 1, 0),
        ({"reset": 1.0}, 1, 3, 1),
        ({"garbage": 1.0}, 1, 1, 1),
        ({"hang": 1.0}, 1, 1, 1),  # no time is left
    ],
)
def test_retries_treat_a_fault_as_a_real_one(chaos, attempts, idempotent_attempts, sent):
    for idempotent, expected in ((False, attempts), (True, idempotent_attempts)):
        clock, wire = ManualClock(), FakeSender()
        with pytest.raises(PluginError) as caught:
            behind_policies(wire, clock, **chaos).call(make_call(clock, idempotent=idempotent))
        assert caught.value.attempts == expected
        assert len(wire.sent) == sent * expected


def test_a_retry_saves_the_call():
    clock = ManualClock()
    plugin = behind_policies(FakeSender(), clock, refuse=0.5, retry={"max_retries": 9}, failures=100)
    for _ in range(20):
        assert plugin.call(make_call(clock)) == "ok"


@pytest.mark.parametrize("fault", FAULTS)
def test_the_breaker_counts_a_fault_as_a_real_one(fault):
    clock = ManualClock()
    plugin = behind_policies(FakeSender(), clock, retry={"max_retries": 0}, **{fault: 1.0})
    for _ in range(4):
        with pytest.raises(PluginError) as caught:
            plugin.call(make_call(clock))
        assert caught.value.details["chaos"] is True
    with pytest.raises(CircuitBreakerOpenError):
        plugin.call(make_call(clock))


@pytest.mark.parametrize(("status", "kind"), [(404, PluginRequestError), (429, PluginThrottledError)])
def test_statuses_that_the_breaker_ignores_are_ignored_when_injected(status, kind):
    clock = ManualClock()
    plugin = behind_policies(FakeSender(), clock, retry={"max_retries": 0}, error=1.0, status=status)
    for _ in range(10):
        with pytest.raises(kind):
            plugin.call(make_call(clock))


# --- health ----------------------------------------------------------------------------------------------------------


def test_health_checks_meet_no_fault_by_default():
    assert sender(refuse=1.0).health(1.0).status is PluginStatus.HEALTHY


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("error", PluginStatus.UNHEALTHY),
        ("refuse", PluginStatus.OFFLINE),
        ("reset", PluginStatus.OFFLINE),
        ("garbage", PluginStatus.UNHEALTHY),
        ("hang", PluginStatus.OFFLINE),
    ],
)
def test_health_checks_that_fail_have_the_status_of_a_real_failure(fault, status):
    clock = ManualClock()
    chaos = sender(clock=clock, health=True, **{fault: 1.0})
    found = chaos.health(2.0)
    assert found.status is status
    assert "injected" in found.message
    assert clock.monotonic() == (2.0 if fault == "hang" else 0.0)
    assert (chaos.counts["health"], chaos.counts[fault], chaos.attempts) == (1, 0, 0)


def test_a_health_check_is_delayed_within_its_timeout():
    clock = ManualClock()
    chaos = sender(clock=clock, health=True, latency=1.0, delay=1.5)
    assert chaos.health(2.0).status is PluginStatus.HEALTHY
    assert clock.monotonic() == pytest.approx(1.5)
    assert chaos.health(1.0).status is PluginStatus.OFFLINE
    assert clock.monotonic() == pytest.approx(2.5)


def test_health_checks_do_not_shift_the_faults_of_attempts():
    plain, checked = sender(health=True, error=0.5), sender(health=True, error=0.5)
    met = []
    for _ in range(50):
        checked.health(1.0)
        met.append(outcome(checked))
    assert met == [outcome(plain) for _ in range(50)]


# --- off, loud, and out of the way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chaos", [None, ChaosConfig(enabled=False, error=1.0), ChaosConfig(error=1.0)])
def test_a_wire_without_chaos_is_not_wrapped(chaos, caplog):
    wire, config = FakeSender(), PluginConfig(name="p", transport=TransportType.HTTP, chaos=chaos)
    assert with_chaos(wire, config, clock=ManualClock()) is wire
    assert not caplog.records


def test_chaos_in_a_configuration_is_logged(caplog):
    chaos = ChaosConfig(
        enabled=True, seed=7, latency=0.2, delay=(0.1, 2), error=0.05, status=503, retry_after=1, hang=1e-3, health=True
    )
    wrapped = with_chaos(FakeSender(), plugin_config("search", chaos={"enabled": False}), clock=ManualClock())
    assert not caplog.records
    config = PluginConfig(name="search", transport=TransportType.HTTP, chaos=chaos)
    wrapped = with_chaos(FakeSender(), config, clock=ManualClock())
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == [
        (
            "plugin 'search': its configuration has chaos on: latency 20 % (0.1 to 2 s), "
            "error 5 % (status 503, retry after 1 s), hang 0.1 %, health checks included; seed 7"
        )
    ]
    assert wrapped.chaos in caplog.text


def test_layers_describe_those_beneath():
    wire = FakeSender()
    upper = sender(sender(wire, reset=0.5, seed=1), refuse=0.25, seed=2)
    assert upper.chaos == "refuse 25 %; seed 2; reset 50 %; seed 1"
    assert upper.wire is wire


def test_every_fault_is_in_the_debug_log(caplog):
    caplog.set_level(logging.DEBUG, "goplugins.chaos")
    outcome(sender(latency=1.0, delay=1, reset=1.0))
    assert caplog.messages == ["plugin 'p': injected latency", "plugin 'p': injected reset"]


def test_the_layer_passes_on_every_method_of_the_seam():
    own = {name for name in vars(Sender) if not name.startswith("_")}
    assert own - {"watches_credentials"} <= set(vars(ChaosSender))

    class Sweeping(FakeSender):
        watches_credentials = True
        swept = 0

        def sweep(self):
            self.swept += 1

    wire = Sweeping()
    layer = sender(wire, reset=1.0)
    layer.sweep()
    assert wire.swept == 1
    assert layer.watches_credentials


def test_prepare_and_info_are_those_of_the_wire():
    chaos, call = sender(reset=1.0), make_call(ManualClock())
    chaos.prepare(call)
    assert call.payload == b'"request"'
    assert chaos.info().name == "fake"


def test_health_checks_ignore_the_callers_deadline():
    from goplugins import deadline

    clock = ManualClock()
    with deadline(0.5, clock=clock):
        sender(clock=clock, health=True, hang=1.0).health(2.0)
    assert clock.monotonic() == pytest.approx(2.0)
    assert Deadline(2.0, clock).remaining() == pytest.approx(0.0)
