from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from goplugins import errors
from goplugins.config import (
    AuthConfig,
    CacheConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    DiscoveryConfig,
    FallbackConfig,
    HealthCheckConfig,
    LoadBalancerConfig,
    LoadBalancerMember,
    ManagerConfig,
    PluginConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.errors import ConfigError

GOOD = PluginConfig(name="a", transport="http", endpoint="http://host/p")


def problems_of(config: ManagerConfig | PluginConfig | AuthConfig, **how: Any) -> dict[str, ConfigError]:
    found: tuple[ConfigError, ...] = ()
    try:
        config.validate(**how)
    except ConfigError as error:
        found = error.problems
    assert all(problem.path and problem.fix for problem in found)
    return {problem.path: problem for problem in found}


def codes_of(config: ManagerConfig | PluginConfig | AuthConfig, **how: Any) -> dict[str, str]:
    return {path: problem.code for path, problem in problems_of(config, **how).items()}


def endpoint(transport: str, address: str) -> str | None:
    found = codes_of(PluginConfig(name="a", transport=transport, endpoint=address))
    assert set(found) <= {"endpoint"}
    return found.get("endpoint")


def test_one_problem_is_raised_as_itself_and_several_together() -> None:
    with pytest.raises(errors.MissingEndpointError) as one:
        ManagerConfig(plugins=[PluginConfig(name="a", transport="http")]).validate()
    assert one.value.path == "plugins[0].endpoint"
    with pytest.raises(errors.InvalidConfigError) as several:
        ManagerConfig(plugins=[PluginConfig(name="a", transport="http"), PluginConfig()]).validate()
    assert [problem.path for problem in several.value.problems] == [
        "plugins[0].endpoint",
        "plugins[1].name",
        "plugins[1].transport",
    ]


def test_the_reference_s_codes() -> None:
    config = ManagerConfig(
        plugins=[
            PluginConfig(transport="unix", endpoint="/run/a"),
            PluginConfig(name="two words", transport="unix", endpoint="/run/a"),
            PluginConfig(name="b", endpoint="http://host"),
            PluginConfig(name="c", transport="http"),
            PluginConfig(name="d", transport="http", endpoint="host"),
            PluginConfig(name="e", transport="grpc", endpoint="host"),
            PluginConfig(name="f", transport="unix"),
            PluginConfig(name="g", transport="exec"),
            attrs.evolve(GOOD, name="b"),
            PluginConfig(name="i", transport="python"),
        ]
    )
    assert codes_of(config) == {
        "plugins[0].name": "PLUGIN_1001",
        "plugins[1].name": "PLUGIN_1001",
        "plugins[2].transport": "PLUGIN_1002",
        "plugins[3].endpoint": "PLUGIN_1003",
        "plugins[4].endpoint": "PLUGIN_1004",
        "plugins[5].endpoint": "PLUGIN_1005",
        "plugins[6].endpoint": "PLUGIN_1006",
        "plugins[7].executable": "PLUGIN_1007",
        "plugins[8].name": "PLUGIN_1010",
        "plugins[9].endpoint": "PLUGIN_1003",
    }
    assert codes_of(ManagerConfig(plugins=[attrs.evolve(GOOD, transport="pigeon")])) == {
        "plugins[0].transport": "PLUGIN_1008"
    }


def test_no_plugins_is_a_problem_unless_they_come_from_elsewhere() -> None:
    assert codes_of(ManagerConfig()) == {"plugins": "PLUGIN_1009"}
    assert codes_of(ManagerConfig(discovery=DiscoveryConfig(enabled=True, directories=["/opt"]))) == {}
    group = LoadBalancerConfig(name="g", members=[LoadBalancerMember(name="registered-in-code")])
    assert codes_of(ManagerConfig(load_balancers=[group])) == {}
    assert codes_of(ManagerConfig(discovery=DiscoveryConfig(enabled=True))) == {"discovery.directories": "PLUGIN_1012"}


@pytest.mark.parametrize(
    ("transport", "address"),
    [
        ("http", "http://host"),
        ("http", "HTTP://host:8080/a/b?c=d"),
        ("http", "http://127.0.0.1:1"),
        ("https", "https://[::1]:65535/a"),
        ("https", "https://bücher.example/a"),
        ("grpc", "host:50051"),
        ("grpc", "127.0.0.1:443"),
        ("grpc", "[::1]:443"),
        ("grpc", "[fe80::1%eth0]:443"),
        ("grpc", "dns:///host:443"),
        ("grpc", "dns:///host"),
        ("grpc", "dns:host:443"),
        ("grpc", "dns://8.8.8.8/host:443"),
        ("grpc", "dns:50051"),  # a host of that name
        ("grpc", "unix:/run/a.sock"),
        ("grpc", "unix:///run/a.sock"),
        ("grpc", "unix:a.sock"),
        ("grpc", "unix-abstract:a"),
        ("grpc", "ipv4:10.0.0.1:443,10.0.0.2:443"),
        ("grpc", "ipv6:[::1]:443"),
        ("grpc-tls", "host:443"),
        ("unix", "/run/a.sock"),
        ("unix", "a.sock"),
        ("unix", "@abstract"),
        ("unix", "/" + "a" * 106),
        ("python", "package.module:callable"),
        ("python", "module:Class.method"),
        ("python", "entry-point"),
    ],
)
def test_good_endpoints(transport: str, address: str) -> None:
    assert endpoint(transport, address) is None


@pytest.mark.parametrize(
    ("transport", "address", "code"),
    [
        ("https", "http://host/", "PLUGIN_1004"),
        ("http", "https://host/", "PLUGIN_1004"),
        ("http", "ftp://host/", "PLUGIN_1004"),
        ("http", "host:80", "PLUGIN_1004"),
        ("http", "//host/a", "PLUGIN_1004"),
        ("http", "http:///a", "PLUGIN_1004"),
        ("http", "http://:80/a", "PLUGIN_1004"),
        ("http", "http://host:0/", "PLUGIN_1004"),
        ("http", "http://host:65536/", "PLUGIN_1004"),
        ("http", "http://host:port/", "PLUGIN_1004"),
        ("http", "http://[::1/", "PLUGIN_1004"),
        ("http", "http://host/a b", "PLUGIN_1004"),
        ("http", "http://host/\r\nX: y", "PLUGIN_1004"),
        ("http", "http://host/#part", "PLUGIN_1004"),
        ("http", "http://user@host/", "PLUGIN_1004"),
        ("http", "http://host/?***", "PLUGIN_1004"),
        ("grpc", "host", "PLUGIN_1005"),
        ("grpc", "host:0", "PLUGIN_1005"),
        ("grpc", "host:65536", "PLUGIN_1005"),
        ("grpc", "::1:443", "PLUGIN_1005"),
        ("grpc", "host:443/path", "PLUGIN_1005"),
        ("grpc", "http://host:443", "PLUGIN_1005"),
        ("grpc-tls", "http://host:443", "PLUGIN_1005"),
        ("grpc-tls", "https://host:443", "PLUGIN_1005"),
        ("grpc", "user:pw@host:443", "PLUGIN_1005"),
        ("grpc", "dns:///", "PLUGIN_1005"),
        ("grpc", "dns:///host:0", "PLUGIN_1005"),
        ("grpc", "unix:", "PLUGIN_1005"),
        ("grpc", "ho st:443", "PLUGIN_1005"),
        ("unix", "@", "PLUGIN_1006"),
        ("unix", "unix:/run/a", "PLUGIN_1005"),
        ("unix", "http://host/p", "PLUGIN_1005"),
        ("unix", "unix+http://%2Frun%2Fa", "PLUGIN_1005"),
        ("unix", "file:///run/a", "PLUGIN_1005"),
        ("unix", "/" + "a" * 107, "PLUGIN_1005"),
        ("unix", "/" + "é" * 60, "PLUGIN_1005"),
        ("unix", "/a\x00b", "PLUGIN_1005"),
        ("python", "module:", "PLUGIN_1005"),
        ("python", ":callable", "PLUGIN_1005"),
        ("python", "a.b:c:d", "PLUGIN_1005"),
        ("python", "a b", "PLUGIN_1005"),
    ],
)
def test_bad_endpoints(transport: str, address: str, code: str) -> None:
    assert endpoint(transport, address) == code


def test_known_fault_a_token_went_out_in_clear() -> None:
    found = problems_of(
        PluginConfig(
            name="a", transport="https", endpoint="http://host/", auth=AuthConfig(method="bearer", token="hunter2")
        )
    )
    assert found["endpoint"].message == "is a plaintext URL on transport https"
    assert endpoint("grpc-tls", "http://host:1") == "PLUGIN_1005"


@pytest.mark.parametrize("transport", ["http", "https", "grpc", "grpc-tls", "python"])
def test_credentials_in_an_address_are_refused_and_never_repeated(transport: str) -> None:
    for address in (f"{transport}://me:hunter2@host/", "me:hunter2@host:80", "http://me:hunter2@host:99999/"):
        found = problems_of(PluginConfig(name="a", transport=transport, endpoint=address))
        assert "endpoint" in found
        assert "hunter2" not in "".join(map(str, found.values()))


def test_a_plaintext_credential_is_allowed_as_in_go() -> None:
    for auth in (
        AuthConfig(method="bearer", token="t"),
        AuthConfig(method="basic", username="u", password="p"),
        AuthConfig(method="api-key", api_key="k"),
    ):
        assert codes_of(attrs.evolve(GOOD, auth=auth)) == {}


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (AuthConfig(), {}),
        (AuthConfig(method="none"), {}),
        (AuthConfig(method="none", token="kept for later"), {}),
        (AuthConfig(ca_file="ca.pem"), {}),
        (AuthConfig(method="api-key"), {"api_key": "AUTH_1101"}),
        (AuthConfig(method="bearer"), {"token": "AUTH_1102"}),
        (AuthConfig(method="basic"), {"username": "AUTH_1103", "password": "AUTH_1103"}),
        (AuthConfig(method="basic", username="u"), {"password": "AUTH_1103"}),
        (AuthConfig(method="mtls", cert_file="c"), {"key_file": "AUTH_1104"}),
        (AuthConfig(method="mtls", cert_file="c", key_file="k"), {}),
        (AuthConfig(method="voodoo"), {"method": "AUTH_1105"}),
        (AuthConfig(token="t"), {"method": "AUTH_1105"}),
        (AuthConfig(method="custom"), {"headers": "AUTH_1100"}),
        (AuthConfig(method="custom", headers={"X-Key": "v"}), {}),
        (AuthConfig(method="custom", headers={"X Key": "v"}), {"headers": "AUTH_1100"}),
        (AuthConfig(method="custom", headers={"X-Key": "v\r\nY: w"}), {"headers.X-Key": "AUTH_1100"}),
        (AuthConfig(method="bearer", token="t\n"), {"token": "AUTH_1100"}),
        (AuthConfig(method="bearer", token=" t"), {"token": "AUTH_1100"}),
        (AuthConfig(method="bearer", token="日本"), {"token": "AUTH_1100"}),
        (AuthConfig(method="basic", username="a:b", password="p"), {"username": "AUTH_1100"}),
        (AuthConfig(method="basic", username="ü", password="日本 "), {}),
        (AuthConfig(method="custom", headers={"X": 5}), {"headers.X": "PLUGIN_1012"}),  # type: ignore[dict-item]
    ],
)
def test_credentials(auth: AuthConfig, expected: dict[str, str]) -> None:
    assert codes_of(auth) == expected


