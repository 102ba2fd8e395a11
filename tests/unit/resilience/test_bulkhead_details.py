"""What a bulkhead's block reports of itself, and what a fork of a fork leaves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from goplugins.errors import PluginExecutionError, PluginTimeoutError
from goplugins.resilience import Bulkhead
from goplugins.testing import ManualClock


class Observed(Bulkhead):
    """Notes what its places report when they come back."""

    def release(self, place, elapsed=0.0, ok=None):
        self.seen = (elapsed, ok)
        super().release(place, elapsed, ok)


@pytest.mark.parametrize(
    ("error", "ok"), [(None, True), (PluginTimeoutError("late"), False), (PluginExecutionError("no"), None)], ids=str
)
def test_a_block_tells_how_long_it_took_and_how_it_ended(error, ok):
    clock = ManualClock(500.0)
    bulkhead = Observed(SimpleNamespace(max_concurrent=1), clock=clock)
    try:
        with bulkhead.acquire():
            clock.advance(0.25)
            if error is not None:
                raise error
    except type(error or ValueError()):
        pass
    assert bulkhead.seen == (0.25, ok)
    assert bulkhead.in_use == 0


def test_a_block_whose_end_is_interrupted_gives_its_place_back_all_the_same():
    class Interrupted(Bulkhead):
        def release(self, place, elapsed=0.0, ok=None):
            if elapsed:
                raise KeyboardInterrupt
            super().release(place, elapsed, ok)

    clock = ManualClock()
    bulkhead = Interrupted(SimpleNamespace(max_concurrent=1), clock=clock)
    place = bulkhead.acquire()
    with pytest.raises(KeyboardInterrupt), place:
        clock.advance(1.0)
    assert bulkhead.in_use == 0
    assert place.token is None


def test_a_place_of_the_parent_or_of_its_parent_frees_none_in_the_child():
    bulkhead = Bulkhead(SimpleNamespace(max_concurrent=1))
    places = [bulkhead.acquire()]
    for _ in range(2):
        bulkhead.after_fork_in_child()
        places.append(bulkhead.acquire())
    for place in places[:2]:
        bulkhead.release(place)
    assert bulkhead.in_use == 1
    bulkhead.release(places[2])
    assert bulkhead.in_use == 0
    assert len(bulkhead._free) == 1
