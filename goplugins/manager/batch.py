"""The loops of ``map`` and ``map_results``, with a limited number of calls at a time."""

from __future__ import annotations

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


def results_of(
    items: Iterable[T], start: Callable[[T], Future[R]], window: int, *, ordered: bool
) -> Generator[R, None, None]:
    """Results, of which items are read only while they are iterated, at most ``window`` ahead.

    Args:
        items: may be endless.
        start: starts the call of an item.
        window: calls at a time.
        ordered: in input order; False yields them as they complete.
    """
    source = iter(items)
    done: queue.SimpleQueue[Future[R]] = queue.SimpleQueue()
    pending: dict[Future[R], None] = {}  # in the order of their items
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
                    pending[future] = None
                    if not ordered:
                        future.add_done_callback(done.put)
            if not pending:
                return
            future = next(iter(pending)) if ordered else done.get()
            result = future.result()  # stays in pending, so that an interrupt cancels it as well
            del pending[future]
            yield result
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
