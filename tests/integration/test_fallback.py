"""The fallback with configuration, manager and real servers that fail."""

import logging
import threading
import time

import attrs
import pytest

from goplugins import (
    ConfigError,
    FallbackConfig,
    InvalidConfigError,
    Manager,
    ManagerConfig,
    PluginConfig,
    PluginConnectionError,
    PluginExecutionError,
    PluginTimeoutError,
    PluginUnavailableError,
    serve,
)
from tests.servers import RawServer, free_port
from tests.timing import time_limit


@attrs.frozen
class Price:
    item: str
    cents: int


DEFAULT = {"item": "unknown", "cents": 0}


@serve.plugin(name="shop")
def shop(request: str) -> Price:
    if request == "down":
        raise serve.Unavailable("warming up")
    if request == "no":
        raise serve.Rejected("sold out")
    if request == "slow":
        time.sleep(0.5)
        raise serve.Unavailable("warming up")
    return Price(request, 100)


@serve.plugin(name="backup")
def backup(request: str) -> serve.Reply[Price]:
    if request == "no":
        raise serve.Rejected("sold out in the backup, too")
    return serve.Reply(Price(request, 120), metadata={"age": "1 d"})


@pytest.fixture(scope="module")
def shop_url():
    with serve.start(shop, "http://127.0.0.1:0", threads=16) as server:
        yield server.url


@pytest.fixture(scope="module")
def backup_url():
    with serve.start(backup, "http://127.0.0.1:0", threads=16) as server:
        yield server.url


def nowhere():
    return f"http://127.0.0.1:{free_port()}/plugin"


def plugin(name, url, **sections):
    return {
        "name": name,
        "transport": "http",
        "endpoint": url,
        "health_check": {"enabled": False},
        "retry": {"max_retries": 0},
        **sections,
    }


def manager_of(*plugins):
    manager = Manager(str, Price)
    manager.load_from_config({"plugins": list(plugins), "log_level": "error"})
    return manager


def test_another_plugin_is_called_for_one_that_is_down(backup_url):
    main = plugin("shop", nowhere(), fallback={"plugin": "backup"})
    with manager_of(main, plugin("backup", backup_url)) as manager:
        result = manager.execute_result("shop", "pen")
        assert result.value == Price("pen", 120)
        assert (result.source, result.member, result.metadata) == ("fallback", "backup", {"age": "1 d"})
        assert result.attempts == 1, "attempts of the plugin that was called"
        metrics = manager.metrics()
        assert metrics.plugins["shop"].fallback_answers == 1
        assert metrics.plugins["shop"].requests_success == 1
        assert metrics.plugins["backup"].requests_success == 1
        assert "PLUGIN_1205" in manager.explain("shop").last_error, "it shows what the fallback hides"


def test_the_reserve_leaves_time_for_the_fallback_within_the_deadline(backup_url):
    with RawServer(lambda peer: peer.hang()) as hung:
        main = plugin("shop", hung.url, fallback={"plugin": "backup", "reserve": "300ms"})
        with manager_of(main, plugin("backup", backup_url)) as manager:
            for stopwatch in time_limit(0.7, at_least=0.48):
                with stopwatch:
                    result = manager.execute_result("shop", "pen", timeout=0.8)
            assert (result.value, result.source) == (Price("pen", 120), "fallback")


def test_without_a_reserve_a_timeout_leaves_no_time_for_the_fallback(backup_url):
    with RawServer(lambda peer: peer.hang()) as hung:
        main = plugin("shop", hung.url, fallback={"plugin": "backup"})
        with manager_of(main, plugin("backup", backup_url)) as manager:
            with pytest.raises(PluginTimeoutError) as caught:
                manager.execute("shop", "pen", timeout=0.2)
            assert "set fallback.reserve to keep some back" in caught.value.details["fallback"]
            assert caught.value.plugin == "shop"


def test_a_hanging_fallback_ends_at_the_deadline():
    with RawServer(lambda peer: peer.hang()) as hung:
        main = plugin("shop", hung.url, fallback={"plugin": "backup", "reserve": "200ms"})
        with manager_of(main, plugin("backup", hung.url)) as manager:
            for stopwatch in time_limit(0.6, at_least=0.48):
                with stopwatch, pytest.raises(PluginTimeoutError) as caught:
                    manager.execute("shop", "pen", timeout=0.5)
            assert caught.value.plugin == "shop"
            assert "PLUGIN_1204" in caught.value.details["fallback"]


