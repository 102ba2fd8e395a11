"""Calls of a REST service, then calls of plugins that are slow, failing, killed and overloaded.

Each line that starts with "ok" is a check; the exit code is 1 if a check fails.
"""

import os
import secrets
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from messages import AuthRequest, AuthResponse, Book, BookId, QuoteRequest, QuoteResponse
from processes import PluginProcess

from goplugins import (
    CircuitBreakerOpenError,
    CircuitBreakerState,
    Manager,
    PluginConnectionError,
    PluginError,
    PluginExecutionError,
    PluginRequestError,
    PluginTimeoutError,
    RateLimitExceededError,
)
from goplugins.testing import inject

HERE = Path(__file__).parent
checks: list[bool] = []


def title(text: str) -> None:
    print(f"\n{text}")


def check(text: str, passed: bool) -> None:
    print(f"  {'ok ' if passed else 'FAILED'} {text}", flush=True)
    checks.append(passed)


def timed(call: Callable[[], object]) -> tuple[Any, float]:
    """The value that a call returned or the error that it raised, and its time in milliseconds."""
    start = time.perf_counter()
    try:
        outcome = call()
    except PluginError as error:
        outcome = error
    return outcome, (time.perf_counter() - start) * 1e3


def rest_service(manager: Manager[Any, Any]) -> None:
    title("1. A REST service that was not written for goplugins (books.py); plugins.yaml names its operations")
    get = manager.bind("books", BookId, Book | None, operation="get")
    book, first = timed(lambda: get(BookId(3)))
    check(f"GET /books/3 is {book!r}, in {first:.1f} ms with the connection set-up", book == Book(3, "Middlemarch"))
    missing, _ = timed(lambda: get(BookId(99)))
    check(f"GET /books/99 answers HTTP 404, which the configuration expects: {missing}", missing is None)
    result = get.result(BookId(5))
    check(
        f"GET /books/5 answers HTTP 503 with Retry-After: 0.1, twice: {result.value!r} after {result.attempts} attempts"
        f" in {result.elapsed:.1f} s",
        result.attempts == 3 and result.value == Book(5, "Villette"),
    )
    before = manager.metrics().plugins["books"].attempts_total
    titles = [each.title for each in manager.bind("books", dict[str, Any], list[Book], operation="list").pages({})]
    requests = manager.metrics().plugins["books"].attempts_total - before
    check(f"pages: {', '.join(titles)}: {len(titles)} books in {requests} requests", (len(titles), requests) == (7, 3))
    add = manager.bind("books", dict[str, str], Book, operation="add")
    refused, _ = timed(lambda: add({"title": ""}))
    check(f"a refusal is one error, with the service's words: {refused}", isinstance(refused, PluginRequestError))
    misspelt, _ = timed(lambda: manager.execute("books", {"id": 3}, operation="gets"))
    check(f"what can't be sent is refused here: {misspelt}", isinstance(misspelt, PluginError))


def typed_calls(manager: Manager[Any, Any]) -> None:
    title("2. A typed call of a plugin over HTTP")
    auth = manager.bind("auth", AuthRequest, AuthResponse)
    answer, first = timed(lambda: auth(AuthRequest("ada", "open sesame")))
    check(
        f"{answer!r} in {first:.1f} ms, including the connection set-up", answer == AuthResponse(True, "welcome, ada")
    )
    times = [timed(lambda: auth(AuthRequest("ada", "open sesame")))[1] for _ in range(200)]
    median = statistics.median(times)
    check(f"200 more calls on the same connection: {median:.2f} ms each (median)", median < 50)
    rejected, _ = timed(lambda: auth(AuthRequest("eve", "let me in")))
    check(f"a call rejected by the plugin raises its error: {rejected}", isinstance(rejected, PluginExecutionError))


def deadline(manager: Manager[Any, Any]) -> None:
    title("3. Timeout: the plugin takes 3 s, the call has timeout=0.5")
    slow = manager.bind("slow", QuoteRequest, QuoteResponse)
    outcome, took = timed(lambda: slow(QuoteRequest("ACME"), timeout=0.5))
    check(
        f"raised {type(outcome).__name__} after {took:.0f} ms", isinstance(outcome, PluginTimeoutError) and took < 600
    )


def retries(manager: Manager[Any, Any]) -> None:
    title("4. Retries: the plugin answers HTTP 503 twice, then works")
    flaky = manager.bind("flaky", QuoteRequest, QuoteResponse)
    result = flaky.result(QuoteRequest("ACME"))
    check(
        f"idempotent: {result.value!r} after {result.attempts} attempts in {result.elapsed * 1e3:.0f} ms",
        result.attempts == 3 and result.value == QuoteResponse("ACME", 12_345),
    )
    outcome, _ = timed(lambda: flaky(QuoteRequest("ACME"), idempotent=False))
    check(
        f"not idempotent: one attempt, then {outcome}",
        isinstance(outcome, PluginError) and outcome.attempts == 1,
    )


