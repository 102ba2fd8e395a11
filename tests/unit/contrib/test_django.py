"""Plugins in a Django project: settings, the lazy manager, middleware, health view, checks and commands."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import AsyncClient, Client, RequestFactory, override_settings

from goplugins import ConfigError, Manager, PluginError, PluginNotFoundError
from tests.unit.contrib import project
from tests.unit.contrib.probes import register_probe

project.start()

from django.core import checks  # noqa: E402 - needs the settings

from goplugins.contrib.django import hosted, plugins, project_settings, reset  # noqa: E402
from goplugins.contrib.django.checks import check_configuration, check_middleware  # noqa: E402
from goplugins.contrib.django.middleware import PluginCallsMiddleware  # noqa: E402

ONE = '{"plugins": [{"name": "away", "transport": "unix", "endpoint": "/nowhere/socket"}]}'
PROBE = {"SETUP": "tests.unit.contrib.probes.register_probe"}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    reset()
    yield
    reset()


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


# --- the manager ---------------------------------------------------------------------------------------------------


def test_the_manager_is_created_at_first_use() -> None:
    assert repr(plugins) == "<the plugins of the Django project>"
    assert not hosted.is_made
    with override_settings(GOPLUGINS=PROBE):
        assert list(plugins.list_plugins()) == ["probe"]
        assert hosted.is_made


def test_the_manager_is_created_once_by_concurrent_threads() -> None:
    made: list[Any] = []
    barrier = threading.Barrier(8)
    found: list[Any] = []

    def get() -> None:
        barrier.wait()
        found.append(hosted.get())

    with override_settings(GOPLUGINS={"SETUP": made.append}):
        threads = [threading.Thread(target=get) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 1
    assert all(each is made[0] for each in found)


def test_setup_may_use_the_manager() -> None:
    def setup(manager: Manager[Any, Any]) -> None:
        register_probe(manager)
        assert plugins.execute("probe", "")["timeout"] > 0

    with override_settings(GOPLUGINS={"SETUP": setup}):
        assert "probe" in plugins.list_plugins()


def test_an_invalid_configuration_is_read_again_at_the_next_use(tmp_path: Any) -> None:
    path = tmp_path / "plugins.json"
    with override_settings(GOPLUGINS={"CONFIG": str(path)}):
        with pytest.raises(ConfigError):
            plugins.list_plugins()
        path.write_text(ONE)
        assert list(plugins.list_plugins()) == ["away"]


def test_changed_settings_take_effect_at_once_also_for_bound_plugins() -> None:
    probe = plugins.bind("probe")
    with override_settings(GOPLUGINS=PROBE):
        before = hosted.get()
        assert probe("")["request_id"]
        with override_settings(GOPLUGINS={}), pytest.raises(PluginNotFoundError):
            probe("")
        assert hosted.get() is not before
        assert probe("")["request_id"]


def test_bind_needs_both_types_or_none() -> None:
    with pytest.raises(ValueError, match="neither"):
        plugins.bind("probe", str)  # type: ignore[call-overload]


def test_an_operation_can_be_bound() -> None:
    with override_settings(GOPLUGINS=PROBE):
        bound = plugins.bind("probe", str, None, operation="look")
        assert "look" in repr(bound)
        with pytest.raises(PluginError) as caught:
            bound("")
        assert caught.value.operation == "look"


def test_the_configuration_file_is_watched(tmp_path: Any) -> None:
    path = tmp_path / "plugins.json"
    path.write_text(ONE)
    with override_settings(GOPLUGINS={"CONFIG": path, "WATCH": True}):
        assert list(plugins.list_plugins()) == ["away"]
        assert [watch.path for watch in hosted.get()._loader._watches.values()] == [str(path)]


# --- requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["/view", "/async"])
def test_calls_get_the_remaining_time_of_the_request(client: Client, page: str) -> None:
    with override_settings(GOPLUGINS={**PROBE, "TIMEOUT": "10s"}):
        assert 9 < client.get(page).json()["timeout"] <= 10
        assert 1 < client.get(page, headers={"X-Request-Timeout": "2s"}).json()["timeout"] <= 2
        assert client.get(page, headers={"grpc-timeout": "500m"}).json()["timeout"] <= 0.5
        assert 9 < client.get(page, headers={"X-Request-Timeout": "60"}).json()["timeout"] <= 10
        assert 9 < client.get(page, headers={"X-Request-Timeout": "soon"}).json()["timeout"] <= 10


@pytest.mark.parametrize("page", ["/view", "/async"])
def test_the_request_id_is_passed_to_calls_and_returned(client: Client, page: str) -> None:
    with override_settings(GOPLUGINS=PROBE):
        answer = client.get(page, headers={"X-Request-ID": "order-7"})
        assert answer.headers["X-Request-ID"] == "order-7"
        assert answer.json()["request_id"].startswith("order-7.")
        answer = client.get(page, headers={"X-Request-ID": "a b"})
        assert answer.json()["request_id"].startswith(answer.headers["X-Request-ID"] + ".")


@pytest.mark.parametrize("page", ["/view", "/async", "/stream", "/async-stream"])
def test_asynchronous_requests_have_timeout_and_request_id(page: str) -> None:
    async def fetch() -> tuple[str, str]:
        answer = await AsyncClient().get(page, headers={"X-Request-ID": "order-7", "X-Request-Timeout": "2"})
        if not answer.streaming:
            return answer.headers["X-Request-ID"], answer.content.decode()
        assert answer.is_async == (page == "/async-stream")
        parts = [part async for part in answer] if answer.is_async else list(answer)
        return answer.headers["X-Request-ID"], b"".join(parts).decode()

    with override_settings(GOPLUGINS=PROBE):
        given, text = asyncio.run(fetch())
    assert given == "order-7"
    for line in text.splitlines():
        reply = json.loads(line)
        assert reply["timeout"] <= 2
        assert reply["request_id"].startswith("order-7.")


def test_concurrent_requests_have_their_own_timeouts_and_ids() -> None:
    async def fetch(number: int) -> Any:
        client = AsyncClient()
        return (await client.get("/async", headers={"X-Request-ID": f"r{number}", "grpc-timeout": f"{number}S"})).json()

    async def fetch_all() -> list[Any]:
        return await asyncio.gather(*(fetch(number) for number in range(1, 9)))

    with override_settings(GOPLUGINS=PROBE):
        for number, reply in enumerate(asyncio.run(fetch_all()), 1):
            assert reply["request_id"].startswith(f"r{number}.")
            assert number - 1 < reply["timeout"] <= number


def test_a_stream_has_the_timeout_of_the_header_only(client: Client) -> None:
    with override_settings(GOPLUGINS={**PROBE, "TIMEOUT": 1}):
        answer: Any = client.get("/stream", headers={"X-Request-Timeout": "20", "X-Request-ID": "order-7"})
        for line in answer.getvalue().splitlines():
            reply = json.loads(line)
            assert 19 < reply["timeout"] <= 20
            assert reply["request_id"].startswith("order-7.")


def test_a_view_that_raises_leaves_no_deadline_and_no_request_id(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    with override_settings(GOPLUGINS={**PROBE, "TIMEOUT": 0.5}):
        answer = client.get("/broken", headers={"X-Request-ID": "order-7"})
        assert (answer.status_code, answer.headers["X-Request-ID"]) == (500, "order-7")
        reply = plugins.execute("probe", "")
    assert reply["timeout"] > 29
    assert "." not in reply["request_id"]


def test_a_request_id_header_of_the_view_is_kept(client: Client) -> None:
    answer = client.get("/own-id", headers={"X-Request-ID": "order-7"})
    assert (answer.content, answer.headers["X-Request-ID"]) == (b"order-7", "mine")


def test_headers_can_be_renamed_and_ids_disabled(client: Client) -> None:
    values = {**PROBE, "TIMEOUT_HEADERS": ["X-Patience"], "REQUEST_ID_HEADER": ""}
    with override_settings(GOPLUGINS=values):
        answer = client.get("/view", headers={"X-Patience": "1", "X-Request-ID": "order-7"})
    assert answer.json()["timeout"] <= 1
    assert "X-Request-ID" not in answer.headers
    assert "order-7" not in answer.json()["request_id"]


def test_invalid_settings_raise_at_the_start_of_the_server() -> None:
    with override_settings(GOPLUGINS={"TIMEOUT": -1}), pytest.raises(ConfigError, match="TIMEOUT"):
        PluginCallsMiddleware(lambda request: None)  # type: ignore[arg-type,return-value]


def test_file_responses_are_not_wrapped(tmp_path: Any) -> None:
    from django.http import FileResponse

    path = tmp_path / "file"
    path.write_bytes(b"content")
    response = FileResponse(path.open("rb"))
    found = PluginCallsMiddleware(lambda request: response)(RequestFactory().get("/"))
    assert found is response
    assert response.file_to_stream is not None
    response.close()


def test_a_file_response_without_a_file_is_a_stream() -> None:
    from django.http import FileResponse

    with override_settings(GOPLUGINS={**PROBE, "TIMEOUT": "9s"}):
        reply = []

        def parts() -> Iterator[bytes]:
            reply.append(plugins.execute("probe", "")["request_id"])
            yield b"part"

        request = RequestFactory().get("/", headers={"X-Request-ID": "order-7"})
        response = PluginCallsMiddleware(lambda request: FileResponse(parts()))(request)
        assert b"".join(response) == b"part"  # type: ignore[arg-type]
    assert reply[0].startswith("order-7.")


# --- the health view -----------------------------------------------------------------------------------------------


def test_the_health_view_names_plugins_that_are_not_ready(client: Client) -> None:
    values = {**PROBE, "CONFIG": json.loads(ONE)}
    with override_settings(GOPLUGINS={**values, "HEALTH_REQUIRED": ["probe"]}):
        plugins.health()
        assert client.get("/health").json() == {"status": "ready"}
    with override_settings(GOPLUGINS=values):
        plugins.health()
        answer = client.get("/health")
        assert answer.status_code == 503
        assert list(answer.json()["culprits"]) == ["away"]
        assert "no-store" in answer.headers["Cache-Control"]
    with override_settings(GOPLUGINS={**values, "HEALTH_REQUIRED": ["missing"]}):
        assert client.get("/health").json()["culprits"] == {"missing": "not there"}
    assert client.post("/health").status_code == 405


def test_an_invalid_configuration_is_not_ready_and_not_shown(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(GOPLUGINS={"CONFIG": "/nowhere/secret.yaml"}):
        answer = client.get("/health")
    assert answer.status_code == 503
    assert "secret" not in answer.content.decode()
    assert "/nowhere/secret.yaml" in caplog.text


# --- checks --------------------------------------------------------------------------------------------------------


def found(values: Any) -> list[tuple[str | None, str, str | None]]:
    with override_settings(GOPLUGINS=values):
        return [(each.id, each.msg, each.hint) for each in check_configuration()]


def test_the_checks_are_registered() -> None:
    assert "goplugins" in checks.registry.registry.tags_available()
    with override_settings(GOPLUGINS={"TIMEOUT": "soon"}):
        assert [each.id for each in checks.run_checks(tags=["goplugins"])] == ["goplugins.E001"]


def test_valid_settings_have_no_problem(tmp_path: Any) -> None:
    path = tmp_path / "plugins.json"
    path.write_text('{"plugins": [{"name": "a", "transport": "http", "endpoint": "http://a.example.com"}]}')
    for values in ({}, {"CONFIG": path}, {"CONFIG": str(path), "WATCH": True, "TIMEOUT": 3}, PROBE):
        assert found(values) == []


def test_each_invalid_setting_is_reported_with_its_path_and_a_hint() -> None:
    values = {
        "CONFIG": 7,
        "TIMEOUT": 0,
        "TIMEOUTS": 3,
        "WATCH": "yes",
        "SETUP": "no.such.thing",
        "HEALTH_REQUIRED": "a",
    }
    problems = found(values)
    assert {number for number, _, _ in problems} == {"goplugins.E001"}
    assert sorted(text.partition(":")[0] for _, text, _ in problems) == [
        f"settings.GOPLUGINS[{name!r}]" for name in sorted(values)
    ]
    assert ("did you mean 'TIMEOUT'?") in [hint for _, _, hint in problems]


@pytest.mark.parametrize(
    "values",
    [{"TIMEOUT": True}, {"TIMEOUT": "3"}, {"REQUEST_ID_HEADER": "X: Y"}, {"TIMEOUT_HEADERS": ["a b"]}, "CONFIG"],
)
def test_invalid_values_of_settings(values: Any) -> None:
    assert [number for number, _, _ in found(values)] == ["goplugins.E001"]


def test_watch_needs_a_file() -> None:
    assert "no file to follow" in found({"CONFIG": {"plugins": []}, "WATCH": True})[0][1]


def test_a_file_that_cannot_be_read(tmp_path: Any) -> None:
    assert [number for number, _, _ in found({"CONFIG": tmp_path / "none.json"})] == ["goplugins.E002"]
    path = tmp_path / "plugins.json"
    path.write_text("{")
    assert [number for number, _, _ in found({"CONFIG": path})] == ["goplugins.E002"]


def test_each_problem_of_the_configuration_is_reported(tmp_path: Any) -> None:
    path = tmp_path / "plugins.json"
    path.write_text('{"plugins": [{"name": "a", "transport": "http"}, {"name": "a", "transport": "htp", "ende": 1}]}')
    problems = found({"CONFIG": path})
    assert len(problems) >= 3
    assert {number for number, _, _ in problems} == {"goplugins.E003"}
    assert all(text.startswith(f"{path}: plugins[") for _, text, _ in problems)
    assert all(hint for _, _, hint in problems)


class OwnMiddleware(PluginCallsMiddleware):
    """A subclass of a project."""


def test_a_missing_middleware_is_a_warning() -> None:
    with override_settings(GOPLUGINS=PROBE):
        assert check_middleware() == []
        with override_settings(MIDDLEWARE=[]):
            assert [each.id for each in check_middleware()] == ["goplugins.W001"]
        with override_settings(MIDDLEWARE=["nowhere.Middleware", f"{__name__}.OwnMiddleware"]):
            assert check_middleware() == []
    with override_settings(MIDDLEWARE=[]):
        assert check_middleware() == []  # a project without plugins


# --- commands ------------------------------------------------------------------------------------------------------


def command(*words: str) -> str:
    out = io.StringIO()
    call_command("plugins", *words, stdout=out, skip_checks=True)
    return out.getvalue()


def test_status_lists_plugins_and_fails_if_one_is_unhealthy() -> None:
    with override_settings(GOPLUGINS=PROBE):
        assert command("status").split()[:2] == ["probe", "healthy"]
    with override_settings(GOPLUGINS={"CONFIG": json.loads(ONE)}), pytest.raises(CommandError, match="not all"):
        command("status")
    assert command("status") == "no plugins\n"


def test_call_writes_the_answer_as_json() -> None:
    with override_settings(GOPLUGINS=PROBE):
        assert json.loads(command("call", "probe", '""', "--timeout", "3"))["timeout"] <= 3
        with pytest.raises(CommandError, match="not JSON"):
            command("call", "probe", "hello")
        with pytest.raises(CommandError, match="no plugin of this name"):
            command("call", "prob", '""')
        with pytest.raises(CommandError, match="'probe' has no operation 'get'"):
            command("call", "probe", '""', "--operation", "get")


def test_explain() -> None:
    with override_settings(GOPLUGINS=PROBE):
        assert "probe" in command("explain", "probe")


def test_reload_checks_the_file_and_signals_the_process(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plugins.json"
    path.write_text(ONE)
    with override_settings(GOPLUGINS={"CONFIG": path, "WATCH": True}):
        assert f"workers watch {path}" in command("reload")
    with override_settings(GOPLUGINS={"CONFIG": path}):
        with pytest.raises(CommandError, match="don't watch"):
            command("reload")
        signalled: list[Any] = []
        monkeypatch.setattr("os.kill", lambda *words: signalled.append(words))
        pid_file = tmp_path / "pid"
        pid_file.write_text("4711\n")
        command("reload", "--pid", str(pid_file))
        command("reload", "--pid", "4712")
        assert [process for process, _ in signalled] == [4711, 4712]
        for invalid in ("0", "1", str(tmp_path / "none")):
            with pytest.raises(CommandError, match="--pid"):
                command("reload", "--pid", invalid)
        assert len(signalled) == 2
    path.write_text("{")
    with override_settings(GOPLUGINS={"CONFIG": path}), pytest.raises(CommandError, match="JSON"):
        command("reload", "--pid", "4711")
    assert len(signalled) == 2


def test_settings_are_read_once() -> None:
    with override_settings(GOPLUGINS=PROBE):
        assert project_settings() is project_settings()
