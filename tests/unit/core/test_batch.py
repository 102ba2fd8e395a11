"""The loops behind ``map`` and ``map_results``."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from goplugins.manager.batch import as_completed, in_order


class Interrupted(Future[int]):
    """Ctrl-C comes while it is waited for."""

    def result(self, timeout: float | None = None) -> int:
        raise KeyboardInterrupt


def test_ctrl_c_cancels_also_the_call_that_is_waited_for() -> None:
    started: list[Future[int]] = []

    def start(_: Any) -> Future[int]:
        started.append(Interrupted())
        return started[-1]

    with pytest.raises(KeyboardInterrupt):
        list(in_order(range(9), start, 3))
    assert [future.cancelled() for future in started] == [True] * 3


@pytest.mark.parametrize("loop", [in_order, as_completed])
def test_leaving_early_cancels_what_has_not_started(loop: Any) -> None:
    started: list[Future[int]] = []

    def start(number: int) -> Future[int]:
        started.append(Future())
        if not number:
            started[0].set_result(7)
        return started[-1]

    results = loop(range(9), start, 3)
    assert next(results) == 7
    results.close()
    assert [future.cancelled() for future in started] == [False, True, True]