def breaker(manager: Manager[Any, Any], process: PluginProcess) -> None:
    title("5. Circuit breaker: the process of the plugin is killed")
    quotes = manager.bind("quotes", QuoteRequest, QuoteResponse)
    quotes(QuoteRequest("ACME"))
    process.kill()
    failed = 0
    while manager.explain("quotes").breaker is CircuitBreakerState.CLOSED and failed < 20:
        outcome, _ = timed(lambda: quotes(QuoteRequest("ACME")))
        failed += isinstance(outcome, PluginConnectionError)
    attempts = manager.metrics().plugins["quotes"].attempts_total - 1
    check(f"the circuit breaker opens after {attempts} failed attempts to connect", 1 <= failed <= 3 and attempts == 3)
    rejections = [timed(lambda: quotes(QuoteRequest("ACME"))) for _ in range(100)]
    cost = statistics.median(took for _, took in rejections) * 1e3
    check(
        f"100 more calls are rejected without an attempt, in {cost:.0f} microseconds each (median)",
        all(isinstance(outcome, CircuitBreakerOpenError) for outcome, _ in rejections) and cost < 500,
    )
    print("      " + str(manager.explain("quotes")).replace("\n", "\n      "))
    process.start()
    start = time.perf_counter()
    outcome = None
    while not isinstance(outcome, QuoteResponse) and time.perf_counter() - start < 5:
        outcome, _ = timed(lambda: quotes(QuoteRequest("ACME")))
        time.sleep(0.01)
    waited = time.perf_counter() - start
    check(
        f"the process is started again; calls succeed {waited:.1f} s after it listens: {outcome!r}",
        isinstance(outcome, QuoteResponse) and manager.explain("quotes").breaker is CircuitBreakerState.CLOSED,
    )


def rate_limit(manager: Manager[Any, Any]) -> None:
    title("6. Rate limit: 30 calls at once, allowed are 20 per second in bursts of 10")
    metered = manager.bind("metered", QuoteRequest, QuoteResponse)
    start = time.perf_counter()
    outcomes = [timed(lambda: metered(QuoteRequest("ACME")))[0] for _ in range(30)]
    seconds = time.perf_counter() - start
    answered = sum(isinstance(outcome, QuoteResponse) for outcome in outcomes)
    rejected = [outcome for outcome in outcomes if isinstance(outcome, RateLimitExceededError)]
    wait = rejected[0].retry_after if rejected else None
    check(
        f"{answered} answered, {len(rejected)} rejected at once; the first error has retry_after={wait:.3f} s",
        len(rejected) + answered == 30 and 10 <= answered <= 10 + 20 * seconds + 1,
    )
    start = time.perf_counter()
    results = list(metered.map([QuoteRequest("ACME")] * 20))
    seconds = time.perf_counter() - start
    check(f"map() waits for the rate limiter: {len(results)} answers in {seconds:.1f} s", 0.4 <= seconds < 3)


def group(manager: Manager[Any, Any], processes: list[PluginProcess]) -> None:
    title("7. Load balancing: one name, three instances; 200 calls from 6 threads per line, calls by instance")
    stock = manager.bind("stock", QuoteRequest, QuoteResponse)
    names = [f"stock@{process.addresses[0].removeprefix('http://').rstrip('/')}" for process in processes]
    print("      " + ", ".join(f"{letter} is {name}" for letter, name in zip("ABC", names, strict=True)))
    print(f"      {'':36}" + "".join(f"{letter:>7}" for letter in "ABC") + "   failed")

    def round_of_calls(label: str) -> tuple[list[int], int]:
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(lambda _: timed(lambda: stock.result(QuoteRequest("ACME")))[0], range(200)))
        failed = sum(isinstance(result, PluginError) for result in results)
        served = Counter(result.member for result in results if not isinstance(result, PluginError))
        counts = [served[name] for name in names]
        print(f"      {label:36}" + "".join(f"{count:7}" for count in counts) + f"{failed:9}", flush=True)
        return counts, failed

    before, failed = round_of_calls("all healthy")
    for _ in range(2):  # on a busy machine the instances are not equally fast, and the shares follow that
        if min(before) <= 30 and not failed:
            before, failed = round_of_calls("all healthy, again")
    check("each instance gets its share of the calls, no call failed", min(before) > 30 and not failed)
    with inject(manager, names[1], latency=1.0, delay=0.2):
        slowed, failed = round_of_calls("B answers 200 ms late")
    check("B gets less than a fifth of an equal share, no call failed", slowed[1] < 200 / 3 / 5 and not failed)
    processes[2].kill()
    killed, failed = round_of_calls("C is killed")
    check(f"C served {killed[2]} calls, no call failed", killed[2] <= 5 and not failed)
    print("      " + str(manager.explain("stock")).replace("\n", "\n      "))
    processes[2].start()
    start = time.perf_counter()
    while time.perf_counter() - start < 2:
        timed(lambda: stock(QuoteRequest("ACME")))
        time.sleep(0.005)
    after, failed = round_of_calls("B is fast, C is restarted, 2 s later")
    check(
        "C gets calls again; B gets few until its measured latency has decayed, in tens of seconds",
        after[2] > 30 and not failed,
    )


