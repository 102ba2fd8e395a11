"""The loops behind ``map`` and ``map_results``."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from goplugins.manager.batch import results_of


class Interrupted(Future[int]):
    """Interrupted by Ctrl-C while the caller waits for it."""

    def result(self, timeout: float | None = None) -> int:
        raise KeyboardInterrupt


def test_ctrl_c_cancels_all_calls() -> None:
    started: list[Future[int]] = []

    def start(_: Any) -> Future[int]:
        started.append(Interrupted())
        return started[-1]

    with pytest.raises(KeyboardInterrupt):
        list(results_of(range(9), start, 3, ordered=True))
    assert [future.cancelled() for future in started] == [True] * 3


@pytest.mark.parametrize("ordered", [True, False])
def test_closing_the_results_cancels_calls_that_have_not_started(ordered: bool) -> None:
    started: list[Future[int]] = []

    def start(number: int) -> Future[int]:
        started.append(Future())
        if not number:
            started[0].set_result(7)
        return started[-1]

    results = results_of(range(9), start, 3, ordered=ordered)
    assert next(results) == 7
    results.close()
    assert [future.cancelled() for future in started] == [False, True, True]
