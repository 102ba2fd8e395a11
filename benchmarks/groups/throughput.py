"""Calls per second of many threads that share one manager or one connection pool."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import attrs

from benchmarks.groups.http import envelope_of, http_manager, urllib3_pool
from benchmarks.harness import Call, Group, Ratio
from benchmarks.messages import question_of
from benchmarks.server import Server, running_server

__all__ = ["GROUP", "ROWS", "THREADS"]

THREADS = (1, 4, 16, 64)
_BATCHES = 20  # a sample lasts this many times the batch time: threads need time to start


@attrs.frozen
class _Workers:
    call: Call
    threads: int


def _ours(threads: int) -> str:
    return f"goplugins, threads: {threads}"


def _urllib3(threads: int) -> str:
    return f"urllib3, threads: {threads}"


ROWS = {"goplugins": [_ours(threads) for threads in THREADS], "urllib3": [_urllib3(threads) for threads in THREADS]}
"""Names of the rows by library, in the order of THREADS."""


def _calls_per_second(workers: _Workers, batch: float) -> float:
    """One sample: all threads start together and call until the time is over."""
    seconds = batch * _BATCHES
    counts: list[int] = []
    failures: list[BaseException] = []
    begin = threading.Barrier(workers.threads + 1)
    over = threading.Event()

    def work() -> None:
        call, is_over, count = workers.call, over.is_set, 0
        begin.wait()
        try:
            while not is_over():
                call()
                count += 1
        except Exception as exc:  # noqa: BLE001 - raised on the measuring thread, below
            failures.append(exc)
        counts.append(count)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers.threads)]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(counts) / (time.perf_counter() - started)


GROUP = Group(
    name="throughput",
    title="HTTP, 64 bytes: calls per second",
    environment=functools.partial(running_server, 64),
    unit="calls/s",
    pinned=False,
    timing="wall time",
    sampler=_calls_per_second,
    ratios=tuple(
        Ratio(
            f"HTTP, calls/s of {threads} thread{'s' * (threads > 1)} vs urllib3",
            _ours(threads),
            _urllib3(threads),
            4.0 if threads == 16 else None,
            at_least=True,
        )
        for threads in THREADS
    ),
)


def _goplugins_row(threads: int) -> None:
    @GROUP.row(_ours(threads))
    def _(server: Server) -> Iterator[_Workers]:
        question = question_of(server.size)
        with http_manager(server, max_connections=threads, max_idle_connections=threads) as peer:
            yield _Workers(lambda: peer(question), threads)


def _urllib3_row(threads: int) -> None:
    @GROUP.row(_urllib3(threads))
    def _(server: Server) -> Iterator[_Workers]:
        question, headers = question_of(server.size), {"Content-Type": "application/json"}
        pool = urllib3_pool(server, maxsize=threads, block=True)

        def call() -> Any:
            body = json.dumps(envelope_of(question)).encode()
            reply = pool.urlopen("POST", server.path, body=body, headers=headers, retries=False)
            return json.loads(reply.data)

        with contextlib.closing(pool):
            yield _Workers(call, threads)


for _threads in THREADS:
    _goplugins_row(_threads)
    _urllib3_row(_threads)
