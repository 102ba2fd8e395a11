"""The cache with configuration, manager and real servers."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from goplugins import (
    CacheConfig,
    CircuitBreakerOpenError,
    ExecutionContext,
    Manager,
    PluginConfig,
    PluginExecutionError,
    PluginTimeoutError,
    PluginUnavailableError,
    serve,
)
from tests.processes import in_child, run
from tests.servers import RawServer, http_reply, ok
from tests.timing import until

CACHE = {"ttl": "1m", "stale_if_error": "1h"}


@attrs.define
class Price:
    item: str
    tags: list[str]


class Shop:
    """A plugin that counts its requests and whose behaviour a test sets."""

    def __init__(self):
        self.requests = 0
        self.lock = threading.Lock()
        self.behave = lambda request: None

        @serve.plugin(name="shop")
        def shop(request: str) -> serve.Reply[Price]:
            with self.lock:
                self.requests += 1
            self.behave(request)
            return serve.Reply(Price(request, ["a"]), metadata={"currency": "EUR"})

        self.plugin = shop


@pytest.fixture
def shop():
    return Shop()


def manager_for(server, **sections):
    sections.setdefault("cache", CACHE)
    sections.setdefault("retry", {"max_retries": 0, "idempotent": True})
    plugin = {"name": "shop", "transport": "http", "endpoint": server.url, "health_check": {"enabled": False}}
    manager = Manager(str, Price)
    manager.load_from_config({"plugins": [plugin | sections], "log_level": "error"})
    return manager


@pytest.mark.stress
def test_ten_thousand_identical_calls_from_200_threads_reach_the_server_once(shop):
    shop.behave = lambda request: time.sleep(0.3)
    start = threading.Barrier(200)
    answers = []

    with serve.start(shop.plugin, "http://127.0.0.1:0") as server, manager_for(server) as manager:

        def work():
            start.wait(30)
            for _ in range(50):
                answers.append(manager.execute_result("shop", "pen"))

        threads = [threading.Thread(target=work) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        metrics = manager.metrics()
    assert shop.requests == 1
    assert len(answers) == 10_000
    assert {(answer.value.item, tuple(answer.value.tags)) for answer in answers} == {("pen", ("a",))}
    assert sorted({answer.source for answer in answers}) == ["cache", "plugin"]
    assert sum(answer.attempts for answer in answers) == 1
    assert {answer.metadata["currency"] for answer in answers} == {"EUR"}
    assert metrics.requests_success == 10_000
    assert metrics.attempts_total == 1
    assert metrics.cache_hits + metrics.cache_misses == 10_000
    assert metrics.cache_coalesced == metrics.cache_misses - 1


def test_callers_do_not_share_cached_objects(shop):
    with serve.start(shop.plugin, "http://127.0.0.1:0") as server, manager_for(server) as manager:
        for _ in range(3):
            price = manager.execute("shop", "pen")
            assert price == Price("pen", ["a"])
            price.tags.append("changed")


def test_only_idempotent_calls_use_the_cache(shop):
    with (
        serve.start(shop.plugin, "http://127.0.0.1:0") as server,
        manager_for(server, retry={"max_retries": 0}) as manager,
    ):
        sources = [manager.execute_result("shop", "pen", idempotent=each).source for each in (None, True, True, False)]
    assert sources == ["plugin", "plugin", "cache", "plugin"]


def test_key_and_named_headers_distinguish_calls(shop):
    cache = {**CACHE, "vary_headers": ["Accept-Language"]}
    with serve.start(shop.plugin, "http://127.0.0.1:0") as server, manager_for(server, cache=cache) as manager:
        for _ in range(2):
            manager.execute("shop", "pen", key="a")
            manager.execute("shop", "pen", key="b")
            manager.execute("shop", "pen", headers={"accept-language": "de"})
            manager.execute("shop", "pen", headers={"Accept-Language": "de", "X-Trace": str(os.urandom(4))})
    assert shop.requests == 3


def test_bound_plugins_of_other_types_have_entries_of_their_own(shop):
    with serve.start(shop.plugin, "http://127.0.0.1:0") as server, manager_for(server) as manager:
        plain = manager.bind("shop", str, dict)
        assert manager.execute("shop", "pen") == Price("pen", ["a"])
        assert plain("pen") == {"item": "pen", "tags": ["a"]}
        assert manager.execute("shop", "pen") == Price("pen", ["a"])


def test_stale_entries_are_used_while_the_server_is_down_only(shop):
    cache = {"ttl": "50ms", "stale_if_error": "1h"}
    with serve.start(shop.plugin, "http://127.0.0.1:0") as server:
        manager = manager_for(server, cache=cache, circuit_breaker={"failure_threshold": 3, "recovery_timeout": "1h"})
        assert manager.execute_result("shop", "pen").source == "plugin"
    with manager:
        time.sleep(0.06)
        # The first failures are those of connecting, the later ones of the open breaker.
        results = [manager.execute_result("shop", "pen") for _ in range(10)]
        assert [(result.source, result.value) for result in results] == [("stale", Price("pen", ["a"]))] * 10
        assert "PLUGIN_1205" in manager.explain("shop").last_error, "it shows what the answers hide"
        with pytest.raises(CircuitBreakerOpenError):
            manager.execute("shop", "a new request")
        assert manager.metrics().stale_answers == 10


def test_a_business_error_is_not_replaced_by_a_stale_entry(shop):
    with (
        serve.start(shop.plugin, "http://127.0.0.1:0") as server,
        manager_for(server, cache={"ttl": "50ms", "stale_if_error": "1h"}) as manager,
    ):
        manager.execute("shop", "pen")
        time.sleep(0.06)

        def refuse(request):
            raise serve.Rejected("sold out")

        shop.behave = refuse
        with pytest.raises(PluginExecutionError, match="sold out"):
            manager.execute("shop", "pen")


def test_one_waiting_call_retries_when_the_leading_call_fails(shop):
    failed = threading.Event()

    def fail_once(request):
        time.sleep(0.3)
        if not failed.is_set():
            failed.set()
            raise serve.Unavailable("warming up")

    shop.behave = fail_once
    with (
        serve.start(shop.plugin, "http://127.0.0.1:0") as server,
        manager_for(server) as manager,
        ThreadPoolExecutor(30) as pool,
    ):
        futures = [pool.submit(manager.execute, "shop", "pen") for _ in range(30)]
        errors = [error for future in futures if (error := future.exception(30)) is not None]
    assert [type(error) for error in errors] == [PluginUnavailableError]
    assert shop.requests == 2


def test_waiting_calls_end_at_their_own_deadlines():
    def hang(peer):
        peer.read_request()
        peer.hang()

    with RawServer(hang) as server, manager_for(server) as manager, ThreadPoolExecutor(20) as pool:
        leader = pool.submit(manager.execute, "shop", "pen", timeout=2.0)
        while not server.requests:
            time.sleep(0.001)

        def follow(timeout):
            started = time.monotonic()
            with pytest.raises(PluginTimeoutError) as caught:
                manager.execute("shop", "pen", timeout=timeout)
            return time.monotonic() - started - timeout, caught.value

        outcomes = list(pool.map(follow, [0.2, 0.4, 0.6] * 4))
        assert len(server.requests) == 1
        with pytest.raises(PluginTimeoutError):
            leader.result(30)
    lateness = sorted(late for late, _ in outcomes)
    assert lateness[0] > -0.01
    assert lateness[len(lateness) // 2] < 0.1  # the median: on a busy machine some of 12 threads are late
    assert {(error.attempts, error.plugin) for _, error in outcomes} == {(0, "shop")}


def test_entries_are_kept_for_the_ttl_only(shop):
    with (
        serve.start(shop.plugin, "http://127.0.0.1:0") as server,
        manager_for(server, cache={"ttl": "500ms"}) as manager,
    ):
        sources = [manager.execute_result("shop", "pen").source for _ in range(2)]
        time.sleep(0.51)
        sources.append(manager.execute_result("shop", "pen").source)
    assert sources == ["plugin", "cache", "plugin"]


def test_a_batch_sends_each_distinct_request_once(shop):
    with serve.start(shop.plugin, "http://127.0.0.1:0") as server, manager_for(server) as manager:
        results = list(manager.map_results("shop", ["pen", "ink", "pen", "pen", "ink"] * 20))
    assert [result.value.item for result in results] == ["pen", "ink", "pen", "pen", "ink"] * 20
    assert shop.requests == 2


class Thing:
    """A plugin that is an object: its requests are not encoded."""

    def __init__(self):
        self.requests = 0

    def info(self):
        return serve.plugin(lambda request: request).info()

    def execute(self, request, context):
        self.requests += 1
        return {"asked": request}

    def health(self, timeout):
        raise NotImplementedError

    def close(self):
        pass


def test_an_object_registered_in_code_may_have_a_cache():
    thing = Thing()
    with Manager() as manager:
        manager.register(thing, PluginConfig(cache=CacheConfig(ttl=60.0)), name="thing")
        for _ in range(2):
            for request in ({"id": 1}, {"id": 2}):
                answer = manager.execute("thing", request, idempotent=True)
                assert answer == {"asked": request}
                answer.clear()
    assert thing.requests == 2


def test_a_function_in_this_process_may_have_a_cache(shop):
    with Manager(str, Price) as manager:
        manager.register(shop.plugin, PluginConfig(cache=CacheConfig(ttl=60.0)))
        context = ExecutionContext(idempotent=True)
        assert [manager.execute_result("shop", "pen", context).source for _ in range(2)] == ["plugin", "cache"]


def fork_during_a_call():
    shop = Shop()
    shop.behave = lambda request: time.sleep(1.0 if request == "slow" else 0.0)
    with serve.start(shop.plugin, "http://127.0.0.1:0") as server, manager_for(server) as manager:
        manager.execute("shop", "pen")
        under_way = manager.submit("shop", "slow")
        until(lambda: shop.requests == 2)
        sources = in_child(
            lambda: [manager.execute_result("shop", name, timeout=9.0).source for name in ("pen", "slow")]
        )
        return sources, under_way.result(30).item, shop.requests


def test_a_forked_worker_has_the_parents_entries_and_does_not_wait_for_its_calls():
    assert run(fork_during_a_call) == [["cache", "plugin"], "slow", 3]


def test_a_hit_needs_no_connection(shop):
    calls = []

    def answer_once(peer):
        calls.append(peer.read_request())
        peer.send(ok(calls[0], {"item": "pen", "tags": []}))
        peer.close()

    with RawServer(answer_once) as server, manager_for(server) as manager:
        manager.execute("shop", "pen")
        server.close()
        assert manager.execute("shop", "pen") == Price("pen", [])
    assert len(calls) == 1


OPERATIONS = {
    "get": {"path": "/items/{id}"},
    "head": {"method": "HEAD", "path": "/items/{id}"},
    "put": {"method": "PUT", "path": "/items/{id}"},
    "delete": {"method": "DELETE", "path": "/items/{id}"},
    "post": {"method": "POST", "path": "/items", "idempotent": True},
    "patch": {"method": "PATCH", "path": "/items/{id}", "idempotent": True},
}


@pytest.mark.parametrize("form", ["plugin", "group", "endpoints"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_cache_answers_no_rest_call_that_changes_something(name, form, caplog):
    """The second of two equal calls may have to undo what another one has done between them."""

    def answer(peer):
        while (request := peer.read_request()) is not None:
            peer.send(http_reply("" if request.method == "HEAD" else {"id": 1}))

    with RawServer(answer) as server, Manager() as manager:
        plugin = {"name": "shop", "transport": "http", "endpoint": server.url, "operations": OPERATIONS}
        config = {"plugins": [{**plugin, "cache": CACHE}]}
        if form == "group":
            config = {
                "plugins": [{**plugin, "name": "one"}],
                "load_balancers": [{"name": "shop", "members": ["one"], "cache": CACHE}],
            }
        if form == "endpoints":
            config["plugins"][0]["endpoints"] = [config["plugins"][0].pop("endpoint")]
        manager.load_from_config(config)
        assert form == "group" or "idempotent" not in caplog.text  # members may be added to a group later
        calls = [{"id": 1}, {"id": 2}, {"id": 1}]
        assert len({str(manager.execute("shop", call, operation=name)) for call in calls}) == 1
        assert len(server.requests) == (2 if name in {"get", "head"} else 3)