def test_a_header_s_value_is_never_repeated() -> None:
    found = problems_of(AuthConfig(method="custom", headers={"X": "hunter2\r\n", "hunter2 : ": "x"}, token="hunter2\n"))
    assert len(found) == 3
    assert "hunter2" not in "".join(map(str, found.values()))


@pytest.mark.parametrize("transport", ["http", "grpc", "unix", "exec", "python"])
def test_mtls_needs_a_transport_with_tls(transport: str) -> None:
    auth = AuthConfig(method="mtls", cert_file="c", key_file="k")
    plugin = PluginConfig(name="a", transport=transport, auth=auth)
    assert codes_of(plugin)["auth.method"] == "AUTH_1100"
    for good in ("https", "grpc-tls"):
        assert "auth.method" not in codes_of(attrs.evolve(plugin, transport=good))


def test_grpc_metadata_is_ascii() -> None:
    plugin = PluginConfig(name="a", transport="grpc", endpoint="h:1", auth=AuthConfig(method="bearer", token="é"))
    assert codes_of(plugin) == {"auth.token": "AUTH_1100"}
    assert codes_of(attrs.evolve(GOOD, auth=AuthConfig(method="bearer", token="é"))) == {}


def test_values_made_in_code_are_checked_like_a_file_s() -> None:
    plugin = attrs.evolve(
        GOOD,
        retry=RetryConfig(max_retries="3", initial_interval="1s", multiplier=0.5),  # type: ignore[arg-type]
        labels={"a": 1},
        options={"trust_env": 1},
        enabled=1,
    )
    assert set(codes_of(plugin)) == {
        "retry.max_retries",
        "retry.initial_interval",
        "retry.multiplier",
        "labels.a",
        "options.trust_env",
        "enabled",
    }
    assert codes_of(ManagerConfig(plugins=None)) == {"plugins": "PLUGIN_1012"}  # type: ignore[arg-type]
    assert codes_of(ManagerConfig(plugins="abc")) == {"plugins": "PLUGIN_1012"}  # type: ignore[arg-type]
    config = ManagerConfig(plugins=[GOOD], default_retry={"max_retries": 1})  # type: ignore[arg-type]
    assert problems_of(config)["default_retry"].message == "expected a RetryConfig, got a table"


