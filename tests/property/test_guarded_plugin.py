"""Retry, deadline and budget together: calls of a guarded plugin with a scripted sender and a manual clock."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections import deque
from itertools import pairwise

import attrs
import hypothesis.strategies as st
from hypothesis import given

from goplugins.errors import (
    BadReplyError,
    CircuitBreakerOpenError,
    ConnectionLostError,
    HTTPTransportError,
    PluginConnectionError,
    PluginError,
    PluginExecutionError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    RateLimitExceededError,
    Replay,
    SaturatedError,
)
from goplugins.pipeline.plugin import GuardedPlugin
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline, deadline as deadline_block
from goplugins.testing import ManualClock
from goplugins.transports.json_codec import codec_for
from tests.unit.pipeline.fakes import FakeSender, plugin_config

MARGIN = 0.005  # minimum time left for an attempt after a backoff

# Outcomes of an attempt, and when it may be retried: always, if idempotent, never.
OUTCOMES = {
    "refused": (lambda _: PluginConnectionError("refused"), "always"),
    "429": (lambda after: PluginThrottledError("429", retry_after=after), "always"),
    "503 with Retry-After": (
        lambda after: PluginUnavailableError("503", replay=Replay.ALWAYS, retry_after=after),
        "always",
    ),
    "503": (lambda _: PluginUnavailableError("503"), "if idempotent"),
    "500": (lambda _: HTTPTransportError("500"), "if idempotent"),
    "reset": (lambda _: ConnectionLostError("reset"), "if idempotent"),
    "late": (lambda _: PluginTimeoutError("late"), "if idempotent"),
    "pushback: stop": (lambda _: PluginUnavailableError("stop", replay=Replay.NEVER), "never"),
    "404": (lambda _: PluginRequestError("404"), "never"),
    "business": (lambda _: PluginExecutionError("no such user"), "never"),
    "garbage": (lambda _: BadReplyError("garbage"), "never"),
    "no connection free": (lambda _: SaturatedError("pool"), "never"),  # nothing was sent
}
UNSENT = "no connection free"

steps = st.tuples(
    st.sampled_from(["ok", *OUTCOMES, *["refused", "429", "500"] * 3]),
    st.sampled_from([0.0, 0.0, 0.01, 0.3, 2.0]),  # duration of the attempt
    st.sampled_from([0.0, 0.02, 0.7, 60.0]),  # its retry_after, if it has one
)


@attrs.frozen
class Plan:
    """One call: its options, and the outcomes of its attempts."""

    pause: float = 0.0
    timeout: float = 30.0
    block: float | None = None
    idempotent: bool = False
    max_retries: int | None = None
    script: tuple = ()


plans = st.builds(
    Plan,
    pause=st.sampled_from([0.0, 0.05, 3.0, 11.0]),
    timeout=st.sampled_from([0.05, 0.3, 1.0, 30.0]),
    block=st.sampled_from([None, None, 0.2, 50.0]),
    idempotent=st.booleans(),
    max_retries=st.sampled_from([None, None, 0, 1, 5]),
    script=st.lists(steps, max_size=7).map(tuple),
)


@attrs.define
class Attempt:
    began: float
    remaining: float  # seconds to the deadline when it was sent
    ended: float = 0.0
    kind: str = ""
    error: PluginError | None = None
    replay: str = ""


class Wire(FakeSender):
    """Ends each attempt as scripted, or at the deadline if that is earlier, as real transports do."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.attempts: list[Attempt] = []

    def send(self, call):
        kind, takes, after = self.script.popleft() if self.script else ("ok", 0.0, 0.0)
        left = call.deadline.remaining()
        attempt = Attempt(self.clock.monotonic(), left)
        self.attempts.append(attempt)
        self.clock.advance(max(0.0, min(takes, left)))
        if takes >= left:
            kind = "late"
        attempt.ended, attempt.kind = self.clock.monotonic(), kind
        if kind == "ok":
            return "ok"
        make, attempt.replay = OUTCOMES[kind]
        attempt.error = make(after)
        raise attempt.error


