"""Plugins in this process: named by the configuration, called as if they were remote."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from goplugins.config import ConnectionConfig, PluginConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    ConfigError,
    InvalidEndpointFormatError,
    MissingEndpointError,
    PluginClosedError,
    PluginExecutionError,
    PluginInternalError,
    PluginRequestError,
    PluginTimeoutError,
    ReplyTypeError,
    SaturatedError,
    UnserializableRequestError,
)
from goplugins.serve.in_process import FunctionPlugin, FunctionPluginFactory
from goplugins.transports.json_codec import codec_for
from tests.integration.function import plugins
from tests.integration.unix.conftest import call, new_call
from tests.timing import time_limit

HERE = "tests.integration.function.plugins:"


def config(endpoint: str, *, isolate: bool = False, **connection: Any) -> PluginConfig:
    return PluginConfig(
        name="p",
        transport="python",  # type: ignore[arg-type]
        endpoint=endpoint,
        options={"isolate": True} if isolate else {},
        connection=ConnectionConfig(**connection),
    )


@pytest.fixture(params=[False, True], ids=["on the caller's thread", "isolated"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., FunctionPlugin]]:
    made: list[FunctionPlugin] = []

    def build(name: str, **connection: Any) -> FunctionPlugin:
        made.append(FunctionPlugin(config(HERE + name, isolate=request.param, **connection)))
        return made[-1]

    yield build
    plugins.released.set()
    for plugin in made:
        plugin.close()
    plugins.released.clear()


@pytest.fixture
def isolated() -> Iterator[Callable[..., FunctionPlugin]]:
    made: list[FunctionPlugin] = []

    def build(name: str, **connection: Any) -> FunctionPlugin:
        made.append(FunctionPlugin(config(HERE + name, isolate=True, **connection)))
        return made[-1]

    yield build
    plugins.released.set()
    for plugin in made:
        plugin.close()
        for thread in threading.enumerate():
            if thread.name == "goplugins-p-worker":
                thread.join(5)
    plugins.released.clear()


class TestCalls:
    @pytest.mark.parametrize("value", [None, 2**64, "é\u2028", [1, [None]], {"a": {"b": True}}], ids=repr)
    def test_values_come_back(self, make, value):
        assert call(make("plain"), value) == value

    def test_typed_function_from_plain_json(self, make):
        assert call(make("served"), {"text": "ab", "times": 2}) == "abab"

    def test_types_of_the_caller_are_not_those_of_the_plugin(self, make):
        plugin = make("served")
        made = new_call(plugins.Question("x"))
        made.codec = codec_for(plugins.Question, int)
        plugin.prepare(made)
        with pytest.raises(ReplyTypeError):
            plugin.send(made)

    def test_no_object_is_shared_with_the_caller(self, make):
        mine: dict[str, Any] = {}
        assert call(make("spoil"), mine) == {"spoilt": True}
        assert mine == {}

    def test_the_context_has_the_deadline(self, make):
        assert 1.5 < call(make("remaining"), timeout=2.0) <= 2.0

    def test_business_error(self, make):
        with pytest.raises(PluginExecutionError, match="no") as caught:
            call(make("reject"))
        assert caught.value.details["metadata"] == {"error_code": "E1"}

    def test_exception_is_the_cause(self, make):
        with pytest.raises(PluginInternalError, match="ValueError") as caught:
            call(make("fail"))
        assert isinstance(caught.value.__cause__, ValueError)

    def test_request_that_does_not_fit(self, make):
        with pytest.raises(PluginRequestError, match="does not fit"):
            call(make("served"), {"words": 1})

    def test_request_and_response_that_are_no_json(self, make):
        with pytest.raises(UnserializableRequestError):
            call(make("plain"), object())
        with pytest.raises(PluginInternalError, match="can't be written as JSON"):
            call(make("unserialisable"))

    def test_health_and_info(self, make):
        plugin = make("served")
        assert plugin.health(1).status is PluginStatus.HEALTHY
        assert (plugin.info().name, plugin.info().version) == ("served", "3.0")
        assert make("plain").info().description == "A plain function."

    def test_an_object_with_the_plugin_methods(self, make):
        plugin = make("an_object")
        thing = object()
        made = new_call(thing)
        plugin.prepare(made)
        assert plugin.send(made) is thing
        assert plugin.health(1).status is PluginStatus.DEGRADED
        assert plugin.info().version == "9"
        plugin.close()
        assert not plugins.an_object.closed  # its module owns it

    def test_after_close(self, make):
        plugin = make("plain")
        plugin.close()
        plugin.close()
        with pytest.raises(PluginClosedError):
            call(plugin)
        assert plugin.health(1).status is PluginStatus.UNKNOWN

    def test_expired_deadline_calls_nothing(self, make):
        with pytest.raises(PluginTimeoutError):
            call(make("fail"), timeout=-1)

    def test_direct_execution_with_plain_json(self, make):
        assert make("plain").execute({"a": 1}) == {"a": 1}


class TestIsolation:
    def test_a_hanging_call_ends_at_the_deadline(self, isolated):
        plugin = isolated("hang")
        for stopwatch in time_limit(0.2):
            with stopwatch, pytest.raises(PluginTimeoutError, match="keeps its worker thread"):
                call(plugin, timeout=0.1)

    def test_workers_are_limited_and_used_again(self, isolated):
        plugin = isolated("hang", max_connections=2)
        for _ in range(2):
            with pytest.raises(PluginTimeoutError):
                call(plugin, timeout=0.05)
        with pytest.raises(SaturatedError):
            call(plugin, timeout=0.05)
        assert plugin.health(0.05).status is PluginStatus.UNKNOWN
        plugins.released.set()
        assert call(plugin, timeout=2.0) == "late"

    def test_calls_beyond_the_workers_wait(self, isolated):
        plugin = isolated("short_sleep", max_connections=2)
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(lambda number: call(plugin, number), range(32))) == list(range(32))

    def test_it_runs_on_another_thread_in_the_callers_context(self, isolated):
        token = plugins.where.set("here")
        try:
            assert call(isolated("thread_and_context")) == ["goplugins-p-worker", "here"]
        finally:
            plugins.where.reset(token)

    def test_without_isolation_it_runs_on_the_callers_thread(self):
        plugin = FunctionPlugin(config(HERE + "thread_and_context"))
        assert call(plugin)[0] == threading.current_thread().name


class TestNames:
    @pytest.mark.parametrize(
        ("endpoint", "message"),
        [
            ("no_such_module_at_all:x", "there is no module 'no_such_module_at_all'"),
            (HERE + "missing", "has no attribute 'missing'"),
            (HERE + "not_callable", "can't be called"),
            (HERE + "Object", "is a class"),
            (HERE + "wrong_arguments", "expected f\\(request\\)"),
            ("no-such-entry-point", "no entry point 'no-such-entry-point'"),
        ],
    )
    def test_wrong_name_is_an_error_of_the_configuration(self, endpoint, message):
        with pytest.raises(ConfigError, match=message) as caught:
            FunctionPluginFactory().create_plugin(config(endpoint))
        assert caught.value.path == "endpoint"

    def test_the_error_for_a_module_that_fails_to_import_names_its_line(self, tmp_path, monkeypatch):
        (tmp_path / "broken_module_of_test.py").write_text("x = 1\nraise RuntimeError('at import')\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(ConfigError, match=r"RuntimeError: at import .*broken_module_of_test.py, line 2"):
            FunctionPlugin(config("broken_module_of_test:f"))

    @pytest.mark.parametrize(("endpoint", "error"), [("", MissingEndpointError), ("a b:c", InvalidEndpointFormatError)])
    def test_form_is_checked_without_an_import(self, endpoint, error):
        with pytest.raises(error):
            FunctionPluginFactory().validate_config(config(endpoint))

    def test_check_imports_nothing(self):
        FunctionPluginFactory().validate_config(config("no_such_module_at_all:x"))

    def test_installed_entry_point(self, tmp_path, monkeypatch):
        _install(tmp_path, "one", "greet = entry_point_of_test:greet")
        (tmp_path / "entry_point_of_test.py").write_text(
            "def greet(request: str) -> str:\n    return 'hello ' + request\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        try:
            assert call(FunctionPlugin(config("greet")), "you") == "hello you"
            _install(tmp_path, "two", "greet = another:greet")
            with pytest.raises(ConfigError, match="more than one installed package"):
                FunctionPlugin(config("greet"))
        finally:
            sys.modules.pop("entry_point_of_test", None)


def _install(folder: Path, package: str, line: str) -> None:
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[goplugins.plugins]\n{line}\n")