def test_options() -> None:
    found = problems_of(attrs.evolve(GOOD, options={"proxi": "http://p:1", "verify_hostname": False}))
    assert found["options.proxi"].fix == "did you mean 'proxy'?"
    assert found["options.verify_hostname"].fix == "known options: engine, proxy, resolve, resolve_interval, trust_env"
    assert codes_of(attrs.evolve(GOOD, options={"proxy": "http://p:1", "trust_env": True})) == {}
    assert codes_of(attrs.evolve(GOOD, type="mine", options={"anything": object()})) == {}


def test_a_type_that_does_not_serve_the_transport() -> None:
    assert codes_of(attrs.evolve(GOOD, type="grpc")) == {"type": "PLUGIN_1008"}
    assert codes_of(attrs.evolve(GOOD, type="http")) == codes_of(attrs.evolve(GOOD, type="payment")) == {}


def test_exec_details() -> None:
    plugin = PluginConfig(name="a", transport="exec", executable="/bin/x", env=["A=1", "B", "=c"], args=["a\x00"])
    assert set(codes_of(plugin)) == {"env[1]", "env[2]", "args[0]"}


@pytest.mark.parametrize(
    ("breaker", "missing"),
    [
        (CircuitBreakerConfig(failure_rate=0.5, window=10.0), None),
        (CircuitBreakerConfig(failure_rate=0.5), "window"),
        (CircuitBreakerConfig(slow_call_rate=0.5, window=1.0), "slow_call_duration"),
        (CircuitBreakerConfig(slow_call_duration=0.5), "slow_call_rate"),
    ],
)
def test_a_breaker_s_rule_without_its_other_half_would_never_fire(
    breaker: CircuitBreakerConfig, missing: str | None
) -> None:
    assert set(codes_of(attrs.evolve(GOOD, circuit_breaker=breaker))) == (
        {f"circuit_breaker.{missing}"} if missing else set()
    )
    found = codes_of(ManagerConfig(plugins=[GOOD], default_circuit_breaker=breaker))
    assert set(found) == ({f"default_circuit_breaker.{missing}"} if missing else set())


