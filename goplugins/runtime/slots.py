"""Slots that are counted by weak references, so that no interrupt leaves one taken."""

from __future__ import annotations

import weakref


class SlotSet(set[weakref.ref[object]]):
    """The slots in use; ``len()`` counts them. A slot is any object with weak references.

    A slot is in use as long as it is referenced. Code that is interrupted at any line (Ctrl-C, a task's time limit)
    and loses its slot has thereby released it, which no ``finally`` clause can promise.

    >>> class Slot:
    ...     pass
    >>> slots, slot = SlotSet(), Slot()
    >>> slots.hold(slot)
    >>> len(slots)
    1
    >>> del slot
    >>> len(slots)
    0
    """

    __slots__ = ()

    def hold(self, *slots: object) -> None:
        """Counts slots in, all or none. To compare with a limit before, hold a lock over both."""
        try:
            # The callback is a C function: an interrupt within one of Python's own would be printed and lost.
            self.update([weakref.ref(slot, self.discard) for slot in slots])
        except BaseException:
            del slots  # or the traceback would refer to them
            raise

    def release(self, slot: object) -> None:
        """Counts a slot out that is still referenced. Harmless when repeated."""
        self.discard(weakref.ref(slot))
