"""Edges of the retries: exact moments, and what is not even begun."""

from __future__ import annotations

import logging
import sys

import pytest

from goplugins.config import RetryConfig
from goplugins.errors import PluginConnectionError, PluginExecutionError, PluginUnavailableError
from goplugins.resilience import RetryPolicy
from goplugins.runtime.callbacks import run_callback
from goplugins.testing import ManualClock

CALM = RetryConfig(initial_interval=0.125, random_jitter=False)


class Remaining:
    """A deadline that says what it is told to say."""

    def __init__(self, *seconds):
        self.seconds = list(seconds)

    def remaining(self):
        return self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]


def never():
    pytest.fail("an attempt was made")


def test_a_policy_of_its_own_draws_its_own_jitter():
    delays = {RetryPolicy(RetryConfig(initial_interval=1.0)).delay(1) for _ in range(20)}
    assert len(delays) > 1
    assert all(0.9 <= delay <= 1.1 for delay in delays)


def test_a_call_is_not_idempotent_unless_it_says_so():
    error = PluginUnavailableError("503")
    with pytest.raises(PluginUnavailableError):
        RetryPolicy(CALM).run(error, never, clock=ManualClock())


@pytest.mark.parametrize(
    ("error", "retries"),
    [(PluginConnectionError("refused"), 0), (PluginExecutionError("no"), 3), (PluginExecutionError("no"), 0)],
)
def test_where_nothing_is_replayed_tenacity_is_not_even_imported(monkeypatch, error, retries):
    monkeypatch.setitem(sys.modules, "tenacity", None)  # importing it fails
    with pytest.raises(type(error)) as caught:
        RetryPolicy(CALM).run(error, never, max_retries=retries, clock=ManualClock())
    assert caught.value is error
    assert error.details == {}


def test_a_backoff_that_ends_exactly_five_milliseconds_before_the_deadline_reaches_it():
    error = PluginConnectionError("refused")
    with pytest.raises(PluginConnectionError):
        RetryPolicy(CALM).run(error, never, deadline=Remaining(0.125 + 0.005), clock=ManualClock())
    assert error.details == {"retry_stopped": "deadline"}


def test_a_wait_that_ends_exactly_at_the_deadline_sends_nothing():
    error = PluginConnectionError("refused")
    with pytest.raises(PluginConnectionError):
        RetryPolicy(CALM).run(error, never, deadline=Remaining(9.0, 0.0), clock=ManualClock())
    assert error.details == {"retry_stopped": "deadline"}


def test_a_budget_of_exactly_one_pays_for_a_replay():
    class One:
        available = 1.0

        def withdraw(self):
            return True

    assert RetryPolicy(CALM).run(PluginConnectionError("no"), lambda: "ok", budget=One(), clock=ManualClock()) == "ok"


def test_the_log_names_the_callback_that_failed(caplog):
    def page_the_operator():
        raise RuntimeError("pager is down")

    with caplog.at_level(logging.ERROR, "goplugins.resilience"):
        run_callback(page_the_operator)
    (record,) = caplog.records
    assert record.getMessage() == f"a callback failed: {page_the_operator!r}"
    assert record.exc_info[0] is RuntimeError


def test_a_hosts_exception_passes_through_a_callback():
    limit = type("SoftTimeLimitExceeded", (Exception,), {"__module__": "celery.exceptions"})

    def interrupted():
        raise limit

    with pytest.raises(limit):
        run_callback(interrupted)