def test_with_an_open_breaker_only_the_fallback_is_called(shop_url):
    breaker = {"failure_threshold": 3, "min_request_threshold": 1, "recovery_timeout": "1h"}
    main = plugin("shop", shop_url, circuit_breaker=breaker, fallback={"value": DEFAULT})
    with manager_of(main) as manager:
        results = [manager.execute_result("shop", "down") for _ in range(20)]
        assert {(result.value, result.source) for result in results} == {(Price("unknown", 0), "fallback")}
        assert sum(result.attempts for result in results) == 3
        assert manager.metrics().plugins["shop"].fallback_answers == 20


def test_the_fallback_is_used_after_all_retries(shop_url):
    retry = {"max_retries": 2, "initial_interval": "1ms", "idempotent": True}
    with manager_of(plugin("shop", shop_url, retry=retry, fallback={"value": DEFAULT})) as manager:
        result = manager.execute_result("shop", "down")
        assert (result.source, result.attempts) == ("fallback", 3)


def test_a_business_error_is_not_replaced_by_the_fallback(shop_url):
    with (
        manager_of(plugin("shop", shop_url, fallback={"value": DEFAULT})) as manager,
        pytest.raises(PluginExecutionError, match="sold out"),
    ):
        manager.execute("shop", "no")


def test_a_business_error_of_the_fallback_reaches_the_caller(backup_url):
    main = plugin("shop", nowhere(), fallback={"plugin": "backup"})
    with manager_of(main, plugin("backup", backup_url)) as manager:
        with pytest.raises(PluginExecutionError, match="sold out in the backup") as caught:
            manager.execute("shop", "no")
        assert caught.value.plugin == "backup"
        assert isinstance(caught.value.__cause__, PluginConnectionError)


def test_a_function_as_fallback():
    def guess(request, error):
        return Price(request, len(str(error.code)))

    config = ManagerConfig(
        plugins=[
            PluginConfig(name="shop", transport="http", endpoint=nowhere(), fallback=FallbackConfig(function=guess))
        ]
    )
    with Manager(str, Price) as manager:
        manager.load_from_config(config)
        assert manager.execute("shop", "pen") == Price("pen", 11)


def test_a_function_as_fallback_may_call_other_plugins_within_the_deadline():
    with Manager(str, Price) as manager, RawServer(lambda peer: peer.hang()) as hung:

        def ask_backup(request, error):
            return manager.execute("backup", request)  # 30 s of its own, were it not for the call's deadline

        function = FallbackConfig(function=ask_backup, reserve=0.2)
        main = PluginConfig.from_mapping(plugin("shop", hung.url))
        manager.load_from_config(
            ManagerConfig(
                plugins=[
                    attrs.evolve(main, fallback=function),
                    PluginConfig.from_mapping(plugin("backup", hung.url)),
                ]
            )
        )
        for stopwatch in time_limit(0.6):
            with stopwatch, pytest.raises(PluginTimeoutError):
                manager.execute("shop", "pen", timeout=0.5)


def test_submit_and_map_fall_back_as_well(backup_url):
    main = plugin("shop", nowhere(), fallback={"plugin": "backup"})
    with manager_of(main, plugin("backup", backup_url)) as manager:
        assert manager.submit("shop", "pen").result(30) == Price("pen", 120)
        results = list(manager.map_results("shop", ["a", "b", "c"]))
        assert [(result.value.item, result.source) for result in results] == [(item, "fallback") for item in "abc"]


def test_a_plugin_registered_in_code_may_be_a_fallback(shop_url):
    manager = Manager(str, Price)
    manager.register(backup)
    manager.load_from_config({"plugins": [plugin("shop", shop_url, fallback={"plugin": "backup"})]})
    with manager:
        assert manager.execute("shop", "down") == Price("down", 120)


def test_a_plugin_registered_in_code_may_have_a_fallback(backup_url):
    with manager_of(plugin("backup", backup_url)) as manager:
        manager.register(shop, PluginConfig(fallback=FallbackConfig(plugin="backup")))
        assert manager.execute("shop", "down") == Price("down", 120)


