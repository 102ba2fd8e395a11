from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import attrs
import pytest

from goplugins import serve
from goplugins.config import AuthConfig
from goplugins.enums import AuthMethod, PluginStatus
from goplugins.errors import AuthConfigError, ConfigError, InvalidArgumentError, UnsupportedAuthMethodError
from goplugins.models.context import ExecutionContext
from goplugins.models.results import HealthStatus
from goplugins.serve._served_function import ServedPlugin
from goplugins.serve._wsgi import ARRIVED
from goplugins.testing import ManualClock


@attrs.frozen
class Login:
    user: str
    tries: list[int] = attrs.field(factory=list)


@serve.plugin(name="echo", version="1.0.0", capabilities=["echo"], metadata={"team": "é"})
def echo(request: Any, context: ExecutionContext) -> Any:
    return request


@serve.plugin
def login(request: Login) -> str:
    if not request.user:
        raise serve.Rejected("Invalid credentials provided", code="AUTH_FAILED")
    return f"welcome {request.user}"


@serve.plugin
def context_of(request: Any, context: ExecutionContext) -> dict[str, Any]:
    return attrs.asdict(context)


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Send = Callable[..., Answer]


def client(plugin: ServedPlugin[Any, Any], **options: Any) -> Send:
    app = validator(serve.wsgi(plugin, **options))

    def send(method: str = "POST", path: str = "/", body: bytes = b"", **extra: Any) -> Answer:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        environ |= {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "wsgi.input": io.BytesIO(body)}
        if method == "POST":
            environ |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))}
        environ |= extra
        environ = {key: value for key, value in environ.items() if value is not None}
        started: list[Any] = []
        result = app(environ, lambda status, headers, exc_info=None: started.append((status, headers)) or bytes.join)  # type: ignore[arg-type,func-returns-value,return-value]
        content = b"".join(result)
        result.close()  # type: ignore[attr-defined]
        ((status, headers),) = started
        answer = Answer(int(status[:3]), dict(headers), content)
        assert answer.headers["Content-Type"] == "application/json"
        if method != "HEAD":
            assert answer.headers["Content-Length"] == str(len(content))
        return answer

    return send


def call(send: Send, data: Any, /, **envelope: Any) -> Answer:
    return send(body=json.dumps({"data": data, "request_id": "r1", **envelope}).encode())


def test_a_reply_is_an_envelope() -> None:
    answer = call(client(echo), {"a": [1, None, "é\u2028\0"], "n": 12345678901234567})
    assert answer.status == 200
    assert answer.json == {"data": {"a": [1, None, "é\u2028\0"], "n": 12345678901234567}, "request_id": "r1"}
    assert answer.headers["X-Request-Id"] == "r1"


def test_absent_data_is_null() -> None:
    assert client(echo)(body=b'{"request_id":"r"}').json == {"data": None, "request_id": "r"}


def test_a_business_error_is_a_reply_with_status_200() -> None:
    answer = call(client(login), {"user": ""})
    assert answer.status == 200
    assert answer.json == {
        "error": "Invalid credentials provided",
        "request_id": "r1",
        "metadata": {"error_code": "AUTH_FAILED"},
    }


def test_an_internal_error_is_sent_without_details_and_logged_in_full(caplog: pytest.LogCaptureFixture) -> None:
    @serve.plugin
    def fail(request: Any) -> None:
        raise RuntimeError("password=hunter2")

    answer = call(client(fail), {"card": "4111"})
    assert answer.status == 500
    assert answer.json == {"error": "internal error", "request_id": "r1"}
    assert "password=hunter2" in caplog.text
    assert "'r1'" in caplog.text
    assert "4111" not in caplog.text


def test_a_wrong_field_is_named_by_its_path() -> None:
    answer = call(client(login), {"user": "ada", "tries": [1, "x"]})
    assert answer.status == 400
    assert answer.json["request_id"] == "r1"
    assert "data.tries[1]" in answer.json["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"data":1,"timeout":30}', b'{"headers":[]}', b'{"metadata":{"a":1}}']
)
def test_a_malformed_envelope_is_a_400(body: bytes) -> None:
    answer = client(echo)(body=body, HTTP_X_REQUEST_ID="from-header")
    assert answer.status == 400
    assert answer.json["error"]
    assert answer.json["request_id"] == "from-header"


