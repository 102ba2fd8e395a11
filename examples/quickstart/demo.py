"""A typed call over HTTP, then the same manager in front of plugins that are slow, failing, dead and busy.

Every line that this prints is checked; the exit code is 1 if one is not true.
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

from messages import AuthRequest, AuthResponse, QuoteRequest, QuoteResponse
from processes import PluginProcess

from goplugins import (
    CircuitBreakerOpenError,
    CircuitBreakerState,
    Manager,
    PluginConnectionError,
    PluginError,
    PluginExecutionError,
    PluginTimeoutError,
    RateLimitExceededError,
)
from goplugins.testing import inject

HERE = Path(__file__).parent
false_claims: list[str] = []


def title(text: str) -> None:
    print(f"\n{text}")


def claim(text: str, true: bool) -> None:
    print(f"  {'ok ' if true else 'NOT TRUE'} {text}", flush=True)
    if not true:
        false_claims.append(text)


def timed(call: Callable[[], object]) -> tuple[Any, float]:
    """What a call returned or raised, and its milliseconds."""
    start = time.perf_counter()
    try:
        outcome = call()
    except PluginError as error:
        outcome = error
    return outcome, (time.perf_counter() - start) * 1e3


def typed_calls(manager: Manager[Any, Any]) -> None:
    title("1. A typed call")
    auth = manager.bind("auth", AuthRequest, AuthResponse)
    answer, first = timed(lambda: auth(AuthRequest("ada", "open sesame")))
    claim(f"{answer!r} in {first:.1f} ms, connecting included", answer == AuthResponse(True, "welcome, ada"))
    times = [timed(lambda: auth(AuthRequest("ada", "open sesame")))[1] for _ in range(200)]
    median = statistics.median(times)
    claim(f"200 more on the kept connection: {median:.2f} ms each (median)", median < 50)
    refused, _ = timed(lambda: auth(AuthRequest("eve", "let me in")))
    claim(f"a business error keeps its text: {refused}", isinstance(refused, PluginExecutionError))


def deadline(manager: Manager[Any, Any]) -> None:
    title("2. A plugin that takes 3 s, called with timeout=0.5")
    slow = manager.bind("slow", QuoteRequest, QuoteResponse)
    outcome, took = timed(lambda: slow(QuoteRequest("ACME"), timeout=0.5))
    claim(
        f"raised {type(outcome).__name__} after {took:.0f} ms", isinstance(outcome, PluginTimeoutError) and took < 600
    )


def retries(manager: Manager[Any, Any]) -> None:
    title("3. A plugin that answers 503 twice before it works, declared idempotent")
    flaky = manager.bind("flaky", QuoteRequest, QuoteResponse)
    result = flaky.result(QuoteRequest("ACME"))
    claim(
        f"{result.value!r} after {result.attempts} attempts in {result.elapsed * 1e3:.0f} ms",
        result.attempts == 3 and result.value == QuoteResponse("ACME", 12_345),
    )
    outcome, _ = timed(lambda: flaky(QuoteRequest("ACME"), idempotent=False))
    claim(
        f"declared not idempotent, it is sent once: {outcome}",
        isinstance(outcome, PluginError) and outcome.attempts == 1,
    )


def breaker(manager: Manager[Any, Any], process: PluginProcess) -> None:
    title("4. A plugin whose process is killed")
    quotes = manager.bind("quotes", QuoteRequest, QuoteResponse)
    quotes(QuoteRequest("ACME"))
    process.kill()
    failed = 0
    while manager.explain("quotes").breaker is CircuitBreakerState.CLOSED and failed < 20:
        outcome, _ = timed(lambda: quotes(QuoteRequest("ACME")))
        failed += isinstance(outcome, PluginConnectionError)
    attempts = manager.metrics().plugins["quotes"].attempts_total - 1
    claim(f"after {attempts} failed attempts to connect its breaker opens", 1 <= failed <= 3 and attempts == 3)
    refusals = [timed(lambda: quotes(QuoteRequest("ACME"))) for _ in range(100)]
    cost = statistics.median(took for _, took in refusals) * 1e3
    claim(
        f"100 more are refused in {cost:.0f} microseconds each (median)",
        all(isinstance(outcome, CircuitBreakerOpenError) for outcome, _ in refusals) and cost < 500,
    )
    print("      " + str(manager.explain("quotes")).replace("\n", "\n      "))
    process.start()
    start = time.perf_counter()
    outcome = None
    while not isinstance(outcome, QuoteResponse) and time.perf_counter() - start < 5:
        outcome, _ = timed(lambda: quotes(QuoteRequest("ACME")))
        time.sleep(0.01)
    waited = time.perf_counter() - start
    claim(
        f"it comes back and is used again {waited:.1f} s later: {outcome!r}",
        isinstance(outcome, QuoteResponse) and manager.explain("quotes").breaker is CircuitBreakerState.CLOSED,
    )


def rate_limit(manager: Manager[Any, Any]) -> None:
    title("5. A burst of 30 calls against a limit of 20 per second and bursts of 10")
    metered = manager.bind("metered", QuoteRequest, QuoteResponse)
    start = time.perf_counter()
    outcomes = [timed(lambda: metered(QuoteRequest("ACME")))[0] for _ in range(30)]
    seconds = time.perf_counter() - start
    answered = sum(isinstance(outcome, QuoteResponse) for outcome in outcomes)
    refused = [outcome for outcome in outcomes if isinstance(outcome, RateLimitExceededError)]
    wait = refused[0].retry_after if refused else None
    claim(
        f"{answered} answered, {len(refused)} refused at once; the first was told to come back in {wait:.3f} s",
        len(refused) + answered == 30 and 10 <= answered <= 10 + 20 * seconds + 1,
    )
    start = time.perf_counter()
    results = list(metered.map([QuoteRequest("ACME")] * 20))
    seconds = time.perf_counter() - start
    claim(f"map() waits for the limiter instead: {len(results)} answers in {seconds:.1f} s", 0.4 <= seconds < 3)


def group(manager: Manager[Any, Any], processes: list[PluginProcess]) -> None:
    title("6. One name, three instances: 200 calls each time from 6 threads, served by")
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

    before, failed = round_of_calls("all well")
    claim("all three have their share, no call failed", min(before) > 30 and not failed)
    with inject(manager, names[1], latency=1.0, delay=0.2):
        slowed, failed = round_of_calls("B answers 200 ms late")
    claim("the slow one gets less than a fifth of a fair share", slowed[1] < 200 / 3 / 5 and not failed)
    processes[2].kill()
    killed, failed = round_of_calls("C is killed")
    claim(f"C had {killed[2]} calls, and not one call failed", killed[2] <= 5 and not failed)
    print("      " + str(manager.explain("stock")).replace("\n", "\n      "))
    processes[2].start()
    start = time.perf_counter()
    while time.perf_counter() - start < 2:
        timed(lambda: stock(QuoteRequest("ACME")))
        time.sleep(0.005)
    after, failed = round_of_calls("B and C are well, 2 s later")
    claim(
        "C serves again; B has few until its slow answers are forgotten, in tens of seconds",
        after[2] > 30 and not failed,
    )


def every_transport(manager: Manager[Any, Any]) -> None:
    title("7. One plugin, called over every transport (median of 200 calls)")
    for transport in ("python", "exec", "unix", "grpc", "http"):
        echo = manager.bind(f"echo-{transport}", QuoteRequest, QuoteResponse)
        call = partial(echo, QuoteRequest("ACME"))
        answer, first = timed(call)
        median = statistics.median(timed(call)[1] for _ in range(200))
        claim(f"{transport:7}{median:8.2f} ms    first call {first:7.1f} ms", answer == QuoteResponse("ACME", 4))


def start_plugins(sockets: str) -> dict[str, PluginProcess]:
    """A process for each plugin; their addresses go into the environment, for plugins.yaml."""
    http = ["--http", "127.0.0.1:0"]
    processes = {
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
    print(f"Eight plugins serve, each in a process of its own (ready in {time.perf_counter() - started:.1f} s).")
    try:
        with Manager() as manager:
            manager.load_from_config(HERE / "plugins.yaml")
            typed_calls(manager)
            deadline(manager)
            retries(manager)
            breaker(manager, processes["quotes"])
            rate_limit(manager)
            group(manager, [processes[f"stock_{letter}"] for letter in "abc"])
            every_transport(manager)
            counts = manager.metrics()
        title("8. What the manager counted")
        for name, plugin in counts.plugins.items():
            print(
                f"      {name:24} {plugin.requests_success:4} ok {plugin.requests_failure:4} failed"
                f" {plugin.attempts_total:5} attempts {plugin.circuit_breaker_trips:2} breaker trips"
            )
        claim(
            f"{counts.requests_total} calls (those of stock for the group and for its members);"
            f" breakers refused {counts.refused_circuit_breaker} attempts",
            counts.requests_total == counts.requests_success + counts.requests_failure
            and counts.refused_circuit_breaker >= 100,
        )
    finally:
        stop_plugins(processes)
        sockets.cleanup()
    took = time.perf_counter() - started
    print(f"\n{'All of this is true' if not false_claims else 'NOT ALL OF THIS IS TRUE'}; it took {took:.1f} s.")
    return 1 if false_claims else 0


if __name__ == "__main__":
    sys.exit(main())
