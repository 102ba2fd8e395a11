"""REST against services that are not ours, over each engine and a session: what a user's first afternoon has in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import requests

from goplugins import File, Manager, PluginConfig
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    HTTPTransportError,
    InvalidArgumentError,
    PluginError,
    PluginRequestError,
    PluginThrottledError,
    PluginTimeoutError,
    PluginUnavailableError,
    UnexpectedRedirectError,
)
from goplugins.transports.http import HTTPPlugin
from tests.hosts.services import POSTS, drf, httpbin, json_server

pytestmark = pytest.mark.hosts


def _started(start: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with start(tmp_path_factory.mktemp(start.__name__)) as url:
        yield url


@pytest.fixture(scope="module")
def httpbin_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _started(httpbin, tmp_path_factory)


@pytest.fixture(scope="module")
def drf_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _started(drf, tmp_path_factory)


@pytest.fixture(scope="module")
def posts_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from _started(json_server, tmp_path_factory)


@pytest.fixture(params=["fast", "requests", "session"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Manager[Any, Any]]]:
    managers: list[Manager[Any, Any]] = []

    def build(url: str, operations: dict[str, Any], **plugin: Any) -> Manager[Any, Any]:
        config = {"name": "p", "transport": "http", "endpoint": url, "operations": operations, **plugin}
        options = plugin.get("options", {})
        manager: Manager[Any, Any] = Manager()
        managers.append(manager)
        if request.param == "session":
            read = PluginConfig.from_mapping(config)
            session = requests.Session()
            session.trust_env = False
            manager.register(HTTPPlugin(read, session=session), read)
        else:
            manager.load_from_config({"plugins": [{**config, "options": {"engine": request.param, **options}}]})
        return manager

    yield build
    for manager in managers:
        manager.shutdown()


def failure(call: Callable[[], Any]) -> PluginError:
    with pytest.raises(PluginError) as caught:
        call()
    return caught.value


# --- httpbin -------------------------------------------------------------------------------------------------------

ECHO = {
    method.lower(): {"method": method, "path": f"/{method.lower()}"}
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
}


@pytest.mark.xdist_group("httpbin")
class TestHTTPBin:
    @pytest.mark.parametrize("method", ["post", "put", "patch"])
    def test_json(self, httpbin_url, connect, method):
        sent = {"text": "ü€\n", "number": 1.5, "list": [1, None, True], "table": {"a": {}}}
        answer = connect(httpbin_url, ECHO).execute("p", sent, operation=method)
        assert answer["json"] == sent
        assert answer["headers"]["Content-Type"] == "application/json"

    @pytest.mark.parametrize("method", ["get", "delete"])
    def test_query(self, httpbin_url, connect, method):
        sent = {"text": "ü & = + / ?", "list": ["a", "b"], "none": None, "yes": True, "number": 7}
        answer = connect(httpbin_url, ECHO).execute("p", sent, operation=method)
        assert answer["args"] == {"text": "ü & = + / ?", "list": ["a", "b"], "yes": "true", "number": "7"}

    def test_form(self, httpbin_url, connect):
        manager = connect(httpbin_url, {"op": {"path": "/post", "body": "form"}})
        answer = manager.execute("p", {"text": "ü & =", "list": ["a", "b"]}, operation="op")
        assert answer["form"] == {"text": "ü & =", "list": ["a", "b"]}

    def test_multipart(self, httpbin_url, connect):
        manager = connect(httpbin_url, {"op": {"path": "/post", "body": "multipart"}})
        sent = {
            "image": File(b"\0\xff", "a.png", "image/png"),
            "text": File("ü".encode(), "ü.txt"),
            "name": "x",
            "l": [1, 2],
        }
        answer = manager.execute("p", sent, operation="op")
        encoded = base64.b64encode(b"\0\xff").decode()
        assert answer["files"]["text"] == "ü"
        assert answer["files"]["image"].endswith(f";base64,{encoded}")
        assert answer["form"] == {"name": "x", "l": ["1", "2"]}

    def test_raw(self, httpbin_url, connect):
        manager = connect(httpbin_url, {"op": {"path": "/put", "method": "PUT", "body": "raw"}})
        assert manager.execute("p", "ü", operation="op")["data"] == "ü"

    def test_headers(self, httpbin_url, connect):
        manager = connect(
            httpbin_url, {"op": {"path": "/headers", "headers": {"X-Tenant": "t-{tenant}"}, "result": "/headers"}}
        )
        answer = manager.execute("p", {"tenant": 9}, operation="op", headers={"X-Own": "a"})
        assert (answer["X-Tenant"], answer["X-Own"]) == ("t-9", "a")
        assert answer["User-Agent"].startswith("goplugins-python/")

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (301, UnexpectedRedirectError),
            (400, PluginRequestError),
            (401, AuthenticationError),
            (403, AuthenticationError),
            (404, PluginRequestError),
            (409, PluginRequestError),
            (418, PluginRequestError),
            (422, PluginRequestError),
            (429, PluginThrottledError),
            (500, HTTPTransportError),
            (501, HTTPTransportError),
            (502, HTTPTransportError),
            (503, PluginUnavailableError),
        ],
    )
    @pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
    def test_statuses(self, httpbin_url, connect, method, status, kind):
        if method == "HEAD":
            operation = {"method": "HEAD", "path": "/status/{code}"}
        else:
            operation = {"method": method, "path": "/status/{code}", "body": "none"}
        manager = connect(httpbin_url, {"op": operation}, retry={"max_retries": 0}, circuit_breaker={"enabled": False})
        error = failure(lambda: manager.execute("p", {"code": status}, operation="op"))
        assert type(error) is kind
        assert f"HTTP {status} from {method} /status/{{code}}" in str(error)
        assert error.details["status"] == status

    def test_expected_statuses(self, httpbin_url, connect):
        manager = connect(httpbin_url, {"op": {"path": "/status/{code}", "expect": {404: None, 204: None}}})
        for status in (404, 204):
            assert manager.execute("p", {"code": status}, operation="op") is None

    def test_a_hanging_service(self, httpbin_url, connect):
        manager = connect(httpbin_url, {"op": {"path": "/delay/{seconds}", "timeout": 0.3}})
        assert type(failure(lambda: manager.execute("p", {"seconds": 3}, operation="op"))) is PluginTimeoutError

    def test_a_dripping_service(self, httpbin_url, connect):
        operation = {"path": "/drip", "query": {"duration": "2", "numbytes": "10", "delay": "0"}, "timeout": 0.5}
        manager = connect(httpbin_url, {"op": operation}, retry={"max_retries": 0})
        error = failure(lambda: manager.bind("p", dict, bytes, operation="op")({}))
        assert type(error) is PluginTimeoutError

    @pytest.mark.parametrize("path", ["/gzip", "/deflate", "/json", "/encoding/utf8", "/html", "/xml", "/robots.txt"])
    def test_contents(self, httpbin_url, connect, path):
        manager = connect(httpbin_url, {"op": {"path": path}})
        is_json = path in {"/gzip", "/deflate", "/json"}
        found = manager.bind("p", dict, dict[str, Any] if is_json else str, operation="op")({})
        assert found
        if path == "/encoding/utf8":
            assert "∮ E⋅da = Q" in found
        if not is_json:
            assert type(failure(lambda: manager.execute("p", {}, operation="op"))) is BadReplyError

    def test_bytes(self, httpbin_url, connect):
        manager = connect(httpbin_url, {"png": {"path": "/image/png"}, "stream": {"path": "/stream-bytes/{n}"}})
        assert manager.bind("p", dict, bytes, operation="png")({}).startswith(b"\x89PNG")
        assert len(manager.bind("p", dict, bytes, operation="stream")({"n": 50_000})) == 50_000

    def test_redirects_are_not_followed(self, httpbin_url, connect):
        manager = connect(httpbin_url, {"op": {"path": "/redirect-to", "query": {"url": "{url}"}}})
        error = failure(lambda: manager.execute("p", {"url": "http://127.0.0.1:9/x"}, operation="op"))
        assert "it refers to http://127.0.0.1:9/x" in str(error)

    def test_etag(self, httpbin_url, connect):
        operation = {"path": "/etag/{tag}", "headers": {"If-None-Match": "{known}"}, "expect": {304: None}}
        manager = connect(httpbin_url, {"op": operation}, options={"response_headers": ["ETag"]})
        result = manager.execute_result("p", {"tag": "v1", "known": None}, operation="op")
        assert result.value["url"].endswith("/etag/v1")
        assert manager.execute("p", {"tag": "v1", "known": result.metadata["ETag"]}, operation="op") is None

    @pytest.mark.parametrize("method", ["basic", "bearer"])
    def test_credentials(self, httpbin_url, connect, method):
        path = {"basic": "/basic-auth/ada/s3cret-word", "bearer": "/bearer"}[method]
        good = {"basic": {"username": "ada", "password": "s3cret-word"}, "bearer": {"token": "s3cret-word"}}[method]
        manager = connect(httpbin_url, {"op": {"path": path}}, auth={"method": method, **good})
        assert manager.execute("p", {}, operation="op")["authenticated"] is True
        error = failure(lambda: connect(httpbin_url, {"op": {"path": path}}).execute("p", {}, operation="op"))
        assert type(error) is AuthenticationError

    @pytest.mark.parametrize("value", ["a b", "ü", "a?b=c", "100%", "a;b", "a+b", "x..y"])
    def test_values_in_the_path(self, httpbin_url, connect, value):
        manager = connect(httpbin_url, {"op": {"path": "/anything/{value}/end", "result": "/url"}})
        assert manager.execute("p", {"value": value}, operation="op").startswith(httpbin_url + "/anything/")

    def test_slashes_in_the_path(self, httpbin_url, connect):
        """httpbin decodes the path before it splits it: the reason for the option to be off."""
        operations = {"op": {"path": "/anything/{value}", "result": "/url"}}
        manager = connect(httpbin_url, operations, options={"encoded_slashes": True})
        assert manager.execute("p", {"value": "a/b"}, operation="op") == f"{httpbin_url}/anything/a/b"
        error = failure(lambda: connect(httpbin_url, operations).execute("p", {"value": "a/b"}, operation="op"))
        assert type(error) is InvalidArgumentError

    def test_connections_are_used_again(self, httpbin_url, connect):
        manager = connect(httpbin_url, {"op": {"path": "/uuid", "result": "/uuid"}})
        assert len(set(manager.map("p", [{}] * 200, operation="op", concurrency=8))) == 200


# --- json-server ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Post:
    title: str
    author: str = "ada"
    id: int | None = None


POSTS_API = {
    "list": {"path": "/posts"},
    "page": {"path": "/posts", "query": {"_page": "1", "_limit": "{size}"}},
    "get": {"path": "/posts/{id}", "expect": {404: None}},
    "create": {"method": "POST", "path": "/posts"},
    "replace": {"method": "PUT", "path": "/posts/{id}"},
    "change": {"method": "PATCH", "path": "/posts/{id}"},
    "delete": {"method": "DELETE", "path": "/posts/{id}"},
}


@pytest.mark.xdist_group("json-server")
class TestJSONServer:
    def test_the_life_of_a_post(self, posts_url, connect):
        manager = connect(posts_url, POSTS_API)
        created = manager.bind("p", dict, Post, operation="create")({"title": "ü", "author": "eve"})
        assert created == Post("ü", "eve", 26)
        get = manager.bind("p", dict, Post | None, operation="get")
        assert get({"id": 26}) == created
        assert manager.execute("p", {"id": 26, "title": "x"}, operation="change")["author"] == "eve"
        assert manager.execute("p", {"id": 26, "title": "y"}, operation="replace") == {"id": 26, "title": "y"}
        assert manager.execute("p", {"id": 26}, operation="delete") == {}
        assert get({"id": 26}) is None
        assert get({"id": "a b"}) is None

    def test_filters(self, posts_url, connect):
        posts = connect(posts_url, POSTS_API).bind("p", dict, list[Post], operation="list")
        assert [post.id for post in posts({"id": [1, 3]})] == [1, 3]
        assert {post.author for post in posts({"author": "bob"})} == {"bob"}
        assert [post.id for post in posts({"_sort": "id", "_order": "desc", "_limit": 2})] == [25, 24]

    @pytest.mark.parametrize("size", [1, 7, 25, 100])
    def test_pages_by_link_headers(self, posts_url, connect, size):
        manager = connect(posts_url, POSTS_API, options={"response_headers": ["X-Total-Count"]})
        pages = manager.bind("p", dict, list[Post], operation="page").pages({"size": size})
        assert [post.id for post in pages] == [post["id"] for post in POSTS]

    def test_headers_of_the_reply(self, posts_url, connect):
        manager = connect(posts_url, POSTS_API, options={"response_headers": ["X-Total-Count"]})
        assert manager.execute_result("p", {"size": 1}, operation="page").metadata == {"X-Total-Count": "25"}


# --- Django REST framework -----------------------------------------------------------------------------------------

USERS_API = {
    "root": {"path": "/"},
    "users": {"path": "/users/", "result": "/results", "next": "/next"},
    "count": {"path": "/users/", "result": "/count"},
    "create": {"method": "POST", "path": "/users/"},
    "user": {"path": "/users/{id}/", "expect": {404: None}},
    "change": {"method": "PATCH", "path": "/users/{id}/"},
    "delete": {"method": "DELETE", "path": "/users/{id}/"},
    "describe": {"method": "OPTIONS", "path": "/users/"},
    "without_slash": {"path": "/users"},
}
ADMIN = {"method": "basic", "username": "admin", "password": "password123"}


@pytest.mark.xdist_group("drf")
class TestDjangoRESTFramework:
    def test_the_life_of_users(self, drf_url, connect):
        manager = connect(drf_url, USERS_API, auth=ADMIN)
        names = [f"user-{number}" for number in range(5)]
        made = [manager.execute("p", {"username": name, "groups": []}, operation="create") for name in names]
        ids = [int(user["url"].rstrip("/").rpartition("/")[2]) for user in made]
        found = [user["username"] for user in manager.pages("p", {}, operation="users")]
        assert found == ["admin", *names]
        assert manager.execute("p", {}, operation="count") == 6
        assert (
            manager.execute("p", {"id": ids[0], "email": "a@b.example"}, operation="change")["email"] == "a@b.example"
        )
        for number in ids:
            assert manager.execute("p", {"id": number}, operation="delete") is None  # 204
            assert manager.execute("p", {"id": number}, operation="user") is None  # 404

    def test_errors_of_fields_are_in_the_message(self, drf_url, connect):
        manager = connect(drf_url, USERS_API, auth=ADMIN)
        error = failure(lambda: manager.execute("p", {"username": "a b", "email": "x"}, operation="create"))
        assert type(error) is PluginRequestError
        assert "HTTP 400 from POST /users/" in str(error)
        assert "Enter a valid email address." in str(error)
        assert json.loads(error.details["body"])["email"] == ["Enter a valid email address."]

    def test_errors_by_detail(self, drf_url, connect):
        error = failure(lambda: connect(drf_url, USERS_API).execute("p", {}, operation="users"))
        assert type(error) is AuthenticationError
        assert "Authentication credentials were not provided." in str(error)
        wrong = {**ADMIN, "password": "another-password"}
        error = failure(lambda: connect(drf_url, USERS_API, auth=wrong).execute("p", {}, operation="users"))
        assert "Invalid username/password." in str(error)
        assert "another-password" not in str(error) + str(error.details)

    def test_a_missing_slash_is_a_redirect_that_names_the_path(self, drf_url, connect):
        manager = connect(drf_url, USERS_API, auth=ADMIN)
        error = failure(lambda: manager.execute("p", {}, operation="without_slash"))
        assert isinstance(error, UnexpectedRedirectError | PluginRequestError)

    def test_options(self, drf_url, connect):
        answer = connect(drf_url, USERS_API, auth=ADMIN).execute("p", {}, operation="describe")
        assert answer["name"] == "User List"
