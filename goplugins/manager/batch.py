"""The loops of ``map`` and ``map_results``, with a limited number of calls at a time."""

from __future__ import annotations

import collections
import queue
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Any, TypeVar

from goplugins.errors import InvalidArgumentError
from goplugins.models.results import CallResult

T = TypeVar("T")
R = TypeVar("R")
Progress = bool | Callable[[int], object] | None


def in_order(items: Iterable[T], start: Callable[[T], Future[R]], window: int) -> Generator[R, None, None]:
    """Results in input order. Items are read only while the results are iterated, at most ``window`` ahead."""
    source = iter(items)
    pending: collections.deque[Future[R]] = collections.deque()
    exhausted = False
    try:
        while True:
            while not exhausted and len(pending) < window:
                try:
                    item = next(source)
                except StopIteration:
                    exhausted = True
                else:
                    pending.append(start(item))
            if not pending:
                return
            result = pending[0].result()  # stays in pending, so that an interrupt cancels it as well
            pending.popleft()
            yield result
    finally:
        for future in pending:
            future.cancel()


def as_completed(items: Iterable[T], start: Callable[[T], Future[R]], window: int) -> Generator[R, None, None]:
    """Results as they complete. Items are read only while the results are iterated, at most ``window`` ahead."""
    source = iter(items)
    done: queue.SimpleQueue[Future[R]] = queue.SimpleQueue()
    pending: set[Future[R]] = set()
    exhausted = False
    try:
        while True:
            while not exhausted and len(pending) < window:
                try:
                    item = next(source)
                except StopIteration:
                    exhausted = True
                else:
                    future = start(item)
                    pending.add(future)
                    future.add_done_callback(done.put)
            if not pending:
                return
            future = done.get()
            pending.discard(future)
            yield future.result()
    finally:
        for future in pending:
            future.cancel()


def values(results: Generator[CallResult[R], None, None]) -> Iterator[R]:
    """The values of the results; the first error is raised, and cancels calls that have not started."""
    with closing(results):
        for result in results:
            yield result.value


def reporting(results: Generator[R, None, None], progress: Progress, total: int | None) -> Generator[R, None, None]:
    """The same results, with a report of how many have completed.

    Args:
        results: the results of a batch.
        progress: True for a tqdm bar (needs tqdm), a function that takes the count so far, or None.
        total: the number of results, if known.

    Raises:
        InvalidArgumentError: at once, if tqdm is needed and not installed.
    """
    if not progress:
        return results
    return _counting(results, progress) if callable(progress) else _with_bar(results, _bar(), total)


def _counting(results: Generator[R, None, None], progress: Callable[[int], object]) -> Generator[R, None, None]:
    with closing(results):
        for count, result in enumerate(results, start=1):
            progress(count)
            yield result


def _with_bar(
    results: Generator[R, None, None], bar: Callable[..., Any], total: int | None
) -> Generator[R, None, None]:
    with closing(results), bar(total=total) as shown:
        for result in results:
            shown.update(1)
            yield result


def _bar() -> Callable[..., Any]:
    try:
        from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]
    except ImportError as exc:
        raise InvalidArgumentError(
            "progress=True needs tqdm: pip install tqdm, or pass a function that takes the count so far"
        ) from exc
    bar: Callable[..., Any] = tqdm
    return bar
