"""Groups of a manager: by ``load_balancers``, and by ``endpoints`` of one plugin."""

from __future__ import annotations

import pytest

from goplugins import (
    CacheConfig,
    ExecutionContext,
    FallbackConfig,
    LoadBalancer,
    LoadBalancerConfig,
    Manager,
    PluginConfig,
    PluginInfo,
    PluginStatus,
    RetryConfig,
    serve,
)
from goplugins.errors import (
    CircuitBreakerOpenError,
    ConfigError,
    LoadBalancerError,
    NoAvailablePluginsError,
    PluginConnectionError,
    PluginExecutionError,
)
from goplugins.models.results import HealthStatus
from tests.servers import free_port


class Member:
    def __init__(self, name):
        self.name = name
        self.error = None
        self.calls = 0

    def info(self):
        return PluginInfo(self.name)

    def execute(self, request, context):
        self.calls += 1
        if self.error is not None:
            raise self.error("down")
        return self.name

    def health(self, timeout):
        return HealthStatus(PluginStatus.HEALTHY)

    def close(self):
        pass


@pytest.fixture
def manager():
    with Manager() as manager:
        yield manager


def group(manager, count=3, **balancer):
    members = [Member(f"m{number}") for number in range(count)]
    for member in members:
        manager.register(member)
    names = [member.name for member in members]
    manager.load_from_config({"load_balancers": [{"name": "g", "members": names, **balancer}]})
    return members


def test_a_group_is_called_by_name_like_anything_else(manager):
    members = group(manager)
    answers = [manager.execute("g", None) for _ in range(9)]
    assert {answers.count(member.name) for member in members} == {3}
    result = manager.execute_result("g", None)
    assert result.member == result.value
    metrics = manager.metrics().plugins
    assert metrics["g"].requests_success == metrics["g"].attempts_total == 10
    assert sum(metrics[member.name].requests_success for member in members) == 10


def test_a_failed_attempt_goes_to_another_member_and_only_the_group_retries(manager):
    members = group(manager, retry={"max_retries": 2, "initial_interval": 0, "random_jitter": False})
    for member in members[:2]:
        member.error = PluginConnectionError
    results = [manager.execute_result("g", None) for _ in range(3)]
    assert {result.value for result in results} == {"m2"}
    assert max(result.attempts for result in results) <= 3
    assert sum(member.calls for member in members) == sum(result.attempts for result in results)


def test_the_error_of_a_group_names_the_group_and_its_member(manager):
    members = group(manager, count=1)
    members[0].error = PluginExecutionError
    with pytest.raises(PluginExecutionError) as caught:
        manager.execute("g", None)
    assert (caught.value.plugin, caught.value.details["member"], caught.value.attempts) == ("g", "m0", 1)


def test_with_all_breakers_open_the_refusal_names_each_member(manager):
    members = group(manager, count=2, retry={"max_retries": 0})
    for member in members:
        member.error = PluginConnectionError
    for _ in range(12):
        with pytest.raises((PluginConnectionError, CircuitBreakerOpenError, NoAvailablePluginsError)):
            manager.execute("g", None)
    with pytest.raises(CircuitBreakerOpenError) as caught:
        manager.execute("g", None)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0
    assert [found["name"] for found in caught.value.details["members"]] == ["m0", "m1"]
    text = str(manager.explain("g"))
    assert "takes no calls" in text
    assert "m0: circuit breaker open" in text
    assert "last error" in text


def test_a_member_may_be_unregistered_and_registered_again(manager):
    members = group(manager, count=2)
    manager.unregister("m0")
    assert {manager.execute("g", None) for _ in range(4)} == {"m1"}
    again = Member("m0")
    manager.register(again)
    assert {manager.execute("g", None) for _ in range(200)} == {"m0", "m1"}
    assert members[0].calls + again.calls > 0


def test_an_unknown_member_is_a_configuration_error(manager):
    with pytest.raises(ConfigError, match="no plugin 'unknown'"):
        manager.load_from_config({"load_balancers": [{"name": "g", "members": ["unknown"]}]})


def test_one_plugin_with_several_endpoints_is_a_group():
    @serve.plugin(name="p")
    def port(request: int, context: ExecutionContext) -> int:
        return request

    with serve.start(port) as one, serve.start(port) as two, Manager() as manager:
        manager.load_from_config(
            {
                "plugins": [
                    {
                        "name": "p",
                        "transport": "http",
                        "endpoints": [one.url, two.url],
                        "balancing": {"strategy": "p2c"},
                        "retry": {"max_retries": 2, "initial_interval": 0.01, "idempotent": True},
                    }
                ]
            }
        )
        results = [manager.execute_result("p", number) for number in range(40)]
        assert [result.value for result in results] == list(range(40))
        assert len({result.member for result in results}) == 2
        one.stop()
        assert [manager.execute("p", number, timeout=5) for number in range(20)] == list(range(20))
        health = manager.health()
        assert sorted(health) == sorted(["p", *{result.member for result in results}])


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"endpoint": "http://h", "endpoints": ["http://g"]}, "plugins[0].endpoint"),
        ({"endpoints": ["http://h", "http://h"]}, "plugins[0].endpoints[1]"),
        ({"endpoints": ["ftp://h"]}, "plugins[0].endpoints[0]"),
        ({"endpoint": "http://h", "balancing": {"strategy": "p2c"}}, "plugins[0].balancing"),
        ({"endpoints": ["http://h"], "balancing": {"name": "x"}}, "plugins[0].balancing.name"),
    ],
)
def test_invalid_endpoints(manager, fields, path):
    with pytest.raises(ConfigError) as caught:
        manager.load_from_config({"plugins": [{"name": "p", "transport": "http", **fields}]})
    assert [problem.path for problem in caught.value.problems] == [path]