@pytest.mark.parametrize("timeout", ["30", "soon", "1h1", "9" * 50 + "h"])
def test_a_malformed_timeout_is_a_400(timeout: str) -> None:
    answer = call(client(echo), 1, timeout=timeout)
    assert answer.status == 400
    assert answer.json["error"].startswith("timeout: ")


@pytest.mark.parametrize(
    ("timeout", "seconds"), [("1m30s", 90.0), ("100ms", 0.1), ("1h0m0s", 3600.0), ("1.5µs", 1.5e-6)]
)
def test_the_context_has_the_remaining_timeout(timeout: str, seconds: float) -> None:
    assert call(client(context_of, clock=ManualClock()), 1, timeout=timeout).json["data"]["timeout"] == seconds


@pytest.mark.parametrize("timeout", ["", None])
def test_without_a_timeout_there_is_no_deadline(timeout: str | None) -> None:
    assert call(client(context_of), 1, timeout=timeout).json["data"]["timeout"] is None


@pytest.mark.parametrize("timeout", ["0s", "-5s", "2s"])
def test_a_request_that_waited_beyond_its_deadline_is_a_504(timeout: str) -> None:
    @serve.plugin
    def never(request: Any) -> None:
        pytest.fail("ran")

    body = json.dumps({"data": 1, "timeout": timeout}).encode()
    answer = client(never, clock=ManualClock(10.0))(body=body, **{ARRIVED: 7.0})
    assert answer.status == 504
    assert "deadline" in answer.json["error"]


def test_the_context_has_headers_and_metadata_of_the_envelope_and_three_headers_of_http() -> None:
    body = json.dumps({"headers": {"X-Trace-ID": "t", "TraceParent": "own"}, "metadata": {"tenant": "a"}}).encode()
    context = client(context_of)(
        body=body,
        HTTP_IDEMPOTENCY_KEY="key-1",
        HTTP_TRACEPARENT="00-other",
        HTTP_TRACESTATE="a=b",
        HTTP_X_TRACE_ID="other",
        HTTP_AUTHORIZATION="Bearer secret",
        HTTP_COOKIE="secret",
    ).json["data"]
    assert context["metadata"] == {"tenant": "a"}
    assert context["headers"] == {
        "X-Trace-ID": "t",
        "TraceParent": "own",
        "Idempotency-Key": "key-1",
        "tracestate": "a=b",
    }


def test_the_request_id_is_the_envelopes_else_the_headers_else_generated() -> None:
    send = client(context_of)
    assert send(body=b'{"request_id":"own"}', HTTP_X_REQUEST_ID="head").json["data"]["request_id"] == "own"
    assert send(body=b"{}", HTTP_X_REQUEST_ID="head").json["data"]["request_id"] == "head"
    first, second = send(body=b"{}").json, send(body=b"{}").json
    assert first["data"]["request_id"] == first["request_id"] != second["request_id"]


@pytest.mark.parametrize("request_id", ["a\r\nSet-Cookie: x=1", "a\0b", "é", "x" * 5000, "\ud800"])
def test_a_request_id_that_no_header_can_have_stays_in_the_envelope(request_id: str) -> None:
    answer = call(client(echo), 1, request_id=request_id)
    assert answer.json["request_id"] == request_id
    assert "X-Request-Id" not in answer.headers


# --- routes ----------------------------------------------------------------------------------------------------


def test_without_a_path_any_path_is_called() -> None:
    for path in ("", "/", "/api/v1/plugin", "/health"):
        assert client(echo)(path=path, body=b'{"data":1}').status == 200


def test_only_the_given_path_is_called() -> None:
    send = client(echo, path="api/v1/plugin/")
    body = b'{"data":1}'
    assert send(path="/api/v1/plugin", body=body).status == 200
    assert send(path="/api/v1/plugin/", body=body).status == 200
    for path in ("/", "/api/v1", "/api/v1/plugins", "/api/v1/plugin/x", "/other/api/v1/plugin"):
        assert send(path=path, body=body).status == 404, path
    assert send("GET", "/api/v1/plugin/health").status == 200
    assert send("GET", "/api/v1/plugin/info").status == 200
    assert send("GET", "/health").status == 404


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/p", "POST"),
        ("PUT", "/p", "POST"),
        ("POST", "/p/health", "GET, HEAD"),
        ("DELETE", "/p/info", "GET, HEAD"),
    ],
)
def test_another_method_is_a_405_with_the_allowed_ones(method: str, path: str, allow: str) -> None:
    answer = client(echo, path="/p")(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allow)