def every_transport(manager: Manager[Any, Any]) -> None:
    title("8. One plugin over each transport (median of 200 calls)")
    for transport in ("python", "exec", "unix", "grpc", "http"):
        echo = manager.bind(f"echo-{transport}", QuoteRequest, QuoteResponse)
        call = partial(echo, QuoteRequest("ACME"))
        answer, first = timed(call)
        median = statistics.median(timed(call)[1] for _ in range(200))
        check(f"{transport:7}{median:8.2f} ms    first call {first:7.1f} ms", answer == QuoteResponse("ACME", 4))


def start_plugins(sockets: str) -> dict[str, PluginProcess]:
    """Starts a process for each plugin; sets the environment variables with their addresses that plugins.yaml reads."""
    http = ["--http", "127.0.0.1:0"]
    processes = {
        "books": PluginProcess("books.py", HERE, http),
        "auth": PluginProcess("services:auth", HERE, http, token_variable="DEMO_TOKEN"),
        "slow": PluginProcess("services:slow", HERE, http),
        "flaky": PluginProcess("services:flaky", HERE, http),
        "quotes": PluginProcess("services:quotes", HERE, http),
        **{f"stock_{letter}": PluginProcess("services:stock", HERE, http) for letter in "abc"},
        "echo": PluginProcess("services:echo", HERE, [*http, "--grpc", "127.0.0.1:0", "--unix", f"{sockets}/echo"]),
    }
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda process: process.start(), processes.values()))
    except BaseException:
        stop_plugins(processes)
        raise
    os.environ |= {f"{name.upper()}_URL": process.addresses[0] for name, process in processes.items()}
    web, grpc, _ = processes["echo"].addresses
    os.environ |= {"ECHO_HTTP": web, "ECHO_GRPC": grpc, "ECHO_SOCKET": f"{sockets}/echo"}
    os.environ |= {"PYTHON": sys.executable, "DEMO_DIR": str(HERE)}
    return processes


def stop_plugins(processes: dict[str, PluginProcess]) -> None:
    for process in processes.values():
        process.stop()


def main() -> int:
    os.environ["DEMO_TOKEN"] = secrets.token_hex(8)
    started = time.perf_counter()
    sockets = tempfile.TemporaryDirectory()
    processes = start_plugins(sockets.name)
    print(f"{len(processes)} processes started in {time.perf_counter() - started:.1f} s.")
    try:
        with Manager() as manager:
            manager.load_from_config(HERE / "plugins.yaml")
            rest_service(manager)
            typed_calls(manager)
            deadline(manager)
            retries(manager)
            breaker(manager, processes["quotes"])
            rate_limit(manager)
            group(manager, [processes[f"stock_{letter}"] for letter in "abc"])
            every_transport(manager)
            counts = manager.metrics()
        title("9. Metrics of the manager")
        for name, plugin in counts.plugins.items():
            print(
                f"      {name:24} {plugin.requests_success:4} ok {plugin.requests_failure:4} failed"
                f" {plugin.attempts_total:5} attempts {plugin.circuit_breaker_trips:2} breaker trips"
            )
        check(
            f"{counts.requests_total} calls (those to stock count for the group and for its members);"
            f" {counts.refused_circuit_breaker} rejected by open circuit breakers",
            counts.requests_total == counts.requests_success + counts.requests_failure
            and counts.refused_circuit_breaker >= 100,
        )
    finally:
        stop_plugins(processes)
        sockets.cleanup()
    took = time.perf_counter() - started
    failed = checks.count(False)
    summary = f"{failed} of {len(checks)} checks FAILED" if failed else f"All {len(checks)} checks passed"
    print(f"\n{summary} in {took:.1f} s.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