def test_a_call_that_was_admitted_falls_back_even_while_the_manager_shuts_down(shop_url, backup_url):
    main = plugin("shop", shop_url, fallback={"plugin": "backup"})
    manager = manager_of(main, plugin("backup", backup_url))
    outcome = []
    caller = threading.Thread(target=lambda: outcome.append(manager.execute_result("shop", "slow")))
    caller.start()
    while not manager.metrics().active_requests:
        time.sleep(0.001)
    manager.shutdown()
    caller.join(30)
    assert [(result.value, result.source) for result in outcome] == [(Price("slow", 120), "fallback")]


def test_an_unregistered_fallback_is_named_in_the_first_error(shop_url, backup_url):
    main = plugin("shop", shop_url, fallback={"plugin": "backup"})
    with manager_of(main, plugin("backup", backup_url)) as manager:
        manager.unregister("backup")
        with pytest.raises(PluginUnavailableError) as caught:
            manager.execute("shop", "down")
        assert "plugin 'backup' failed, too: PLUGIN_1201" in caught.value.details["fallback"]


def test_a_cycle_at_run_time_ends_with_the_first_error():
    manager = Manager(str, Price)
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):

        @serve.plugin(name=name)
        def fail(request: str) -> Price:
            raise serve.Unavailable("down")

        manager.register(fail, PluginConfig(fallback=FallbackConfig(plugin=other)))
    with manager:
        with pytest.raises(PluginUnavailableError) as caught:
            manager.execute("a", "pen")
        assert caught.value.plugin == "a"
        assert [manager.metrics().plugins[name].attempts_total for name in "abc"] == [1, 1, 1]


@pytest.mark.parametrize("fallback", [{"plugin": "backup"}, {"value": {"item": "pen", "cents": 120}}], ids=str)
def test_a_group_whose_members_are_all_down_falls_back(backup_url, fallback):
    group = {"name": "shops", "members": ["a", "b"], "fallback": fallback}
    plugins = [plugin("a", nowhere()), plugin("b", nowhere()), plugin("backup", backup_url)]
    with Manager(str, Price) as manager:
        manager.load_from_config({"plugins": plugins, "load_balancers": [group], "log_level": "error"})
        for _ in range(20):
            result = manager.execute_result("shops", "pen")
            assert (result.value, result.source) == (Price("pen", 120), "fallback")


# --- configuration -------------------------------------------------------------------------------------------------


def problems_of(*plugins):
    with pytest.raises(ConfigError) as caught:
        manager_of(*plugins)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_cycle_is_a_configuration_error():
    names = {"a": "b", "b": "c", "c": "a"}
    found = problems_of(*[plugin(name, nowhere(), fallback={"plugin": other}) for name, other in names.items()])
    assert found == {"plugins[0].fallback.plugin": "fallbacks form a cycle: a -> b -> c -> a"}


def test_an_unknown_fallback_is_a_configuration_error(backup_url):
    found = problems_of(plugin("shop", nowhere(), fallback={"plugin": "bakup"}), plugin("backup", backup_url))
    assert found == {"plugins[0].fallback.plugin": "there is no plugin 'bakup'"}


def test_a_cache_without_a_ttl_is_a_configuration_error():
    assert problems_of(plugin("shop", nowhere(), cache={"max_entries": 5})) == {"plugins[0].cache.ttl": "missing"}


def test_a_static_value_of_the_wrong_type_fails_the_first_call(shop_url):
    with manager_of(plugin("shop", shop_url, fallback={"value": {"item": "x", "cents": "free"}})) as manager:
        with pytest.raises(InvalidConfigError, match=r"fallback\.value: it is not a Price: .*cents") as caught:
            manager.execute("shop", "pen")
        assert manager.metrics().attempts_total == 0
        assert caught.value.plugin == "shop"


def test_a_plugin_that_is_down_logs_few_lines(shop_url, caplog):
    breaker = {"failure_threshold": 3, "recovery_timeout": "1h"}
    main = plugin("shop", shop_url, circuit_breaker=breaker, fallback={"value": DEFAULT})
    with manager_of(main) as manager, caplog.at_level(logging.INFO, "goplugins"):
        for _ in range(1000):
            manager.execute("shop", "down")
    lines = [record.getMessage() for record in caplog.records if "answers instead" in record.getMessage()]
    assert lines == [
        "shop: could not serve, a static value answers instead: TRANSPORT_1305 HTTP 503: unavailable: warming up"
    ]