def test_the_other_half_of_a_rule_may_be_inherited() -> None:
    plugin = attrs.evolve(GOOD, circuit_breaker=CircuitBreakerConfig(failure_rate=0.5))
    assert codes_of(ManagerConfig(plugins=[plugin], default_circuit_breaker=CircuitBreakerConfig(window=5.0))) == {}


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("/health", True),
        ("http://host/health", True),
        ("https://host/health", False),
        ("health", False),
        ("/he alth", False),
    ],
)
def test_health_endpoints(address: str, good: bool) -> None:
    found = codes_of(attrs.evolve(GOOD, health_check=HealthCheckConfig(endpoint=address)))
    assert found == ({} if good else {"health_check.endpoint": "PLUGIN_1004"})


def test_fallback_and_cache() -> None:
    def codes(**fields: Any) -> dict[str, str]:
        return codes_of(attrs.evolve(GOOD, **fields))

    assert codes(fallback=FallbackConfig(value=None)) == codes(fallback=FallbackConfig(plugin="b")) == {}
    assert codes(fallback=FallbackConfig(function=lambda request, error: 1), cache=CacheConfig(ttl=1.0)) == {}
    assert set(codes(fallback=FallbackConfig())) == {"fallback"}
    assert set(codes(fallback=FallbackConfig(plugin="b", value=1))) == {"fallback"}
    assert set(codes(fallback=FallbackConfig(plugin="a"))) == {"fallback.plugin"}
    assert set(codes(fallback=FallbackConfig(value=1, on=["timeout"]))) == {"fallback.on[0]"}
    assert set(codes(cache=CacheConfig())) == {"cache.ttl"}
    assert set(codes(cache=CacheConfig(ttl=1.0, vary_headers=["X-Ok", "no name"]))) == {"cache.vary_headers[1]"}


