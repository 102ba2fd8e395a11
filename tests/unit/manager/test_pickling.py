"""Pickled managers: their state, managers that can't be pickled, and what unpickling makes."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import threading
from types import MappingProxyType
from typing import Any

import pytest

from goplugins import (
    AuthConfig,
    ConfigError,
    FallbackConfig,
    Manager,
    ManagerClosedError,
    ManagerConfig,
    PluginConfig,
    PluginNotFoundError,
    serve,
)
from goplugins.manager import pickling
from goplugins.manager.pickling import literal_secrets
from goplugins.testing import ManualClock

SQUARE = {"name": "square", "transport": "python", "endpoint": f"{__name__}:square"}


@serve.plugin(name="square")
def square(number: int) -> int:
    return number * number


@pytest.fixture(autouse=True)
def no_unpickled_managers():
    yield
    pickling._unpickled.clear()


def elsewhere(thing: Any) -> Any:
    """Unpickled as in another process, which has none of this one's managers."""
    pickled = pickle.dumps(thing)
    managers = dict(pickling._managers)
    pickling._managers.clear()
    try:
        return pickle.loads(pickled)
    finally:
        pickling._managers.update(managers)


def loaded(config: Any, *types: Any, **sizes: int) -> Manager[Any, Any]:
    manager: Manager[Any, Any] = Manager(*types, **sizes)
    manager.load_from_config(config)
    return manager


@pytest.mark.parametrize("types", [(), (int, int), (None, int), (int, None), (int | None, list[int])])
def test_the_types_are_those_of_the_manager(types: tuple[Any, ...]) -> None:
    copied = elsewhere(loaded({"plugins": [SQUARE]}, *types))
    codec = copied._codec or copied._types()
    assert (codec.request_type, codec.response_type) == (types or (Any, Any))
    assert copied._pickler._types == (types or None)


class TestState:
    def test_the_path_of_a_file(self, tmp_path, monkeypatch):
        (tmp_path / "plugins.json").write_text(json.dumps({"plugins": [SQUARE]}))
        monkeypatch.chdir(tmp_path)
        manager = loaded("plugins.json", int, int)
        monkeypatch.chdir("/")
        other = elsewhere(manager)
        assert other is not manager
        assert other.execute("square", 3) == 9
        assert str(tmp_path / "plugins.json").encode() in pickle.dumps(manager)

    @pytest.mark.parametrize("kind", [dict, MappingProxyType, ManagerConfig.from_mapping])
    def test_values(self, kind):
        other = elsewhere(loaded(kind({"plugins": [SQUARE]}), int, int))
        assert other.execute("square", 3) == 9

    def test_values_as_loaded(self):
        values: dict[str, Any] = {"plugins": [dict(SQUARE)]}
        manager = loaded(values, int, int)
        values["plugins"][0]["name"] = "circle"
        assert list(elsewhere(manager).list_plugins()) == ["square"]

    def test_variables_are_those_of_the_other_process(self, monkeypatch):
        monkeypatch.setenv("PLUGIN_NAME", "here")
        manager = loaded({"plugins": [{**SQUARE, "name": "${PLUGIN_NAME}"}]}, int, int)
        pickled = elsewhere(manager)
        monkeypatch.setenv("PLUGIN_NAME", "there")
        assert list(pickled.list_plugins()) == ["there"]

    def test_types_and_sizes(self):
        other = elsewhere(loaded({"plugins": [SQUARE]}, int, int | None, max_workers=3, max_queued=5))
        assert (other._codec.request_type, other._codec.response_type) == (int, int | None)
        assert (other._call_pool.max_workers, other._call_pool.max_queued) == (3, 5)

    def test_a_manager_without_configuration(self):
        other = elsewhere(Manager(int, int))
        with pytest.raises(PluginNotFoundError):
            other.execute("square", 3)
        other.load_from_config({"plugins": [SQUARE]})
        assert other.execute("square", 3) == 9

    def test_a_bound_plugin_with_types_of_its_own(self):
        bound = loaded({"plugins": [SQUARE]}).bind("square", int, int)
        other = elsewhere(bound)
        assert (other.name, other(3)) == ("square", 9)

    def test_a_bound_plugin_without_its_manager(self):
        bound = loaded({"plugins": [SQUARE]}).bind("square", int, int)
        gc.collect()
        assert elsewhere(bound)(3) == 9

    def test_bound_methods(self):
        manager = loaded({"plugins": [SQUARE]}, int, int)
        assert elsewhere(manager.execute)("square", 3) == 9