def test_info_is_the_plugins() -> None:
    assert client(echo)("GET", "/any/info").json == {
        "name": "echo",
        "version": "1.0.0",
        "description": "",
        "author": "",
        "capabilities": ["echo"],
        "metadata": {"team": "é"},
    }


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (PluginStatus.HEALTHY, 200),
        (PluginStatus.DEGRADED, 200),
        (PluginStatus.UNHEALTHY, 503),
        (PluginStatus.OFFLINE, 503),
        (PluginStatus.UNKNOWN, 503),
    ],
)
def test_health_is_in_status_and_body(found: PluginStatus, code: int) -> None:
    @serve.plugin(health=lambda: HealthStatus(found, "why", metadata={"queue": "7"}))
    def plugin(request: Any) -> None:
        return None

    answer = client(plugin)("GET", "/p/health")
    assert answer.status == code
    assert (answer.json["status"], answer.json["message"]) == (found.value, "why")
    assert answer.json["metadata"] == {"queue": "7"}
    assert client(plugin)("HEAD", "/p/health").body == b""


# --- the body --------------------------------------------------------------------------------------------------


def test_a_request_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    body = json.dumps({"data": "x" * 50}).encode()
    assert client(echo, max_request_bytes=len(body))(body=body).status == 200
    answer = client(echo, max_request_bytes=len(body) - 1)(body=body)
    assert answer.status == 413
    assert str(len(body) - 1) in answer.json["error"]


@pytest.mark.parametrize(
    ("length", "status"), [("99999999999999999999", 413), ("-1", 400), ("abc", 400), ("1.5", 400), ("²", 400)]
)
def test_a_bogus_length_is_refused_unread(length: str, status: int) -> None:
    class Unread(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            pytest.fail("read")

    app = serve.wsgi(echo)  # the validator itself refuses such lengths
    started: list[str] = []
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": length,
        "wsgi.input": Unread(b"{}"),
    }
    list(app(environ, lambda status, headers, exc_info=None: started.append(status)))  # type: ignore[arg-type,func-returns-value,return-value]
    assert started[0].startswith(str(status))


def test_a_body_shorter_than_its_length_is_a_400() -> None:
    answer = client(echo)(body=b'{"data":1}', CONTENT_LENGTH="20")
    assert answer.status == 400
    assert "shorter than its Content-Length" in answer.json["error"]


def test_a_body_without_length_needs_a_server_that_ends_it() -> None:
    body = b'{"data":1}'
    assert client(echo)(body=body, CONTENT_LENGTH=None).status == 411
    terminated = {"CONTENT_LENGTH": None, "wsgi.input_terminated": True}
    assert client(echo)(body=body, **terminated).json["data"] == 1
    assert client(echo, max_request_bytes=9)(body=body, **terminated).status == 413


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data", "jsonp"]
)
def test_content_types_of_simple_cross_site_requests_are_a_415(kind: str) -> None:
    assert client(echo)(body=b'{"data":1}', CONTENT_TYPE=kind).status == 415


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"])
def test_other_spellings_of_json_pass(kind: str) -> None:
    assert client(echo)(body=b'{"data":1}', CONTENT_TYPE=kind).status == 200


def test_a_compressed_request_is_a_415() -> None:
    assert client(echo)(body=b"\x1f\x8b", HTTP_CONTENT_ENCODING="gzip").status == 415