def test_a_group_without_reachable_members(manager):
    port = free_port()
    manager.load_from_config(
        {
            "plugins": [
                {
                    "name": "p",
                    "transport": "http",
                    "endpoints": [f"http://127.0.0.1:{port}"],
                    "retry": {"max_retries": 0},
                }
            ]
        }
    )
    with pytest.raises(PluginConnectionError) as caught:
        manager.execute("p", None, timeout=2)
    assert caught.value.plugin == "p"
    assert caught.value.details["member"] == f"p@127.0.0.1:{port}"


def test_with_one_of_three_instances_down_the_plugin_is_degraded():
    @serve.plugin(name="p")
    def echo(request: int) -> int:
        return request

    with serve.start(echo) as one, serve.start(echo) as two, Manager() as manager:
        gone = f"http://127.0.0.1:{free_port()}"
        manager.load_from_config(
            {"plugins": [{"name": "p", "transport": "http", "endpoints": [one.url, two.url, gone]}]}
        )
        overall = manager.overall_health()
        assert overall.status is PluginStatus.DEGRADED
        assert overall.message.startswith("p is degraded")
        assert gone.removeprefix("http://") in overall.message
        statuses = [status.status for name, status in manager.health().items() if name != "p"]
        assert statuses.count(PluginStatus.HEALTHY) == 2


AGAIN = ExecutionContext(idempotent=True)


# --- priority, and settings of a balancer made in code ---------------------------------------------------------------


@pytest.mark.parametrize("where", ["plugin", "member", "registered"])
def test_the_priority_of_a_member_is_the_plugin_s_own_unless_the_group_says_otherwise(manager, where):
    members = [Member("first"), Member("second")]
    priorities = {"first": 1, "second": 2}
    own = {} if where == "member" else priorities
    for member in members:
        priority = own.get(member.name, 0) if where == "registered" else 0
        manager.register(member, PluginConfig(priority=priority), name=f"{member.name}-in-code")
    names = {name: f"{name}-in-code" for name in priorities}
    listed = [{"name": name, "priority": priorities[key] if where == "member" else 0} for key, name in names.items()]
    config = {"load_balancers": [{"name": "g", "strategy": "priority", "members": listed}]}
    if where == "plugin":
        config["plugins"] = [
            {"name": name, "transport": "http", "endpoint": f"http://127.0.0.1:{free_port()}", "priority": number}
            for name, number in priorities.items()
        ]
        config["load_balancers"][0]["members"] = list(priorities)
    manager.load_from_config(config)
    explained = {member.name.removesuffix("-in-code"): member.priority for member in manager.explain("g").group.members}
    assert explained == priorities
    if where != "plugin":
        assert {manager.execute("g", None) for _ in range(6)} == {"second"}


def test_a_reload_changes_the_priority_of_members():
    def config(*priorities):
        plugins = [
            {"name": f"p{index}", "transport": "http", "endpoint": "http://127.0.0.1:1", "priority": number}
            for index, number in enumerate(priorities)
        ]
        group = {"name": "g", "strategy": "priority", "members": ["p0", "p1"]}
        return {"log_level": "error", "plugins": plugins, "load_balancers": [group]}

    with Manager() as manager:
        manager.load_from_config(config(1, 2))
        report = manager.reload_config(config(3, 2))
        assert [member.priority for member in manager.explain("g").group.members] == [3, 2]
    assert {update.name: update.in_place for update in report.diff.updated} == {"p0": True, "g": False}


def test_a_balancer_registered_in_code_brings_its_policies_along(manager):
    flaky = Member("flaky")
    flaky.error = PluginConnectionError
    config = LoadBalancerConfig(
        name="g", request_timeout=3.0, retry=RetryConfig(max_retries=0), fallback=FallbackConfig(value="fallback")
    )
    balancer = LoadBalancer(config, members=[flaky])
    manager.register(balancer)
    assert (manager.execute("g", None), flaky.calls) == ("fallback", 1)
    manager.unregister("g")
    balancer = LoadBalancer(config, members=[flaky])
    manager.register(balancer, PluginConfig(fallback=FallbackConfig(value="another")))
    assert (manager.execute("g", None), flaky.calls) == ("another", 2)


def test_a_balancer_alone_has_a_cache_and_a_fallback():
    member = Member("m")
    config = LoadBalancerConfig(name="g", cache=CacheConfig(ttl=60), fallback=FallbackConfig(value="fallback"))
    with LoadBalancer(config, members=[member]) as balancer:
        assert {balancer.execute(1, AGAIN) for _ in range(3)} == {"m"}
        assert member.calls == 1
        member.error = PluginConnectionError
        assert balancer.execute(2, ExecutionContext(max_retries=0)) == "fallback"


def test_a_balancer_alone_can_t_call_another_plugin():
    config = LoadBalancerConfig(name="g", fallback=FallbackConfig(plugin="other"))
    with LoadBalancer(config, members=[Member("m")]) as balancer, pytest.raises(LoadBalancerError, match="manager"):
        balancer.execute(1)
