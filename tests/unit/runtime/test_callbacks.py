"""run_callback: exceptions of callbacks are logged, those of the host pass."""

from __future__ import annotations

import logging

import pytest

from goplugins.runtime.callbacks import run_callback


def test_an_exception_is_logged_with_the_callback(caplog):
    def page_the_operator():
        raise RuntimeError("pager is down")

    with caplog.at_level(logging.ERROR, "goplugins.resilience"):
        run_callback(page_the_operator)
    (record,) = caplog.records
    assert record.getMessage() == f"a callback failed: {page_the_operator!r}"
    assert record.exc_info[0] is RuntimeError


def test_an_exception_of_the_host_passes():
    limit = type("SoftTimeLimitExceeded", (Exception,), {"__module__": "celery.exceptions"})

    def interrupted():
        raise limit

    with pytest.raises(limit):
        run_callback(interrupted)