def test_no_exception_reaches_the_server(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError("the client has closed the connection")

    answer = client(echo)(body=b"{}", **{"wsgi.input": Broken()})
    assert (answer.status, answer.json) == (500, {"error": "internal error"})
    assert "the client has closed the connection" in caplog.text


# --- authentication --------------------------------------------------------------------------------------------


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


GOOD: list[tuple[AuthConfig, dict[str, str]]] = [
    (AuthConfig(method=AuthMethod.API_KEY, api_key="k-123"), {"HTTP_X_API_KEY": "k-123"}),
    (AuthConfig(method=AuthMethod.BEARER, token="tok-456"), {"HTTP_AUTHORIZATION": "Bearer tok-456"}),
    (AuthConfig(method=AuthMethod.BEARER, token="tok-456"), {"HTTP_AUTHORIZATION": "bearer tok-456"}),
    (
        AuthConfig(method=AuthMethod.BASIC, username="user", password="pa:ss"),
        {"HTTP_AUTHORIZATION": "Basic dXNlcjpwYTpzcw=="},
    ),
    (AuthConfig(method=AuthMethod.BASIC, username="é", password="ü"), {"HTTP_AUTHORIZATION": basic("é:ü")}),
    (
        AuthConfig(method=AuthMethod.CUSTOM, headers={"X-A": "one!", "X-B": "two!"}),
        {"HTTP_X_A": "one!", "HTTP_X_B": "two!"},
    ),
    (AuthConfig(method=AuthMethod.API_KEY, api_key="clé"), {"HTTP_X_API_KEY": "clé"}),
    (AuthConfig(method=AuthMethod.API_KEY, api_key="clé"), {"HTTP_X_API_KEY": "clé".encode().decode("latin-1")}),
]


@pytest.mark.parametrize(("auth", "headers"), GOOD)
def test_right_credentials_are_accepted_on_every_path(auth: AuthConfig, headers: dict[str, str]) -> None:
    send = client(echo, auth=auth)
    assert send(body=b'{"data":1}', **headers).status == 200
    assert send("GET", "/health", **headers).status == 200
    assert send("GET", "/info", **headers).status == 200


WRONG: list[tuple[AuthConfig, dict[str, str]]] = [
    (GOOD[0][0], {}),
    (GOOD[0][0], {"HTTP_X_API_KEY": ""}),
    (GOOD[0][0], {"HTTP_X_API_KEY": "K-123"}),
    (GOOD[0][0], {"HTTP_X_API_KEY": "k-1234"}),
    (GOOD[0][0], {"HTTP_AUTHORIZATION": "Bearer k-123"}),
    (GOOD[1][0], {}),
    (GOOD[1][0], {"HTTP_AUTHORIZATION": "Bearer tok-457"}),
    (GOOD[1][0], {"HTTP_AUTHORIZATION": "Bearer TOK-456"}),
    (GOOD[1][0], {"HTTP_AUTHORIZATION": "tok-456"}),
    (GOOD[1][0], {"HTTP_AUTHORIZATION": "Basic tok-456"}),
    (GOOD[3][0], {"HTTP_AUTHORIZATION": basic("user:pa")}),
    (GOOD[3][0], {"HTTP_AUTHORIZATION": "Bearer dXNlcjpwYTpzcw=="}),
    (GOOD[5][0], {"HTTP_X_A": "one!"}),
    (GOOD[5][0], {"HTTP_X_A": "one!", "HTTP_X_B": "three!"}),
    (GOOD[6][0], {"HTTP_X_API_KEY": "cle"}),
]


@pytest.mark.parametrize(("auth", "headers"), WRONG)
def test_wrong_or_missing_credentials_are_a_401_on_every_path(
    auth: AuthConfig, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    send = client(echo, auth=auth)
    answers = [send(body=b'{"data":1}', **headers)]
    answers += [send(method, path, **headers) for method, path in (("GET", "/health"), ("GET", "/info"), ("PUT", "/"))]
    assert [answer.status for answer in answers] == [401] * 4
    assert answers[0].json == {"error": "unauthorized"}
    for secret in filter(None, headers.values()):
        assert secret not in caplog.text


@pytest.mark.parametrize(("place", "challenge"), [(0, None), (1, "Bearer"), (3, "Basic realm=")])
def test_a_401_has_the_challenge_of_its_method(place: int, challenge: str | None) -> None:
    header = client(echo, auth=GOOD[place][0])("GET", "/health").headers.get("WWW-Authenticate")
    assert header is None if challenge is None else str(header).startswith(challenge)


def test_refusals_are_logged_at_a_limited_rate(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    send = client(echo, auth=GOOD[0][0], clock=clock)
    for _ in range(50):
        send("GET", "/health", REMOTE_ADDR="192.0.2.7")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    clock.advance(10.0)
    send("GET", "/health", REMOTE_ADDR="192.0.2.8")
    assert "50 request(s) refused" in caplog.messages[1]
    assert "192.0.2.8" in caplog.messages[1]


def test_without_auth_every_request_is_accepted() -> None:
    assert client(echo, auth=AuthConfig())("GET", "/health").status == 200
    assert client(echo, auth=AuthConfig(method=AuthMethod.NONE))("GET", "/health").status == 200


@pytest.mark.parametrize(
    "auth",
    [
        AuthConfig(method=AuthMethod.API_KEY),
        AuthConfig(method=AuthMethod.BEARER, token=""),
        AuthConfig(method=AuthMethod.BASIC, username="u"),
        AuthConfig(method=AuthMethod.CUSTOM),
        AuthConfig(method=AuthMethod.CUSTOM, headers={"X-A": ""}),
        AuthConfig(method="oauth"),  # type: ignore[arg-type]
        AuthConfig(token="t"),  # without a method
        AuthConfig(method=AuthMethod.BEARER, token_file="/run/secrets/token"),  # token files are for clients
    ],
)
def test_missing_expected_credentials_are_refused_at_the_start(auth: AuthConfig) -> None:
    with pytest.raises(AuthConfigError):
        serve.wsgi(echo, auth=auth)


def test_mtls_can_not_be_checked_here() -> None:
    with pytest.raises(UnsupportedAuthMethodError, match="proxy"):
        serve.wsgi(echo, auth=AuthConfig(method=AuthMethod.MTLS, cert_file="c", key_file="k"))


@pytest.mark.parametrize(
    "auth",
    [
        AuthConfig(
            method=AuthMethod.OAUTH2, token_url="https://login.example.com", client_id="c", client_secret="secret"
        ),
        AuthConfig(method=AuthMethod.API_KEY, api_key="k", query="key"),
        AuthConfig(provider="app.signing:sign"),
        AuthConfig(method=AuthMethod.CUSTOM, provider="app.signing:sign"),
    ],
)
def test_credentials_that_are_no_fixed_headers_can_not_be_checked_here(auth: AuthConfig) -> None:
    with pytest.raises(AuthConfigError, match="a served plugin"):
        serve.wsgi(echo, auth=auth)


def test_a_key_in_a_header_of_another_name() -> None:
    send = client(echo, auth=AuthConfig(method=AuthMethod.API_KEY, api_key="k", header="X-Key"))
    assert send("GET", "/health", HTTP_X_KEY="k").status == 200
    assert send("GET", "/health", HTTP_X_API_KEY="k").status == 401


# --- arguments -------------------------------------------------------------------------------------------------


def test_a_function_without_the_decorator_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"@serve\.plugin"):
        serve.wsgi(lambda request: request)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:0",
        "127.0.0.1:8000",
        "http://127.0.0.1",
        "http://:8000",
        "http://127.0.0.1:x",
        "http://127.0.0.1:99999",
        "http://user:secret@127.0.0.1:0",
        "http://127.0.0.1:0/?a=b",
        "http://192.0.2.1:0",
        "http://[::1:0",
    ],
)
def test_an_address_to_which_no_server_can_listen_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        serve.start(echo, url)


def test_invalid_numbers_are_rejected() -> None:
    with pytest.raises(InvalidArgumentError, match="threads"):
        serve.start(echo, threads=0)
    with pytest.raises(InvalidArgumentError, match="grace"):
        serve.start(echo, grace=-1.0)
    with pytest.raises(InvalidArgumentError, match="max_request_bytes"):
        serve.start(echo, max_request_bytes=0)


@pytest.mark.parametrize(("wanted", "header"), [(None, None), (0, "0"), (1.2, "2"), (1e300, "86400")])
def test_unavailable_is_503_with_retry_after(wanted: float | None, header: str | None) -> None:
    @serve.plugin
    def full(request: Any) -> None:
        raise serve.Unavailable("queue full", retry_after=wanted)

    answer = client(full)(body=b'{"data":null,"request_id":"r"}')
    assert (answer.status, answer.json) == (503, {"error": "queue full", "request_id": "r"})
    assert answer.headers.get("Retry-After") == header