def test_fallbacks_in_a_circle_are_found_once() -> None:
    def plugin(name: str, fallback: str) -> PluginConfig:
        return attrs.evolve(GOOD, name=name, fallback=FallbackConfig(plugin=fallback))

    found = problems_of(ManagerConfig(plugins=[plugin("z", "a"), plugin("a", "b"), plugin("b", "c"), plugin("c", "a")]))
    assert [(path, problem.message) for path, problem in found.items()] == [
        ("plugins[1].fallback.plugin", "fallbacks form a cycle: a -> b -> c -> a")
    ]
    assert problems_of(ManagerConfig(plugins=[plugin("a", "b"), plugin("b", "c"), attrs.evolve(GOOD, name="c")])) == {}


def test_groups() -> None:
    groups = [
        LoadBalancerConfig(name="a", members=[LoadBalancerMember(name="b"), LoadBalancerMember(name="b")]),
        LoadBalancerConfig(name="g", members=[LoadBalancerMember(name="g"), LoadBalancerMember()]),
        LoadBalancerConfig(),
    ]
    assert codes_of(ManagerConfig(plugins=[GOOD], load_balancers=groups)) == {
        "load_balancers[0].name": "PLUGIN_1010",
        "load_balancers[0].members[1].name": "PLUGIN_1010",
        "load_balancers[1].members[0].name": "PLUGIN_1012",
        "load_balancers[1].members[1].name": "PLUGIN_1001",
        "load_balancers[2].name": "PLUGIN_1001",
        "load_balancers[2].members": "PLUGIN_1012",
    }


def test_names_of_other_plugins_are_looked_up_once_all_are_known() -> None:
    config = ManagerConfig(
        plugins=[attrs.evolve(GOOD, name="payments", fallback=FallbackConfig(plugin="paymints"))],
        load_balancers=[LoadBalancerConfig(name="g", members=[LoadBalancerMember(name="coded")])],
    )
    assert problems_of(config) == {}
    assert set(problems_of(config, registered=[])) == {
        "plugins[0].fallback.plugin",
        "load_balancers[0].members[0].name",
    }
    found = problems_of(config, registered=["coded"])
    assert found["plugins[0].fallback.plugin"].fix == "did you mean 'payments'?"
    assert len(found) == 1


def test_certificate_files_are_looked_for_only_when_asked(tmp_path: Path) -> None:
    there = tmp_path / "cert.pem"
    there.write_text("PEM")
    auth = AuthConfig(method="mtls", cert_file=str(there), key_file=str(tmp_path / "none"), ca_file=str(tmp_path))
    plugin = PluginConfig(name="a", transport="https", endpoint="https://host", auth=auth)
    off = attrs.evolve(plugin, name="off", enabled=False)
    config = ManagerConfig(plugins=[plugin, off])
    config.validate()
    with pytest.raises(errors.InvalidConfigError) as caught:
        config.check_files()
    found = {problem.path: problem for problem in caught.value.problems}
    assert set(found) == {"plugins[0].auth.key_file", "plugins[0].auth.ca_file"}
    assert all(isinstance(problem, errors.InvalidCertificateError) and problem.fix for problem in found.values())
    with pytest.raises(errors.InvalidCertificateError, match="does not exist"):
        attrs.evolve(plugin, auth=AuthConfig(ca_file=str(tmp_path / "none"))).check_files()
    attrs.evolve(plugin, auth=AuthConfig(ca_file=str(there))).check_files()


