"""Texts that UTF-8 can't encode are refused by each field, and by each method that takes a name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from goplugins import ConfigError, LoadBalancer, LoadBalancerError, Manager, PluginConfig, PluginInfo, serve
from goplugins.config import ManagerConfig
from goplugins.config.manager import load
from goplugins.errors import InvalidArgumentError, InvalidPluginNameError

BASE = {"name": "p", "transport": "http", "endpoint": "http://127.0.0.1:1"}
PROGRAM = {"name": "p", "transport": "exec", "executable": "/bin/true"}

PLUGINS: dict[str, Callable[[str], dict[str, Any]]] = {
    "name": lambda text: {**BASE, "name": text},
    "type": lambda text: {**BASE, "type": text},
    "endpoint": lambda text: {**BASE, "endpoint": f"http://a/{text}"},
    "endpoint of gRPC": lambda text: {"name": "p", "transport": "grpc", "endpoint": f"{text}:1"},
    "endpoints": lambda text: {"name": "p", "transport": "http", "endpoints": ["http://a", f"http://{text}"]},
    "a label": lambda text: {**BASE, "labels": {"x": text}},
    "the name of a label": lambda text: {**BASE, "labels": {text: "x"}},
    "an annotation": lambda text: {**BASE, "annotations": {"x": text}},
    "the name of an annotation": lambda text: {**BASE, "annotations": {text: "x"}},
    "the name of an operation": lambda text: {**BASE, "operations": {text: {}}},
    "token": lambda text: {**BASE, "auth": {"method": "bearer", "token": text}},
    "api_key": lambda text: {**BASE, "auth": {"method": "api-key", "api_key": text}},
    "username": lambda text: {**BASE, "auth": {"method": "basic", "username": text, "password": "x"}},
    "password": lambda text: {**BASE, "auth": {"method": "basic", "username": "x", "password": text}},
    "a header": lambda text: {**BASE, "auth": {"method": "custom", "headers": {"x": text}}},
    "the name of a header": lambda text: {**BASE, "auth": {"method": "custom", "headers": {text: "x"}}},
    "health_check.endpoint": lambda text: {**BASE, "health_check": {"endpoint": f"/{text}"}},
    "fallback.plugin": lambda text: {**BASE, "fallback": {"plugin": text}},
    "vary_headers": lambda text: {**BASE, "cache": {"vary_headers": [text]}},
    "options.proxy": lambda text: {**BASE, "options": {"proxy": f"http://{text}"}},
    "the name of an option": lambda text: {**BASE, "options": {text: 1}},
}
MANAGERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "the name of a group": lambda text: {"load_balancers": [{"name": text, "members": ["p"]}]},
    "a member": lambda text: {"load_balancers": [{"name": "g", "members": [text]}]},
    "metrics_address": lambda text: {"observability": {"metrics_address": text}},
    "metrics_prefix": lambda text: {"observability": {"metrics_prefix": text}},
    "metric_labels": lambda text: {"observability": {"metric_labels": [text]}},
}
PATHS: dict[str, Callable[[str], dict[str, Any]]] = {
    "endpoint": lambda text: {"name": "p", "transport": "unix", "endpoint": f"/run/{text}"},
    "executable": lambda text: {**PROGRAM, "executable": f"/bin/{text}"},
    "args": lambda text: {**PROGRAM, "args": [text]},
    "env": lambda text: {**PROGRAM, "env": [f"X={text}"]},
    "work_dir": lambda text: {**PROGRAM, "work_dir": f"/{text}"},
}
CONFIGS = {
    **{name: lambda text, make=make: {"plugins": [make(text)]} for name, make in PLUGINS.items()},
    **{name: lambda text, make=make: {"plugins": [BASE], **make(text)} for name, make in MANAGERS.items()},
}
SURROGATES = ["\udc80", "\ud800", "\udfff"]


@pytest.mark.parametrize("surrogate", SURROGATES, ids=ascii)
@pytest.mark.parametrize("field", CONFIGS)
def test_a_lone_surrogate_is_refused_with_the_field(field: str, surrogate: str) -> None:
    values = CONFIGS[field](f"a{surrogate}b")
    for source in (values, json.loads(json.dumps(values))):
        with pytest.raises(ConfigError) as caught:
            load(source)
        assert str(caught.value).isprintable() or "\n  - " in str(caught.value)
        assert all(problem.path.startswith(("plugins[0].", "load_b", "observ")) for problem in caught.value.problems)
        str(caught.value).encode()


@pytest.mark.parametrize("field", PATHS)
def test_paths_and_arguments_may_have_bytes_that_are_not_utf_8(field: str) -> None:
    load({"plugins": [PATHS[field]("a\udc80b")]})
    with pytest.raises(ConfigError, match="lone surrogate"):
        load({"plugins": [PATHS[field]("a\ud800b")]})


def test_the_error_of_a_name() -> None:
    with pytest.raises(InvalidPluginNameError) as caught:
        ManagerConfig.from_mapping({"plugins": [{**BASE, "name": "a\udc80"}]}).validate()
    assert str(caught.value) == (
        "[PLUGIN_1001] plugins[0].name: 'a\\udc80' contains the lone surrogate '\\udc80', which can't be encoded as "
        "UTF-8 (write the character itself, not half of a surrogate pair)"
    )


class Plugin:
    def __init__(self, name: str = "p") -> None:
        self.name = name

    def info(self) -> PluginInfo:
        return PluginInfo(self.name)

    def execute(self, request: Any, context: Any, /) -> Any:
        return request

    def health(self, timeout: float) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        pass


def served(name: str) -> Any:
    return serve.plugin(name=name)(_echo)


def _echo(request: str) -> str:
    return request


DOORS: dict[str, tuple[type[Exception], Callable[[str], Any]]] = {
    "register(name=)": (InvalidPluginNameError, lambda name: Manager[Any, Any]().register(Plugin(), name=name)),
    "register, info()": (InvalidPluginNameError, lambda name: Manager[Any, Any]().register(Plugin(name))),
    "register(config)": (
        InvalidPluginNameError,
        lambda name: Manager[Any, Any]().register(Plugin(), PluginConfig(name=name)),
    ),
    "register, label": (
        ConfigError,
        lambda text: Manager[Any, Any]().register(Plugin(), PluginConfig(name="p", labels={"team": text})),
    ),
    "LoadBalancer": (LoadBalancerError, LoadBalancer),
    "add_plugin(name=)": (LoadBalancerError, lambda name: LoadBalancer("g").add_plugin(Plugin(), name=name)),
    "add_plugin, info()": (LoadBalancerError, lambda name: LoadBalancer("g").add_plugin(Plugin(name))),
    "serve.plugin": (InvalidArgumentError, served),
}


@pytest.mark.parametrize("surrogate", SURROGATES, ids=ascii)
@pytest.mark.parametrize("door", DOORS)
def test_a_name_in_code(door: str, surrogate: str) -> None:
    error, use = DOORS[door]
    use("aéb")
    with pytest.raises(error, match=r"(name|labels\.team): .*lone surrogate '\\u") as caught:
        use(f"a{surrogate}")
    str(caught.value).encode()
