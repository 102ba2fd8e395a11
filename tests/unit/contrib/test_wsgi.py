"""The middleware for plain WSGI applications."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from goplugins import Manager, PluginTimeoutError
from goplugins.contrib.wsgi import PluginCalls, current_request_id
from tests.unit.contrib.probes import get, manager_with_probe


@pytest.fixture
def manager() -> Iterator[Manager[Any, Any]]:
    with manager_with_probe() as made:
        yield made


@pytest.fixture
def view(manager: Manager[Any, Any]) -> Callable[..., list[bytes]]:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(manager.execute("probe", "")).encode()]

    return application


def test_calls_get_the_remaining_time_of_the_request(view: Any) -> None:
    reply = json.loads(get(PluginCalls(view, timeout=10), x_request_timeout="2s").text)
    assert 1.9 < reply["timeout"] <= 2


def test_the_setting_applies_without_a_header(view: Any) -> None:
    reply = json.loads(get(PluginCalls(view, timeout=10)).text)
    assert 9.9 < reply["timeout"] <= 10


def test_invalid_headers_are_ignored(view: Any) -> None:
    answer = get(PluginCalls(view), x_request_timeout="soon", grpc_timeout="later", x_request_id="a\r\nb: c")
    assert answer.status == "200 OK"
    assert json.loads(answer.text)["timeout"] > 29
    assert "\r" not in answer.headers["X-Request-ID"]


def test_the_request_id_is_passed_to_calls_and_returned(view: Any) -> None:
    answer = get(PluginCalls(view), x_request_id="order-7")
    assert answer.headers["X-Request-ID"] == "order-7"
    assert json.loads(answer.text)["request_id"].startswith("order-7.")


def test_a_request_without_an_id_gets_one(view: Any) -> None:
    answers = [get(PluginCalls(view)) for _ in range(2)]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert ids[0] != ids[1]
    assert json.loads(answers[0].text)["request_id"].startswith(f"{ids[0]}.")


def test_a_request_id_header_of_the_application_is_kept() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("x-request-id", "mine")])
        return [b""]

    assert get(PluginCalls(application), x_request_id="theirs").headers == {"x-request-id": "mine"}


def test_ids_can_be_disabled(view: Any) -> None:
    answer = get(PluginCalls(view, request_id_header=""), x_request_id="order-7")
    assert "X-Request-ID" not in answer.headers
    assert "order-7" not in answer.text


def test_an_application_that_raises_leaves_no_deadline_and_no_request_id(manager: Manager[Any, Any]) -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        get(PluginCalls(application, timeout=0.001))
    assert current_request_id() is None
    assert manager.execute("probe", "")["timeout"] > 29


# --- streamed bodies -------------------------------------------------------------------------------------------------


def stream_of(manager: Manager[Any, Any], closed_with: list[Any]) -> Any:
    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])

        def parts() -> Iterator[bytes]:
            try:
                for _ in range(2):
                    yield json.dumps(manager.execute("probe", "")).encode()
            finally:
                closed_with.append(current_request_id())

        return parts()

    return application


def test_a_stream_has_the_request_id_and_the_timeout_of_the_header(manager: Manager[Any, Any]) -> None:
    closed: list[Any] = []
    answer = get(PluginCalls(stream_of(manager, closed), timeout=1), x_request_timeout="20", x_request_id="order-7")
    for part in answer.parts:
        reply = json.loads(part)
        assert 19 < reply["timeout"] <= 20
        assert reply["request_id"].startswith("order-7.")
    assert closed == ["order-7"]


def test_the_setting_does_not_limit_a_stream(manager: Manager[Any, Any]) -> None:
    answer = get(PluginCalls(stream_of(manager, []), timeout=1))
    assert all(json.loads(part)["timeout"] > 29 for part in answer.parts)


def test_a_stream_past_its_deadline_makes_no_attempt(manager: Manager[Any, Any]) -> None:
    with pytest.raises(PluginTimeoutError) as raised:
        get(PluginCalls(stream_of(manager, [])), grpc_timeout="1n")
    assert raised.value.attempts == 0


def test_between_two_parts_of_a_stream_the_thread_has_no_request_id(manager: Manager[Any, Any]) -> None:
    body = iter(PluginCalls(stream_of(manager, []))({"HTTP_X_REQUEST_ID": "order-7"}, lambda *_: None))
    next(body)
    assert current_request_id() is None


def test_an_unread_stream_is_closed(manager: Manager[Any, Any]) -> None:
    closed: list[Any] = []
    body: Any = PluginCalls(stream_of(manager, closed))({}, lambda *_: None)
    next(iter(body))
    body.close()
    assert len(closed) == 1


def test_lists_and_files_are_not_wrapped(tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path.open("rb"))  # type: ignore[no-any-return]

    body: Any = PluginCalls(application)({"wsgi.file_wrapper": FileWrapper}, lambda *_: None)
    assert type(body) is FileWrapper
    body.close()
    parts = [b"x"]
    assert PluginCalls(lambda environ, start: parts)({}, lambda *_: None) is parts


def test_the_middleware_is_valid_wsgi() -> None:
    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return iter([b"ok"])

    environ: dict[str, Any] = {"QUERY_STRING": ""}
    setup_testing_defaults(environ)
    wrapped = validator(PluginCalls(validator(application)))
    body: Any = wrapped(environ, lambda status, headers, error=None: lambda data: None)
    try:
        assert list(body) == [b"ok"]
    finally:
        body.close()


def test_the_setting_limits_a_generator_until_its_first_part(manager: Manager[Any, Any]) -> None:
    def application(environ: Any, start_response: Any) -> Iterator[bytes]:
        reply = manager.execute("probe", "")
        start_response("200 OK", [])
        yield json.dumps(reply).encode()
        yield json.dumps(manager.execute("probe", "")).encode()

    answer = get(PluginCalls(application, timeout=5), x_request_id="order-7")
    first, second = (json.loads(part)["timeout"] for part in answer.parts)
    assert first <= 5 < second
    assert answer.headers == {"X-Request-ID": "order-7"}


def test_exc_info_of_start_response_is_passed_on() -> None:
    seen = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        try:
            raise ValueError("late")
        except ValueError:
            start_response("500 Internal Server Error", [], sys.exc_info())
        return [b""]

    PluginCalls(application)({}, lambda *arguments: seen.append(len(arguments)))
    assert seen == [2, 3]