class TestIdentity:
    def test_the_same_manager_in_its_own_process(self):
        manager = loaded({"plugins": [SQUARE]}, int, int)
        assert pickle.loads(pickle.dumps(manager)) is manager
        assert copy.copy(manager) is copy.deepcopy(manager) is manager

    def test_one_manager_in_another_process(self):
        manager = loaded({"plugins": [SQUARE]}, int, int)
        first = elsewhere(manager)
        assert elsewhere(manager) is first
        assert elsewhere(first) is first  # passed on
        assert elsewhere(manager.bind("square"))._dispatcher is first._dispatcher

    def test_another_manager_after_a_reload(self):
        manager = loaded({"plugins": [SQUARE]}, int, int)
        first = elsewhere(manager)
        manager.reload_config({"plugins": [{**SQUARE, "name": "other"}]})
        second = elsewhere(manager)
        assert second is not first
        assert list(second.list_plugins()) == ["other"]
        assert first.execute("square", 2) == 4  # calls through the old one go on
        assert list(pickling._unpickled.values()) == [second]

    def test_a_limited_number_is_kept(self, monkeypatch):
        monkeypatch.setattr(pickling, "MOST", 2)
        for _ in range(5):
            elsewhere(Manager())
        assert len(pickling._unpickled) == 2

    def test_a_collected_manager_is_forgotten(self):
        before = len(pickling._managers)
        manager = Manager()
        assert len(pickling._managers) == before + 1
        del manager
        gc.collect()
        assert len(pickling._managers) <= before


class TestLoading:
    def test_the_first_call_loads_and_raises_the_problems(self, tmp_path):
        path = tmp_path / "plugins.json"
        path.write_text(json.dumps({"plugins": [SQUARE]}))
        manager = loaded(path, int, int)
        path.unlink()
        other = elsewhere(manager)
        for use in (lambda: other.execute("square", 3), other.health, other.list_plugins):
            with pytest.raises(ConfigError, match=r"no such file|not found|does not exist|No such"):
                use()
        path.write_text(json.dumps({"plugins": [SQUARE]}))
        assert other.execute("square", 3) == 9

    def test_one_of_several_threads_loads(self):
        other = elsewhere(loaded({"plugins": [SQUARE]}, int, int))
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(other.execute("square", 3))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [9] * 8

    def test_shutdown_does_not_load(self, tmp_path):
        path = tmp_path / "plugins.json"
        path.write_text(json.dumps({"plugins": [SQUARE]}))
        other = elsewhere(loaded(path, int, int))
        path.unlink()
        other.shutdown()
        with pytest.raises(ManagerClosedError):
            other.execute("square", 3)

    def test_a_second_configuration_is_rejected(self):
        other = elsewhere(loaded({"plugins": [SQUARE]}))
        with pytest.raises(ConfigError, match="already"):
            other.load_from_config({"plugins": []})