def test_a_limit_that_is_written_down_but_off_is_a_problem() -> None:
    plugin = {"name": "a", "transport": "http", "endpoint": "http://127.0.0.1:1"}
    limited = plugin | {"rate_limit": {"requests_per_second": 5}}
    with pytest.raises(
        ConfigError, match=r"plugins\[0\]\.rate_limit\.enabled: is required: the rate limit is off by default"
    ):
        ManagerConfig.from_mapping({"plugins": [limited]}).validate()
    ManagerConfig.from_mapping({"plugins": [limited], "default_rate_limit": {"enabled": True}}).validate()
    ManagerConfig.from_mapping({"plugins": [plugin | {"rate_limit": {"enabled": False, "burst_size": 5}}]}).validate()
    ManagerConfig.from_mapping({"plugins": [plugin | {"rate_limit": {"max_wait": 1}}]}).validate()


def policies(config: PluginConfig, name: str | None = "a", **arguments: Any) -> dict[str, ConfigError]:
    with pytest.raises(ConfigError) as caught:
        config.validate_policies(name, **arguments)
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"retry": RetryConfig(max_retries=-1)}, "retry.max_retries"),
        ({"retry": RetryConfig(initial_interval="1s")}, "retry.initial_interval"),
        ({"retry": {"max_retries": 1}}, "retry"),
        ({"rate_limit": RateLimitConfig(enabled=True, requests_per_second=0)}, "rate_limit.requests_per_second"),
        ({"rate_limit": RateLimitConfig(requests_per_second=5)}, "rate_limit.enabled"),
        ({"circuit_breaker": CircuitBreakerConfig(failure_rate=0.5)}, "circuit_breaker.window"),
        ({"connection": ConnectionConfig(request_timeout=-1)}, "connection.request_timeout"),
        ({"fallback": FallbackConfig()}, "fallback"),
        ({"fallback": FallbackConfig(plugin="a")}, "fallback.plugin"),
        ({"cache": CacheConfig()}, "cache.ttl"),
        ({"enabled": "no"}, "enabled"),
        ({"enabled": False}, "enabled"),
        ({"priority": "x"}, "priority"),
    ],
)
def test_policies_of_a_plugin_made_in_code_are_checked(values: dict[str, Any], path: str) -> None:
    assert set(policies(PluginConfig(**values))) == {path}


def test_how_a_plugin_made_in_code_is_reached_is_nobody_s_business() -> None:
    PluginConfig().validate_policies("a")
    PluginConfig(name="a", transport="http", endpoint="nowhere", options={"proxy": 5}).validate_policies()
    PluginConfig(transport="carrier-pigeon", type=5, endpoint=5).validate_policies("a")  # type: ignore[arg-type]


def test_the_name_that_counts_is_the_one_it_will_be_called_by() -> None:
    assert policies(PluginConfig(), None)["name"].code == "PLUGIN_1001"
    assert policies(PluginConfig(name="a"), "a b")["name"].code == "PLUGIN_1001"
    with pytest.raises(ConfigError, match=r"plugin 'b': retry\.max_retries"):
        PluginConfig(name="a", retry=RetryConfig(max_retries=-1)).validate_policies("b")


def test_policies_are_judged_with_the_manager_s_own_defaults() -> None:
    config = PluginConfig(rate_limit=RateLimitConfig(requests_per_second=5))
    config.validate_policies("a", defaults=ManagerConfig(default_rate_limit=RateLimitConfig(enabled=True)))
    assert set(policies(config, defaults=ManagerConfig())) == {"rate_limit.enabled"}


# --- fields of another transport -----------------------------------------------------------------------------------

EXEC = {"name": "a", "transport": "exec", "executable": "/bin/true"}
HTTP = {"name": "a", "transport": "http", "endpoint": "http://host/p"}
UNIX = {"name": "a", "transport": "unix", "endpoint": "/run/a.sock"}
PYTHON = {"name": "a", "transport": "python", "endpoint": "module:name"}


