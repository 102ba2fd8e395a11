"""Measures the rows of a group side by side: interleaved rounds, medians, and ratios within one process run."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import attrs

__all__ = ["Call", "Group", "Measured", "Plan", "Ratio", "Result", "compare", "pinned", "quantile"]

Call = Callable[[], object]
"""The timed operation, such as one call."""

_FEWEST_ROUNDS = 5
_MOST_ROUNDS = 200
_REFERENCE = "reference loop"


@attrs.frozen
class Plan:
    """How long to measure. All times are seconds.

    Attributes:
        group: for all rounds of one group.
        batch: for one sample, which is one row in one round.
    """

    group: float
    batch: float


@attrs.frozen
class Ratio:
    """One line of the table of targets: the median of row ``of`` divided by the median of row ``to``.

    Attributes:
        what: the text in the table.
        of: the name of a row.
        to: the name of the peer's row.
        target: the ratio to reach; None if the ratio is printed for information only.
        over: a row whose median is subtracted from both sides first, such as the start of an empty interpreter.
        at_least: True if higher is better, as for calls per second.
    """

    what: str
    of: str
    to: str
    target: float | None = None
    over: str | None = None
    at_least: bool = False


@attrs.frozen
class Measured:
    """Samples of one row: one per round, in the group's unit."""

    name: str
    samples: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@attrs.frozen
class Result:
    """Measured rows of a group. ``missing``: unmeasured rows and why; ``noise``: the spread of the reference loop."""

    group: Group
    rows: dict[str, Measured]
    missing: dict[str, str]
    noise: float | None
    seconds: float