class TestRefusals:
    def test_plugins_registered_in_code(self):
        manager = Manager(int, int)
        manager.register(square)
        with pytest.raises(TypeError, match=r"registered in code \(square\)"):
            pickle.dumps(manager)
        with pytest.raises(TypeError, match="registered in code"):
            pickle.dumps(manager.bind("square"))
        manager.unregister("square")
        assert pickle.dumps(manager)

    def test_factories(self):
        from goplugins.serve.in_process import FunctionPluginFactory

        manager = Manager()
        manager.register_factory("mine", FunctionPluginFactory())
        with pytest.raises(TypeError, match=r"factories were registered in code \(mine\)"):
            pickle.dumps(manager)

    def test_a_closed_manager(self):
        manager = Manager()
        manager.shutdown()
        with pytest.raises(TypeError, match="it was shut down"):
            pickle.dumps(manager)

    def test_another_clock(self):
        with pytest.raises(TypeError, match="clock"):
            pickle.dumps(Manager(clock=ManualClock()))

    def test_values_that_do_not_pickle(self):
        fallback = FallbackConfig(function=lambda request, error: 0)
        manager = loaded(ManagerConfig(plugins=[PluginConfig(**{**SQUARE, "fallback": fallback})]))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"something that does not: .*lambda"):
            pickle.dumps(manager)

    @pytest.mark.parametrize("kind", [dict, ManagerConfig.from_mapping])
    def test_literal_secrets(self, kind):
        plugin = {
            "name": "a",
            "transport": "http",
            "endpoint": "http://127.0.0.1:1/a",
            "auth": {"method": "bearer", "token": "s3cr3t"},
        }
        manager = loaded(kind({"plugins": [plugin]}))
        with pytest.raises(TypeError, match=r"may be secret \(plugins\[0\]\.auth\.token\)") as caught:
            pickle.dumps(manager)
        assert "s3cr3t" not in str(caught.value)

    def test_secrets_of_the_environment_are_not_pickled(self, monkeypatch):
        monkeypatch.setenv("TOKEN", "s3cr3t")
        plugin = {
            "name": "a",
            "transport": "http",
            "endpoint": "http://127.0.0.1:1/a",
            "auth": {"method": "bearer", "token": "${TOKEN}"},
        }
        for kind in (dict, ManagerConfig.from_mapping):
            pickled = pickle.dumps(loaded(kind({"plugins": [plugin]})))
            assert b"s3cr3t" not in pickled
            assert b"${TOKEN}" in pickled


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"endpoint": "http://${HOST}/x"}, []),
        ({"endpoint": "http://me:pw@host/x"}, ["endpoint"]),
        ({"endpoint": "http://me:pw@${HOST}/x"}, ["endpoint"]),
        ({"endpoint": "http://${USER}:${PASSWORD}@host/x"}, []),
        ({"endpoint": "http://host/x?key=abc"}, ["endpoint"]),
        ({"endpoint": "@abstract"}, []),
        ({"auth": {"token": "${TOKEN}"}}, []),
        ({"auth": {"token": "${TOKEN:}"}}, []),
        ({"auth": {"token": "${TOKEN:development}"}}, ["auth.token"]),
        ({"auth": {"token": "v1.${TOKEN}"}}, ["auth.token"]),
        ({"auth": {"method": "custom", "headers": {"X-Key": "${KEY}"}}}, []),
        ({"auth": {"method": "custom", "headers": {"X-Key": "abc"}}}, ["auth.headers"]),
        ({"auth": {"token_file": "/run/token", "ca_file": "/etc/ca.pem"}}, []),
        ({"env": ["MODE=${MODE}"]}, []),
        ({"env": ["TOKEN=abc"]}, ["env"]),
        ({"options": {"proxy": "http://proxy:3128"}}, []),
        ({"options": {"proxy": "http://me:pw@proxy:3128"}}, ["options"]),
        ({"options": {"api_key": "abc"}}, ["options"]),
        ({"options": {"api_key": "${KEY}", "retries": 3}}, []),
        ({"labels": {"team": "a"}}, []),
    ],
)
def test_which_values_may_be_secret(fields, found):
    """Values that would be masked, unless they come from the environment."""
    values = {"plugins": [{"name": "other"}, {"name": "p", **fields}]}
    assert list(literal_secrets(values)) == [f"plugins[1].{path}" for path in found]


def test_secrets_in_configuration_classes():
    auth = AuthConfig(method="basic", username="me", password="pw")  # type: ignore[arg-type]
    config = ManagerConfig(plugins=[PluginConfig(name="p", auth=auth)])  # type: ignore[arg-type]
    assert list(literal_secrets(config)) == ["plugins[0].auth.password"]
