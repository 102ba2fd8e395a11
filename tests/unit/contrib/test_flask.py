"""Plugins in Flask applications: the extension, the proxy, requests, the health page and the commands."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, jsonify, stream_with_context

from goplugins import CallInfo, ConfigError, ExecutionContext, Manager, serve
from goplugins.contrib.flask import GoPlugins, current_plugins, current_request_id, health_blueprint
from tests.unit.contrib.probes import register_probe

ONE = {"plugins": [{"name": "away", "transport": "unix", "endpoint": "/nowhere/socket"}]}

bound = current_plugins.bind("probe", str, dict)  # at import, before there is an application

Make = Callable[..., Flask]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[tuple[GoPlugins, Flask]] = []

    def application(setup: Any = register_probe, **config: Any) -> Flask:
        app = Flask("shop")
        app.config.update(config)
        extension = GoPlugins(setup=setup)
        extension.init_app(app)
        made.append((extension, app))

        @app.get("/view")
        def view() -> Response:
            return jsonify(bound(""))

        @app.get("/stream")
        def stream() -> Response:
            @stream_with_context
            def parts() -> Iterator[str]:
                for _ in range(2):
                    yield json.dumps(current_plugins.execute("probe", "")) + "\n"

            return Response(parts())

        @app.get("/broken")
        def broken() -> Response:
            raise RuntimeError("of a view")

        app.register_blueprint(health_blueprint())
        return app

    yield application
    for extension, app in made:
        extension.reset(app)


# --- the manager ---------------------------------------------------------------------------------------------------


def test_the_manager_is_created_at_first_use(make: Make) -> None:
    made: list[Any] = []
    app = make(setup=made.append)
    assert made == []
    with app.app_context():
        assert current_plugins.list_plugins() == {}
        assert current_plugins.list_plugins() == {}
    assert len(made) == 1
    assert repr(current_plugins) == "<the plugins of the current Flask application>"


def test_each_application_has_its_own_manager(make: Make) -> None:
    def named(name: str) -> Callable[[Manager[Any, Any]], None]:
        @serve.plugin(name="name")
        def plugin(request: str) -> str:
            return name

        return lambda manager: manager.register(plugin)

    one, two = make(setup=named("one")), make(setup=named("two"))
    with one.app_context():
        assert current_plugins.execute("name", "") == "one"
        with two.app_context():
            assert current_plugins.execute("name", "") == "two"
        assert current_plugins.execute("name", "") == "one"


def test_one_extension_serves_several_applications() -> None:
    extension = GoPlugins(setup=register_probe)
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        extension.init_app(app)
    managers = [extension.manager(app) for app in apps]
    assert managers[0] is not managers[1]
    for app in apps:
        extension.reset(app)
    assert extension.manager(apps[0]) is not managers[0]
    extension.reset(apps[0])


def test_outside_of_an_application_flask_raises() -> None:
    with pytest.raises(RuntimeError, match="application context"):
        current_plugins.list_plugins()


def test_an_application_without_the_extension_raises_a_config_error() -> None:
    with Flask("shop").app_context(), pytest.raises(ConfigError, match="GoPlugins"):
        current_plugins.list_plugins()


def test_an_application_is_initialized_once(make: Make) -> None:
    with pytest.raises(ConfigError, match="already"):
        GoPlugins(make())


def test_settings_are_a_mapping_or_prefixed_keys(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(ONE))
    for config in ({"GOPLUGINS": {"CONFIG": path}}, {"GOPLUGINS_CONFIG": str(path)}):
        with make(setup=None, **config).app_context():
            assert list(current_plugins.list_plugins()) == ["away"]


def test_invalid_settings_raise_at_init_app(make: Make) -> None:
    with pytest.raises(ConfigError) as raised:
        make(GOPLUGINS={"TIMEOUT": 0}, GOPLUGINS_TIMEOUTS=3)
    assert [problem.path for problem in raised.value.problems] == [
        "app.config['GOPLUGINS']['TIMEOUT']",
        "app.config['GOPLUGINS']['TIMEOUTS']",
    ]


# --- requests ------------------------------------------------------------------------------------------------------


def test_calls_get_the_remaining_time_of_the_request(make: Make) -> None:
    client = make(GOPLUGINS={"TIMEOUT": "10s"}).test_client()

    def left(**headers: str) -> float:
        reply = client.get("/view", headers={name.replace("_", "-"): value for name, value in headers.items()})
        return float(reply.get_json()["timeout"])

    assert 9 < left() <= 10
    assert 1 < left(X_Request_Timeout="2s") <= 2
    assert left(grpc_timeout="500m") <= 0.5
    assert 9 < left(X_Request_Timeout="60") <= 10
    assert 9 < left(X_Request_Timeout="soon") <= 10


def test_the_request_id_is_passed_to_calls_and_returned(make: Make) -> None:
    client = make().test_client()
    answer = client.get("/view", headers={"X-Request-ID": "order-7"})
    assert answer.headers["X-Request-ID"] == "order-7"
    assert answer.get_json()["request_id"].startswith("order-7.")
    answer = client.get("/view", headers={"X-Request-ID": "a b"})
    assert answer.get_json()["request_id"].startswith(answer.headers["X-Request-ID"] + ".")


def test_a_stream_has_the_timeout_of_the_header_only(make: Make) -> None:
    client = make(GOPLUGINS_TIMEOUT=1).test_client()
    answer = client.get("/stream", headers={"X-Request-Timeout": "20", "X-Request-ID": "order-7"})
    lines = answer.text.splitlines()
    assert len(lines) == 2
    for line in lines:
        reply = json.loads(line)
        assert 19 < reply["timeout"] <= 20
        assert reply["request_id"].startswith("order-7.")


def test_a_view_that_raises_leaves_no_deadline_and_no_request_id(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    app = make(GOPLUGINS_TIMEOUT=0.5)
    answer = app.test_client().get("/broken", headers={"X-Request-ID": "order-7"})
    assert (answer.status_code, answer.headers["X-Request-ID"]) == (500, "order-7")
    assert current_request_id() is None
    with app.app_context():
        assert bound("")["timeout"] > 29


def test_submitted_calls_keep_the_application_of_the_request(make: Make) -> None:
    app = make()

    @app.get("/submitted")
    def submitted() -> Response:
        return jsonify([future.result() for future in [current_plugins.submit("probe", "") for _ in range(3)]])

    reply = (
        app.test_client().get("/submitted", headers={"X-Request-ID": "order-7", "X-Request-Timeout": "2"}).get_json()
    )
    assert all(each["request_id"].startswith("order-7.") and each["timeout"] <= 2 for each in reply)


# --- the health page -----------------------------------------------------------------------------------------------


def test_the_health_page_names_plugins_that_are_not_ready(make: Make) -> None:
    app = make(GOPLUGINS={"CONFIG": ONE, "HEALTH_REQUIRED": ["probe"]})
    with app.app_context():
        current_plugins.health()
    assert app.test_client().get("/health/plugins").get_json() == {"status": "ready"}
    app = make(GOPLUGINS={"CONFIG": ONE})
    with app.app_context():
        current_plugins.health()
    answer = app.test_client().get("/health/plugins")
    assert answer.status_code == 503
    assert list(answer.get_json()["culprits"]) == ["away"]
    assert answer.headers["Cache-Control"] == "no-store"


def test_an_invalid_configuration_is_not_ready_and_not_shown(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    answer = make(GOPLUGINS_CONFIG="/nowhere/secret.yaml").test_client().get("/health/plugins")
    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert "/nowhere/secret.yaml" in caplog.text


# --- commands ------------------------------------------------------------------------------------------------------


def run(app: Flask, *words: str) -> tuple[int, str]:
    result = app.test_cli_runner().invoke(args=["plugins", *words])
    return result.exit_code, result.output


def test_status(make: Make) -> None:
    code, text = run(make(), "status")
    assert (code, text.split()[:2]) == (0, ["probe", "healthy"])
    code, text = run(make(GOPLUGINS_CONFIG=ONE), "status")
    assert code == 1
    assert "away" in text


def test_call_and_explain(make: Make) -> None:
    app = make()
    assert "'probe' has no operation 'get'" in run(app, "call", "probe", '""', "--operation", "get")[1]
    code, text = run(app, "call", "probe", '""', "--timeout", "3")
    assert code == 0
    assert json.loads(text)["timeout"] <= 3
    assert run(app, "call", "probe", "hello")[0] == 1
    assert "no plugin of this name" in run(app, "call", "prob", '""')[1]
    assert "probe" in run(app, "explain", "probe")[1]


def test_reload(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plugins.json"
    path.write_text(json.dumps(ONE))
    assert f"workers watch {path}" in run(make(GOPLUGINS={"CONFIG": path, "WATCH": True}), "reload")[1]
    code, text = run(make(GOPLUGINS={"CONFIG": path}), "reload")
    assert code == 1
    assert "don't watch" in text
    signalled: list[Any] = []
    monkeypatch.setattr("os.kill", lambda *words: signalled.append(words))
    assert run(make(GOPLUGINS={"CONFIG": path}), "reload", "--pid", "4711")[0] == 0
    path.write_text("{")
    assert run(make(GOPLUGINS={"CONFIG": path}), "reload", "--pid", "4711")[0] == 1
    assert len(signalled) == 1


def mark(call: CallInfo, proceed: Callable[[], Any]) -> Any:
    call.metadata = {**call.metadata, "by": "mark"}
    return proceed()


@pytest.mark.parametrize("interceptor", [mark, f"{__name__}.mark", f"{__name__}:mark"])
def test_interceptors_are_a_setting(make: Make, interceptor: Any) -> None:
    app = make(setup=register_metadata, GOPLUGINS={"INTERCEPTORS": [interceptor]})
    with app.app_context():
        assert current_plugins.execute("metadata", "", operation="show") == {"by": "mark"}
        assert current_plugins.bind("metadata", str, dict, operation="show")("") == {"by": "mark"}


def register_metadata(manager: Manager[Any, Any]) -> None:
    plugin = serve.Plugin("metadata")

    @plugin.operation
    def show(text: str, context: ExecutionContext) -> dict[str, str]:
        return dict(context.metadata)

    manager.register(plugin)


@pytest.mark.parametrize("interceptors", [["nowhere.mark"], [3], "mark", [lambda call: None]])
def test_a_wrong_interceptor_is_reported(make: Make, interceptors: Any) -> None:
    with pytest.raises(ConfigError, match="INTERCEPTORS"):
        make(GOPLUGINS={"INTERCEPTORS": interceptors})