@attrs.define(eq=False)
class Group:
    """Rows that share an environment and are measured against each other.

    Attributes:
        name: the argument on the command line.
        title: the heading in the report.
        environment: context manager of what all rows use, such as a running server.
        unit: the unit of a sample.
        pinned: whether this process and the servers that it starts run on one CPU.
        clock: ``time.perf_counter``, or ``time.thread_time`` for code that never waits, since CPU time is less
            disturbed by other processes of the machine.
        scale: factor from the clock's seconds to ``unit``.
        timing: name of what the clock measures, for the report.
        sampler: takes one sample of a row, if a sample is not the time of a batch of calls.
        rounds: maximum number of rounds.
        notes: further lines of Markdown, printed below the table.
    """

    name: str
    title: str
    environment: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    unit: str = "µs"
    pinned: bool = True
    clock: Callable[[], float] = time.perf_counter
    scale: float = 1e6
    timing: str = "wall time"
    sampler: Callable[[Any, float], float] | None = None
    rounds: int = _MOST_ROUNDS
    notes: Callable[[], Iterator[str]] | None = None
    ratios: Sequence[Ratio] = ()
    rows: dict[str, Callable[[Any], AbstractContextManager[Any]]] = attrs.field(factory=dict)

    def row(self, name: str) -> Callable[[Callable[[Any], Iterator[Any]]], Callable[[Any], Iterator[Any]]]:
        """Adds a row: a generator function that takes the environment, sets up, yields the timed call, cleans up."""

        def add(function: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
            self.rows[name] = contextlib.contextmanager(function)
            return function

        return add

    def measure(self, plan: Plan, rng: random.Random) -> Result:
        """Sets up the rows, then takes one sample of each per round, in random order, until the time is over."""
        started = time.perf_counter()
        missing: dict[str, str] = {}
        with ExitStack() as stack:
            if self.pinned:
                stack.enter_context(pinned())
            environment = stack.enter_context(self.environment())
            subjects: dict[str, Callable[[], float]] = {}
            for name, make in self.rows.items():
                try:
                    subject = stack.enter_context(make(environment))
                    subjects[name] = self._sample(subject, plan)
                    subjects[name]()  # connects, fills caches, fails early
                except Exception as exc:  # noqa: BLE001 - one row that can't be measured must not stop the others
                    subjects.pop(name, None)
                    missing[name] = f"{type(exc).__name__}: {exc}"
            if self.sampler is None:
                subjects[_REFERENCE] = self._sample(_reference, plan)
            samples = _rounds(subjects, missing, plan, rng, self.rounds)
        reference = samples.pop(_REFERENCE, None)
        rows = {name: Measured(name, samples[name]) for name in self.rows if samples.get(name)}
        return Result(self, rows, missing, _spread(reference), time.perf_counter() - started)

    def _sample(self, subject: Any, plan: Plan) -> Callable[[], float]:
        if self.sampler is not None:
            take = self.sampler
            return lambda: take(subject, plan.batch)
        count = _calibrate(subject, plan.batch, self.clock)
        return lambda: _time(subject, count, self.clock) / count * self.scale


def _rounds(
    subjects: dict[str, Callable[[], float]], missing: dict[str, str], plan: Plan, rng: random.Random, most: int
) -> dict[str, list[float]]:
    """One sample of each subject per round. A subject that fails is removed; the others are measured on."""
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    gc.collect()
    gc.freeze()  # the collector skips all objects of the set-up
    try:
        end = time.perf_counter() + plan.group
        for number in range(most):
            if number >= _FEWEST_ROUNDS and time.perf_counter() > end:
                break
            for name in rng.sample(list(subjects), len(subjects)):
                gc.collect()  # so that no row collects the garbage of the row before
                try:
                    samples[name].append(subjects[name]())
                except Exception as exc:  # noqa: BLE001 - see above
                    missing[name] = f"{type(exc).__name__}: {exc}"
                    del subjects[name], samples[name]
    finally:
        gc.unfreeze()
    return samples


def _calibrate(call: Call, seconds: float, clock: Callable[[], float]) -> int:
    """The number of calls that take about ``seconds``; also the warm-up.

    The first call is not timed, and the shorter of two timings counts: a slow first call or one interruption would
    make the batch too small, and a batch of two calls measures cold caches.
    """
    call()
    count = 1
    while True:
        took = min(_time(call, count, clock) for _ in range(2))
        if took >= seconds / 4:
            return max(1, round(count * seconds / took))
        count *= 4


def _time(call: Call, count: int, clock: Callable[[], float]) -> float:
    repeat = range(count)
    start = clock()
    for _ in repeat:
        call()
    return clock() - start


def _reference() -> int:
    """The same work in every round: its time varies only with the load of the machine."""
    return sum(number * number for number in range(200))


def _spread(samples: Sequence[float] | None) -> float | None:
    """Half the distance between the 10th and the 90th percentile, as a share of the median."""
    if not samples:
        return None
    return (quantile(samples, 0.9) - quantile(samples, 0.1)) / 2 / statistics.median(samples)


def quantile(samples: Sequence[float], share: float) -> float:
    """The sample nearest to the quantile ``share``."""
    return sorted(samples)[round(share * (len(samples) - 1))]


def compare(result: Result, ratio: Ratio) -> tuple[float, float, float] | None:
    """The ratio of the two medians, then the 10th and 90th percentile of the ratios within each round."""
    rows = result.rows
    names = [ratio.of, ratio.to] + ([ratio.over] if ratio.over else [])
    if any(name not in rows for name in names):
        return None
    base = rows[ratio.over] if ratio.over else None
    lower = base.median if base else 0.0
    pairs = zip(
        rows[ratio.of].samples,
        rows[ratio.to].samples,
        base.samples if base else [0.0] * len(rows[ratio.of].samples),
        strict=False,
    )
    each = [(own - less) / (peer - less) for own, peer, less in pairs if peer > less]
    if not each or rows[ratio.to].median <= lower:
        return None
    return (
        (rows[ratio.of].median - lower) / (rows[ratio.to].median - lower),
        quantile(each, 0.1),
        quantile(each, 0.9),
    )


@contextlib.contextmanager
def pinned() -> Generator[None, None, None]:
    """Runs this process and those started within the block on one CPU, if the system supports that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})  # the first CPU tends to handle the interrupts
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
