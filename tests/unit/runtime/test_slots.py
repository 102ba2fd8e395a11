"""Slots that are counted by weak references."""

from __future__ import annotations

import gc

from goplugins.runtime.slots import SlotSet
from tests.interrupts import interrupted_at


class Slot:
    pass


def test_slots_count_while_they_are_referenced() -> None:
    slots, first, second = SlotSet(), Slot(), Slot()
    slots.hold(first, second)
    assert len(slots) == 2
    del first
    assert len(slots) == 1


def test_a_slot_can_be_released_while_it_is_referenced() -> None:
    slots, slot = SlotSet(), Slot()
    slots.hold(slot)
    for _ in range(2):
        slots.release(slot)
        assert len(slots) == 0
    del slot
    gc.collect()
    assert len(slots) == 0


def test_an_interrupt_at_any_point_leaves_no_slot_taken() -> None:
    number = 0
    while True:
        slots = SlotSet()
        if not interrupted_at(number, lambda: slots.hold(Slot(), Slot()), ("goplugins/runtime/slots.py",)):  # noqa: B023
            break
        assert len(slots) == 0
        number += 1
    assert number >= 2  # from Python 3.12 on, a comprehension is no function of its own
