"""``goplugins bench``: calls one plugin as often as possible for some seconds, and reports rate and latencies."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.cli._common import Column, has_rich, manager_of, new_command, write_table
from goplugins.cli._figures import NONE, amount, duration, share
from goplugins.contrib._commands import OPERATION_HELP, request_of
from goplugins.errors import InvalidArgumentError, PluginError
from goplugins.models.metrics import Latencies, PluginMetrics
from goplugins.runtime.clock import SYSTEM_CLOCK, Event
from goplugins.runtime.text import counted, printable

if TYPE_CHECKING:
    from goplugins.manager.manager import Manager

_PERCENTILES = (50, 90, 95, 99, 99.9)

_PAUSE = 0.01
"""Seconds that a caller waits after a failed call: calls that fail at once would outnumber all others."""

_STEP = 0.1
"""Seconds between two updates of the progress bar."""


@attrs.frozen
class Result:
    """The result of a measurement.

    Attributes:
        seconds: duration of the measurement.
        concurrency: concurrent callers.
        calls: calls that ended in that time.
        failed: calls that failed.
        attempts: attempts that were sent.
        latencies: latencies of the calls that were sent.
        errors: number of failed calls, by code.
    """

    seconds: float
    concurrency: int
    calls: int
    failed: int
    attempts: int
    latencies: Latencies
    errors: Mapping[str, int]

    @classmethod
    def between(cls, before: PluginMetrics, after: PluginMetrics, seconds: float, concurrency: int) -> Result:
        """The difference of two snapshots."""
        errors = {code: count - before.errors.get(code, 0) for code, count in after.errors.items()}
        return cls(
            seconds,
            concurrency,
            after.requests_total - before.requests_total,
            after.requests_failure - before.requests_failure,
            after.attempts_total - before.attempts_total,
            after.latencies.since(before.latencies),
            {code: count for code, count in errors.items() if count > 0},
        )

    def as_json(self) -> str:
        """The result as JSON, durations in seconds."""
        values = {
            "seconds": round(self.seconds, 3),
            "concurrency": self.concurrency,
            "calls": self.calls,
            "failed": self.failed,
            "attempts": self.attempts,
            "calls_per_second": round(self.calls / self.seconds, 3),
            "latency": {f"p{each}": self.latencies.percentile(each) for each in _PERCENTILES},
            "errors": dict(self.errors),
        }
        return json.dumps(values, indent=2)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``bench``."""
    parser = new_command(commands, "bench", "measure how fast a plugin answers", _execute, config=True)
    parser.add_argument("name", metavar="NAME", help="name of the plugin or group")
    parser.add_argument("request", metavar="JSON", nargs="?", default="null", help="the request (default: null)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="N", help="duration of the measurement in seconds (default: 5)"
    )
    parser.add_argument(
        "--warmup", type=float, default=0.5, metavar="N", help="seconds of calls before it (default: 0.5)"
    )
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="concurrent callers (default: 1)")
    parser.add_argument("--operation", metavar="NAME", help=OPERATION_HELP)
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="timeout of each call")
    parser.add_argument("--json", action="store_true", help="write JSON")


def _execute(arguments: argparse.Namespace) -> int:
    """Calls a plugin as often as possible for some seconds, with the policies of the file, such as its rate limit.

    Exit code: 0 if any call was answered, 1 if none was. Ctrl-C ends the measurement early.
    """
    if not (arguments.seconds > 0 and arguments.warmup >= 0 and 1 <= arguments.concurrency <= 1000):
        raise InvalidArgumentError("expected --seconds above 0, --warmup of 0 or more, --concurrency from 1 to 1000")
    request = request_of(arguments.request)
    with manager_of(arguments.config) as manager:
        manager.explain(arguments.name)  # raises if no plugin has that name
        result = _measure(manager, arguments, request)
    if arguments.json:
        sys.stdout.write(result.as_json() + "\n")
    else:
        _write(arguments.name, result)
    return 0 if result.calls > result.failed else 1


def _measure(manager: Manager[Any, Any], arguments: argparse.Namespace, request: Any) -> Result:
    name, stop = arguments.name, Event()
    wrong: list[InvalidArgumentError] = []

    def work() -> None:
        while not stop.is_set():
            try:
                manager.execute(name, request, timeout=arguments.timeout, operation=arguments.operation)
            except InvalidArgumentError as exc:  # such as an unknown operation: so would be each call
                wrong.append(exc)
                stop.set()
            except PluginError:  # counted by the manager
                SYSTEM_CLOCK.wait(stop, _PAUSE)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(arguments.concurrency)]
    try:
        for thread in threads:
            thread.start()
        seconds = arguments.seconds
        try:
            SYSTEM_CLOCK.wait(stop, arguments.warmup)
        except KeyboardInterrupt:
            nothing = manager.metrics().plugins[name]
            return Result.between(nothing, nothing, 1e-6, arguments.concurrency)
        before, began = manager.metrics().plugins[name], SYSTEM_CLOCK.monotonic()
        with contextlib.suppress(KeyboardInterrupt), _progress(name, seconds) as advance:
            while (left := began + seconds - SYSTEM_CLOCK.monotonic()) > 0 and not stop.is_set():
                SYSTEM_CLOCK.wait(stop, min(left, _STEP))
                advance(SYSTEM_CLOCK.monotonic() - began)
        after, took = manager.metrics().plugins[name], SYSTEM_CLOCK.monotonic() - began
    finally:
        stop.set()
    if wrong:
        raise wrong[0]
    return Result.between(before, after, max(took, 1e-6), arguments.concurrency)


@contextlib.contextmanager
def _progress(name: str, seconds: float) -> Iterator[Any]:
    """A progress bar on stderr, if that is a terminal and rich is installed."""
    if not (has_rich() and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"calling {printable(name)}".replace("[", "\\["), total=seconds)
        yield lambda done: progress.update(task, completed=done)


def _write(name: str, result: Result) -> None:
    answered = result.calls - result.failed
    failed = f", {result.failed} failed ({share(result.failed / result.calls)})" if result.failed else ""
    callers = counted(result.concurrency, "caller")
    sys.stdout.write(
        f"{printable(name)}: {amount(answered / result.seconds)} answers/s; "
        f"{counted(result.calls, 'call')} in {result.seconds:.1f} s by {callers}{failed}\n\n"
    )
    columns: tuple[Column, ...] = tuple((f"p{each}", True) for each in _PERCENTILES)
    found = result.latencies
    times = [duration(found.percentile(each)) if found.counts else NONE for each in _PERCENTILES]
    write_table(columns, [[(each, "bold") for each in times]])
    if result.errors:
        sys.stdout.write("\n")
        rows = sorted(result.errors.items(), key=lambda item: -item[1])
        write_table((("error", False), ("calls", True)), [[(code, "red"), (str(count), "")] for code, count in rows])