class Bench:
    """A guarded plugin, and the times of its calls and extra attempts."""

    def __init__(self, spent, **sections):
        self.clock = ManualClock(1000.0)
        self.wire = Wire(self.clock)
        config = plugin_config(**sections)
        self.retry = config.retry
        self.plugin = GuardedPlugin(self.wire, self.wire, config, clock=self.clock, rng=random.Random(1))
        self.budget = self.plugin.pipeline.budget
        self.calls: list[float] = []
        self.extra: list[float] = []  # attempts beyond the first of a call
        for _ in range(spent):
            assert self.budget.withdraw()
            self.extra.append(self.clock.monotonic())

    def make(self, plan):
        """Makes one call; returns it, its attempts and its error. Checks what holds for all calls."""
        self.clock.advance(plan.pause)
        self.wire.script, self.wire.attempts = deque(plan.script), []
        began = self.clock.monotonic()
        call, error = None, None
        with deadline_block(plan.block or 1e6, clock=self.clock):
            limit = Deadline.after(plan.timeout, self.clock)
            call = Call("request", codec_for(), limit, "id", idempotent=plan.idempotent, max_retries=plan.max_retries)
            try:
                assert self.plugin.call(call) == "ok"
            except PluginError as exc:
                error = exc
        attempts = self.wire.attempts
        sent = [attempt for attempt in attempts if attempt.kind != UNSENT]

        assert limit.at <= began + min(plan.timeout, plan.block or 1e6) + 1e-9, (
            "a deadline block only shortens the timeout"
        )
        assert self.clock.monotonic() <= limit.at + 0.1, "no call ends later than its deadline + 100 ms"
        assert all(attempt.remaining > 0 for attempt in attempts), "no attempt starts after the deadline"
        remaining = [int(attempt.remaining * 1000) for attempt in attempts]
        assert all(later < earlier for earlier, later in pairwise(remaining)), "less time at each attempt"
        max_retries = self.retry.max_retries if plan.max_retries is None else plan.max_retries
        assert len(attempts) <= 1 + max_retries
        assert call.attempts == len(sent)
        if error is not None:
            assert error.attempts == len(sent), "the error has the number of attempts"
            assert error.plugin == "fake"
        for before, after in pairwise(attempts):
            assert before.replay == "always" or (before.replay == "if idempotent" and plan.idempotent)
            assert after.began - before.ended >= (before.error.retry_after or 0.0) - 1e-9
        if sent:
            self.calls.append(sent[0].began)
            self.extra += [attempt.began for attempt in attempts[1:]]
        assert self.plugin.tracker.in_flight == 0
        return call, attempts, error

    def check_the_budgets_bound(self):
        moments = sorted(set(self.extra))
        for first, begin in enumerate(moments):
            for end in moments[first:]:
                made = bisect_right(self.extra, end) - bisect_left(self.extra, begin)
                paid = bisect_right(self.calls, end) - bisect_left(self.calls, begin - 10)
                assert made <= self.retry.budget_ratio * paid + 10 * (end - begin + 10) + 1e-3


@given(
    history=st.lists(plans, min_size=1, max_size=8),
    max_retries=st.integers(0, 4),
    initial=st.sampled_from([1e-6, 0.1, 0.5]),
    ratio=st.sampled_from([0.0, 0.2, 1.0]),
    spent=st.sampled_from([0, 98, 99, 100]),
)
def test_a_call_is_retried_exactly_when_it_may_be(history, max_retries, initial, ratio, spent):
    bench = Bench(
        spent,
        retry={
            "max_retries": max_retries,
            "initial_interval": initial,
            "max_interval": 1.0,
            "multiplier": 3.0,
            "random_jitter": False,
            "budget_ratio": ratio,
        },
        circuit_breaker={"enabled": False},
    )
    for plan in history:
        call, attempts, error = bench.make(plan)
        limit = max_retries if plan.max_retries is None else plan.max_retries
        for number, attempt in enumerate(attempts, 1):
            following = attempts[number] if number < len(attempts) else None
            stopped = None if error is None else error.details.get("retry_stopped")
            pause = max(min(initial * 3.0 ** (number - 1), 1.0), 0.002)
            if attempt.error is not None:
                pause = max(pause, attempt.error.retry_after or 0.0)
            if following is not None:
                assert following.began == attempt.ended + pause, "the backoff, or the server's Retry-After"
            elif attempt.kind == "ok":
                assert error is None
            elif attempt.kind == UNSENT and number > 1:
                assert error is attempts[number - 2].error, "a local rejection replaces no error of the plugin"
                assert error.details == {"replay_refused": SaturatedError.code}
            elif attempt.replay == "never" or (attempt.replay != "always" and not plan.idempotent) or number > limit:
                assert error is attempt.error
                assert error.details == {}
            elif pause + MARGIN >= call.deadline.at - attempt.ended:
                assert error is attempt.error
                assert stopped == "deadline"
            else:
                assert error is attempt.error
                assert stopped == "budget"
                assert bench.budget.available < 1
    bench.check_the_budgets_bound()


@given(
    history=st.lists(plans, min_size=1, max_size=14),
    rate=st.sampled_from([None, 1.0, 20.0]),
    max_wait=st.sampled_from([0.0, 0.5]),
    threshold=st.integers(1, 4),
    recovery=st.sampled_from([0.05, 2.0]),
    spent=st.sampled_from([0, 99]),
)
def test_the_same_holds_with_breaker_and_limiter(history, rate, max_wait, threshold, recovery, spent):
    sections = {} if rate is None else {
        "rate_limit": {"enabled": True, "requests_per_second": rate, "burst_size": 2, "max_wait": max_wait}
    }  # fmt: skip
    bench = Bench(
        spent,
        retry={"max_retries": 3, "initial_interval": 0.01, "max_interval": 1.0},
        circuit_breaker={
            "failure_threshold": threshold,
            "min_request_threshold": 1,
            "success_threshold": 2,
            "recovery_timeout": recovery,
        },
        **sections,
    )
    for plan in history:
        _, attempts, error = bench.make(plan)
        if not attempts:
            refused = isinstance(error, CircuitBreakerOpenError | RateLimitExceededError)
            assert refused or (isinstance(error, PluginTimeoutError) and error.details == {})
        elif error is not None and "replay_refused" in error.details:
            # A probe that timed out says that it was one.
            assert attempts[-1].error in (error, error.__cause__) or attempts[-1].kind == UNSENT
    bench.check_the_budgets_bound()
    bench.clock.advance(1e4)
    for _ in range(10):  # time and successes close the breaker
        bench.make(Plan(pause=11.0))
    assert bench.make(Plan(pause=11.0))[2] is None
