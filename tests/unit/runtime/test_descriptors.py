"""Free descriptors are counted before a library needs them that does not report a lack."""

from __future__ import annotations

import contextlib
import os
import resource

from goplugins.runtime.descriptors import require_descriptors
from tests.processes import run


def required_near_the_limit() -> list[str]:
    """What becomes of several needs in a process with exactly ten free descriptors, then with none."""
    limit = len(os.listdir("/dev/fd")) - 1 + 10  # the listing's own is closed again
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    found = [_outcome(count) for count in (1, 8, 9, 10, 11)]
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.dup(0))
    return [*found, _outcome(1)]


def _outcome(count: int) -> str:
    try:
        require_descriptors(count)
    except OSError as exc:
        return str(exc.strerror)
    return "enough"


def test_a_process_near_its_limit() -> None:
    few = "Too many open files"
    found = run(required_near_the_limit)
    # The listing counts its own descriptor, so that one less is reported than there is.
    assert found == ["enough", "enough", "enough", few, few, few]


def test_a_process_far_from_its_limit() -> None:
    require_descriptors(1)