@pytest.mark.parametrize(
    ("plugin", "field", "value", "fix"),
    [
        (HTTP, "executable", "/bin/x", "remove it, or write transport: exec"),
        (HTTP, "args", ["--x"], "remove it: only exec uses it"),
        (UNIX, "env", ["A=b"], "remove it: only exec uses it"),
        (PYTHON, "work_dir", "/srv", "remove it: only exec uses it"),
        (EXEC, "endpoint", "http://host/p", "remove it: executable is the program to run"),
        (UNIX, "health_check", {"endpoint": "/health"}, "remove it: health checks use the plugin's own address"),
        (EXEC, "health_check", {"endpoint": "/health"}, "remove it: health checks use the plugin's own address"),
        (PYTHON, "auth", {"method": "bearer", "token": "t"}, "remove it: a call within this process"),
        (PYTHON, "auth", {"headers": {"a": "b"}}, "remove it: a call within this process"),
    ],
)
def test_a_field_that_the_transport_would_ignore_is_refused(
    plugin: dict[str, Any], field: str, value: Any, fix: str
) -> None:
    found = problems_of(PluginConfig.from_mapping({**plugin, field: value}))
    path = "health_check.endpoint" if field == "health_check" else field
    assert list(found) == [path]
    assert found[path].message == f"is not used by transport {plugin['transport']}"
    assert found[path].fix.startswith(fix)


def test_fields_of_another_transport_that_say_nothing_are_fine() -> None:
    nothing = {"executable": "", "args": [], "env": [], "work_dir": ""}
    for plugin in (HTTP, UNIX, PYTHON):
        assert not problems_of(PluginConfig.from_mapping({**plugin, **nothing, "auth": {"method": "none"}}))
    assert not problems_of(PluginConfig.from_mapping({**EXEC, "endpoint": "", "endpoints": []}))


def test_a_default_for_all_is_no_field_of_the_plugin() -> None:
    config = {"default_health_check": {"endpoint": "/health"}, "plugins": [UNIX]}
    assert not problems_of(ManagerConfig.from_mapping(config))


def test_a_factory_of_code_may_have_a_use_for_any_field() -> None:
    fields = {"executable": "/bin/x", "args": ["--x"], "auth": {"method": "bearer", "token": "t"}}
    assert not problems_of(PluginConfig.from_mapping({**PYTHON, "type": "mine", **fields}))


@pytest.mark.parametrize(
    ("retry", "path", "message"),
    [
        ({"initial_interval": 2, "max_interval": 1}, "initial_interval", "is longer than max_interval, 1 s"),
        ({"initial_interval": 6}, "initial_interval", "is longer than max_interval, 5 s"),
        ({"max_interval": 0.05}, "max_interval", "is shorter than initial_interval, 0.1 s"),
    ],
)
def test_a_first_wait_longer_than_the_longest_is_refused(retry: dict[str, Any], path: str, message: str) -> None:
    group = {"name": "g", "members": ["a"], "retry": retry}
    for config, base in [
        ({"plugins": [{**HTTP, "retry": retry}]}, "plugins[0].retry"),
        ({"plugins": [HTTP], "default_retry": retry}, "default_retry"),
        ({"plugins": [HTTP], "load_balancers": [group]}, "load_balancers[0].retry"),
    ]:
        found = problems_of(ManagerConfig.from_mapping(config))
        assert {where: error.message for where, error in found.items()} == {f"{base}.{path}": message}


def test_waits_that_fit_are_fine_and_so_they_are_once_resolved() -> None:
    for retry in ({"initial_interval": 1, "max_interval": 1}, {"initial_interval": 0, "max_interval": 0}):
        config = ManagerConfig.from_mapping({"plugins": [{**HTTP, "retry": retry}]})
        assert not problems_of(config)
        assert not problems_of(config.with_defaults())


def test_a_limit_of_a_group_that_is_off_by_default_is_refused() -> None:
    group = {"name": "g", "members": ["a"], "rate_limit": {"requests_per_second": 5}}
    found = problems_of(ManagerConfig.from_mapping({"plugins": [HTTP], "load_balancers": [group]}))
    assert list(found) == ["load_balancers[0].rate_limit.enabled"]
