"""REST requests as they are on the wire, over each engine: method, path, query, headers, body."""

from __future__ import annotations

import datetime
import enum
import json
import uuid
from dataclasses import dataclass
from decimal import Decimal
from email import message_from_bytes
from email.policy import HTTP
from typing import Any, TypedDict
from urllib.parse import parse_qsl

import attrs
import pytest

from goplugins import AuthConfig, ConfigError, File, Manager
from goplugins.errors import InvalidArgumentError, InvalidHeaderError, UnserializableRequestError

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


@attrs.frozen
class Order:
    id: int
    when: datetime.date
    note: str | None = None


@dataclass
class Named:
    id: int
    name: str = "x"


class Typed(TypedDict):
    id: int
    tags: list[str]


DAY = datetime.date(2020, 1, 2)
MOMENT = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")

# A value of a request, and its text in a path, a parameter, a header, and a form.
TEXTS: dict[str, tuple[Any, str]] = {
    "text": ("a b", "a b"),
    "integer": (7, "7"),
    "large integer": (10**30, str(10**30)),
    "float": (1.5, "1.5"),
    "true": (True, "true"),
    "false": (False, "false"),
    "date": (DAY, "2020-01-02"),
    "datetime": (MOMENT, "2020-01-02T03:04:05+00:00"),
    "enum": (Colour.RED, "red"),
    "integer enum": (Level.HIGH, "3"),
    "text enum": (Word.YES, "yes"),
    "uuid": (ID, str(ID)),
}


def query_of(path: str) -> list[tuple[str, str]]:
    return parse_qsl(path.partition("?")[2], keep_blank_values=True, strict_parsing="?" in path)


# --- methods -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_each_method_and_its_connection_afterwards(rest, method):
    client = rest({"method": method, "path": "/items/{id}", "body": "none"})
    assert client({"id": 1}) is None
    assert client({"id": 2}) is None
    first, second = client.server.requests
    assert (first.method, first.path) == (method, "/items/1")
    assert (second.method, second.path) == (method, "/items/2")
    assert first.body == b""
    # A method whose request usually has a body announces that this one has none.
    expected = (
        {"0"} if method in {"POST", "PUT", "PATCH"} else {None, "0"} if method in {"DELETE", "OPTIONS"} else {None}
    )
    assert first.headers.get("content-length") in expected
    # What follows the reply to a HEAD request is not trusted.
    assert client.server.connections <= (2 if method == "HEAD" else 1)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_fields_that_are_left_are_the_json_body(rest, method):
    sent = rest({"method": method, "path": "/items/{id}"}).sent({"id": 1, "name": "pen", "tags": ["a"], "none": None})
    assert (sent.path, sent.json) == ("/items/1", {"name": "pen", "tags": ["a"], "none": None})
    assert sent.headers["content-type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_fields_that_are_left_are_the_query(rest, method):
    sent = rest({"method": method, "path": "/items/{id}"}).sent(
        {"id": 1, "name": "a b", "tags": ["x", "y"], "no": None}
    )
    assert sent.path == "/items/1?name=a%20b&tags=x&tags=y"
    assert sent.body == b""
    assert "content-type" not in sent.headers


def test_a_delete_with_a_body(rest):
    sent = rest({"method": "DELETE", "path": "/items", "body": "json"}).sent({"ids": [1, 2]})
    assert (sent.method, sent.path, sent.json) == ("DELETE", "/items", {"ids": [1, 2]})


@pytest.mark.parametrize("method", METHODS)
def test_a_field_that_is_used_nowhere(rest, method):
    client = rest({"method": method, "path": "/items", "body": "none"})
    if method in {"GET", "HEAD", "DELETE"}:
        assert client.sent({"id": 1}).path == "/items?id=1"
        return
    error = client.error({"id": 1, "other": None})
    assert "field 'id' of the request is used nowhere" in str(error)
    assert client.server.requests == []


def test_the_method_follows_from_the_body(rest):
    client = rest({"a": {"path": "/a"}, "b": {"path": "/b", "body": "form"}, "c": {"path": "/c", "body": "none"}})
    assert [client.sent({}, each).method for each in "abc"] == ["GET", "POST", "GET"]


def test_without_operations_the_request_itself_is_posted(rest):
    client = rest(None, path="/v1?k=1", options={"protocol": "rest"})
    sent = client.sent([1, {"a": "ü"}], operation="")
    assert (sent.method, sent.path, sent.json) == ("POST", "/v1?k=1", [1, {"a": "ü"}])


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/?k=1&l", "/v%2F1"])
def test_the_path_of_the_endpoint_comes_first(rest, path):
    base, mark, query = path.partition("?")
    assert rest({"path": "/items"}, path=path).sent({}).path == base.rstrip("/") + "/items" + mark + query
    assert (
        rest({"method": "GET"}, path=path, options={"protocol": "rest"}).sent({}).path == (base or "/") + mark + query
    )


# --- paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "text"), TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("body", ["json", "form", "multipart", "raw", "none"])
def test_values_in_path_query_and_headers_whatever_the_body_is(rest, body, value, text):
    operation = {"method": "POST", "path": "/a/{v}/b", "query": {"q": "{v}", "r": "x{v}y"}, "headers": {"X-V": "{v}"}}
    request = {"v": value} if body == "none" else {"v": value, "rest": "r"}
    sent = rest({**operation, "body": body}).sent(request)
    path, _, query = sent.path.partition("?")
    encoded = text.replace(" ", "%20").replace(":", "%3A").replace("+", "%2B")
    assert path == f"/a/{encoded}/b"
    assert query == f"q={encoded}&r=x{encoded}y"
    assert sent.headers["x-v"] == text


LEAVING = ["..", ".", "a/../b", "../x", "..\\x", "%2e%2e", "%252e%252e", "..%2fx", "..;x", "/", "\\", "%2f", ""]


@pytest.mark.parametrize("body", ["json", "raw"])
@pytest.mark.parametrize(
    "value",
    [*LEAVING, "1/delete", "1\\delete", "1%2Fx", "1%252fx", "1%5Cx"],
)
def test_values_that_could_leave_their_place_are_refused(rest, body, value):
    client = rest({"method": "POST", "path": "/a/{v}", "body": body})
    error = client.error({"v": value, "rest": "r"})
    assert type(error) is InvalidArgumentError
    assert client.server.requests == []
    assert error.attempts == 0


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("a?b#c", "a%3Fb%23c"),
        ("100%", "100%25"),
        ("ü€", "%C3%BC%E2%82%AC"),
        ("a\r\nX: y", "a%0D%0AX%3A%20y"),
        ("\0", "%00"),
        ("...", "..."),
        (".well-known", ".well-known"),
        ("v1..v2", "v1..v2"),
        ("~a-b_c.d", "~a-b_c.d"),
        ("{x}", "%7Bx%7D"),
    ],
)
def test_values_are_one_segment_of_the_path(rest, value, sent):
    assert rest({"path": "/a/{v}/b"}).sent({"v": value}).path == f"/a/{sent}/b"


def test_slashes_are_sent_encoded_where_an_option_says_so(rest):
    client = rest({"path": "/projects/{id}"}, options={"protocol": "rest", "encoded_slashes": True})
    assert client.sent({"id": "group/project"}).path == "/projects/group%2Fproject"
    for value in ("group/../other", "..%2fx", "/", "\\", "."):
        assert type(client.error({"id": value})) is InvalidArgumentError


def test_the_error_for_a_slash_names_the_field_and_the_option(rest):
    error = rest({"path": "/orders/{id}"}).error({"id": "1/delete"})
    assert "id contains a slash" in error.message
    assert "options.encoded_slashes" in error.message


@pytest.mark.parametrize(
    ("request_value", "reason"),
    [
        ({}, "no field 'v', which its path /a/{v} needs"),
        ({"vv": 1}, "did you mean 'vv'"),
        ({"v": None}, "v is null, and a path needs a text or a number"),
        ({"v": [1]}, "v is a list"),
        ({"v": {}}, "v is a table"),
        ([1], "the request is a JSON list, expected one with fields"),
        ("text", "the request is a JSON str, expected one with fields"),
        (None, "no field 'v'"),
    ],
)
def test_requests_that_have_no_such_path(rest, request_value, reason):
    client = rest({"path": "/a/{v}"})
    error = client.error(request_value)
    assert reason in str(error)
    assert "operation 'op'" in str(error)
    assert type(error) is InvalidArgumentError
    assert client.server.requests == []


SURROGATE = "a\ud800"


@pytest.mark.parametrize(
    "operation",
    [
        {"path": "/a/{v}"},
        {"path": "/a", "query": {"q": "{v}"}},
        {"path": "/a"},
        {"path": "/a", "headers": {"X-V": "{v}"}},
        {"path": "/a", "body": "form"},
        {"path": "/a", "body": "multipart"},
        {"path": "/a", "body": "raw"},
    ],
    ids=str,
)
def test_a_text_that_is_no_unicode_is_refused(rest, operation):
    client = rest({"x": {"path": "/x"}, "op": operation})
    error = client.error({"v": SURROGATE})
    assert isinstance(error, InvalidArgumentError), repr(error)
    assert client.server.requests == []


# --- queries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "query"),
    [
        (None, []),
        ([], []),
        ([None], []),
        ([1, None, "a b", True, DAY], ["1", "a b", "true", "2020-01-02"]),
        ((1, 2), ["1", "2"]),
        ("", [""]),
        ("a&b=c+d", ["a&b=c+d"]),
        ("ü", ["ü"]),
    ],
)
def test_lists_repeat_a_parameter_and_none_leaves_it_out(rest, value, query):
    client = rest({"named": {"path": "/a", "query": {"q": "{v}"}}, "left": {"path": "/a"}})
    assert query_of(client.sent({"v": value}, "named").path) == [("q", each) for each in query]
    assert query_of(client.sent({"v": value}, "left").path) == [("v", each) for each in query]


def test_names_of_parameters_are_encoded_and_constants_stay(rest):
    client = rest({"path": "/a", "query": {"a b[]": "{v}", "fixed": "1 2", "k": "x{w}"}}, path="?first=1")
    assert client.sent({"v": [1, 2], "w": None}).path == "/a?first=1&a%20b%5B%5D=1&a%20b%5B%5D=2&fixed=1%202"


@pytest.mark.parametrize("value", [{"a": 1}, [{"a": 1}], [[1]]])
@pytest.mark.parametrize(
    "operation", [{"path": "/a", "query": {"v": "{v}"}}, {"path": "/a"}, {"path": "/a", "body": "form"}]
)
def test_tables_have_no_place_in_a_query_or_form(rest, operation, value):
    client = rest(operation)
    error = client.error({"v": value})
    assert "v is a" in str(error)
    assert "which no parameter can carry: send it in a body, or as a text" in str(error)
    assert client.server.requests == []


# --- headers -------------------------------------------------------------------------------------------------------


def test_headers_from_fields(rest):
    operation = {
        "method": "POST",
        "path": "/a",
        "headers": {"X-Tenant": "t-{tenant}", "X-Tags": "{tags}", "X-No": "{no}"},
    }
    sent = rest(operation).sent({"tenant": 9, "tags": ["a", "b"], "no": None, "left": 1})
    assert (sent.headers["x-tenant"], sent.headers["x-tags"]) == ("t-9", "a, b")
    assert "x-no" not in sent.headers
    assert sent.json == {"left": 1}


def test_headers_of_the_operation_replace_the_usual_ones_in_whatever_case(rest):
    usual = {
        "accept": "application/vnd.github+json",
        "USER-AGENT": "shop/1",
        "content-type": "application/merge-patch+json",
        "x-request-id": "r-{n}",
        "idempotency-key": "k-{n}",
    }
    sent = rest({"method": "PATCH", "path": "/a", "headers": usual}).sent({"n": 1, "b": 2}, idempotent=True)
    head = sent.raw.partition(b"\r\n\r\n")[0].decode().lower()
    for name, value in usual.items():
        assert sent.headers[name.lower()] == value.format(n=1)
        assert head.count(f"\r\n{name.lower()}:") == 1


def test_headers_of_the_call_replace_those_of_the_operation(rest):
    client = rest({"method": "POST", "path": "/a", "headers": {"X-A": "operation", "Accept": "text/csv"}})
    sent = client.sent({}, idempotent=True, headers={"x-a": "call", "accept": "*/*", "idempotency-key": "mine"})
    assert (sent.headers["x-a"], sent.headers["accept"], sent.headers["idempotency-key"]) == ("call", "*/*", "mine")
    assert sent.raw.lower().count(b"idempotency-key:") == 1


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "€", "a\x7fb"])
@pytest.mark.parametrize("template", ["{v}", "x{v}"])
def test_a_header_that_can_not_be_sent(rest, template, value):
    client = rest({"path": "/a", "headers": {"X-V": template}})
    error = client.error({"v": value})
    assert isinstance(error, InvalidHeaderError)
    assert "X-V" in str(error)
    assert value not in str(error)
    assert client.server.requests == []


CONNECTION_HEADERS = [
    "Host",
    "content-length",
    "Transfer-Encoding",
    "Connection",
    "TE",
    "Upgrade",
    "Proxy-Authorization",
]


@pytest.mark.parametrize("name", CONNECTION_HEADERS)
def test_headers_of_the_connection_belong_to_no_operation(name):
    with pytest.raises(ConfigError) as caught:
        load({"headers": {name: "{v}"}})
    assert "operations.op.headers." in str(caught.value)
    assert "is set by the connection" in str(caught.value)


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_headers_of_the_credentials_belong_to_auth(name):
    auth = AuthConfig(method="bearer", token="t0ken-of-the-shop")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is set by auth"):
        load({"headers": {name: "x"}}, auth=auth)
    load({"headers": {name: "x"}})


def load(operation: dict[str, Any], **plugin: Any) -> None:
    endpoint = "http://127.0.0.1:9"
    with Manager() as manager:
        fields = {
            "name": "p",
            "transport": "http",
            "endpoint": endpoint,
            "operations": {"op": {"path": "/a", **operation}},
        }
        manager.load_from_config({"plugins": [{**fields, **plugin}]})


# --- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value", "body"),
    [
        (Any, {"id": 1, "when": MOMENT}, {"id": 1, "when": "2020-01-02T03:04:05+00:00"}),
        (Order, Order(1, DAY), {"id": 1, "when": "2020-01-02", "note": None}),
        (Named, Named(1), {"id": 1, "name": "x"}),
        (Typed, {"id": 1, "tags": ["a"]}, {"id": 1, "tags": ["a"]}),
        (Order | None, Order(1, DAY, "n"), {"id": 1, "when": "2020-01-02", "note": "n"}),
    ],
)
def test_typed_requests(rest, kind, value, body):
    client = rest({"whole": {"method": "POST", "path": "/a"}, "one": {"method": "POST", "path": "/a/{id}"}})
    assert client.sent(value, "whole", request_type=kind).json == body
    sent = client.sent(value, "one", request_type=kind)
    assert (sent.path, sent.json) == ("/a/1", {name: each for name, each in body.items() if name != "id"})


@pytest.mark.parametrize("path", ["/a", "/a/{id}"])
def test_a_request_that_is_none_has_no_fields(rest, path):
    client = rest({"method": "POST", "path": path})
    assert client.sent(None if path == "/a" else {"id": 1}).body == b"{}"


def test_json_bodies_that_are_lists(rest):
    assert rest({"method": "POST", "path": "/a"}).sent([1, "ü"]).json == [1, "ü"]


def test_a_request_of_another_type(rest):
    client = rest({"method": "POST", "path": "/a/{id}", "body": "multipart"})
    error = client.error({"id": 1}, request_type=Order)
    assert isinstance(error, UnserializableRequestError)
    assert client.server.requests == []


@pytest.mark.parametrize(("value", "text"), TEXTS.values(), ids=TEXTS)
def test_forms(rest, value, text):
    sent = rest({"path": "/a", "body": "form"}).sent(
        {"v": value, "list": [value, None, value], "none": None, "e[]": []}
    )
    assert sent.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qsl(sent.body.decode("ascii")) == [("v", text), ("list", text), ("list", text)]


@pytest.mark.parametrize(
    ("value", "body", "content_type"),
    [
        (b"\0\xff", b"\0\xff", "application/octet-stream"),
        (bytearray(b"ab"), b"ab", "application/octet-stream"),
        (memoryview(b"ab"), b"ab", "application/octet-stream"),
        ("ü", "ü".encode(), "text/plain; charset=utf-8"),
        ("", b"", "text/plain; charset=utf-8"),
        (File(b"a,b", "t.csv", "text/csv"), b"a,b", "text/csv"),
    ],
    ids=["bytes", "bytearray", "memoryview", "text", "empty", "file"],
)
def test_raw_bodies(rest, value, body, content_type):
    client = rest({"one": {"method": "PUT", "path": "/a/{id}", "body": "raw"}, "whole": {"path": "/a", "body": "raw"}})
    for sent in (client.sent({"id": 1, "content": value}, "one"), client.sent(value, "whole")):
        assert (sent.body, sent.headers["content-type"]) == (body, content_type)
        assert sent.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("value", [None, 1, {"a": 1, "b": 2}, {}, {"a": 1}, [b"x"]])
def test_what_is_no_raw_body(rest, value):
    client = rest({"path": "/a", "body": "raw"})
    assert isinstance(client.error(value), InvalidArgumentError)
    assert client.server.requests == []


def test_the_content_type_of_the_operation_counts(rest):
    operation = {"path": "/a", "body": "raw", "headers": {"Content-Type": "application/xml"}}
    assert rest(operation).sent("<a/>").headers["content-type"] == "application/xml"


def parts_of(sent: Any) -> list[tuple[str, str | None, str, bytes]]:
    """Name, file name, content type, and content of each part, as Python's own parser reads them."""
    text = f"Content-Type: {sent.headers['content-type']}\r\n\r\n".encode() + sent.body
    message = message_from_bytes(text, policy=HTTP)
    found = []
    for part in message.iter_parts():  # type: ignore[attr-defined]
        named = dict(part["content-disposition"].params)
        content = part.get_payload(decode=True)
        found.append(
            (named["name"], named.get("filename"), part.get_content_type() if part["content-type"] else "", content)
        )
    return found


@dataclass
class Upload:
    id: int
    file: File
    more: list[bytes]


def test_multipart(rest):
    request = {
        "f": File(b"\0\xff\r\n--", 'ü "1".bin', "image/png"),
        "b": b"xyz",
        "l": ["a", File(b"1", "1.txt", "text/plain"), None, 2],
        "none": None,
        "t": {"a": [1]},
        "ü": "ä",
    }
    sent = rest({"path": "/a", "body": "multipart"}).sent(request)
    assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
    found = parts_of(sent)
    assert [(name, kind, content) for name, _, kind, content in found] == [
        ("f", "image/png", b"\0\xff\r\n--"),
        ("b", "application/octet-stream", b"xyz"),
        ("l", "", b"a"),
        ("l", "text/plain", b"1"),
        ("l", "", b"2"),
        ("t", "application/json", b'{"a":[1]}'),
        ("ü", "", "ä".encode()),
    ]
    assert 'filename="ü %221%22.bin"'.encode() in sent.body
    assert [name for _, name, _, _ in found[1:4]] == ["b", None, "1.txt"]


@pytest.mark.parametrize(("value", "text"), TEXTS.values(), ids=TEXTS)
def test_values_of_multipart(rest, value, text):
    sent = rest({"path": "/a", "body": "multipart"}).sent({"f": b"x", "v": value, "l": [value]})
    assert [each[3].decode() for each in parts_of(sent)] == ["x", text, text]


def test_multipart_of_a_dataclass(rest):
    sent = rest({"path": "/a/{id}", "method": "POST", "body": "multipart"}).sent(
        Upload(1, File(b"x"), [b"1", b"2"]), request_type=Upload
    )
    assert sent.path == "/a/1"
    assert [(name, content) for name, _, _, content in parts_of(sent)] == [
        ("file", b"x"),
        ("more", b"1"),
        ("more", b"2"),
    ]


@pytest.mark.parametrize("name", ["a\r\nX: y", 'a"; filename="b', "\0"])
def test_names_can_not_leave_their_part(rest, name):
    sent = rest({"path": "/a", "body": "multipart"}).sent({name: File(b"x", name)})
    assert len(parts_of(sent)) == 1
    assert b"\r\nX: y" not in sent.body


def test_a_file_in_a_json_body_is_refused(rest):
    error = rest({"method": "POST", "path": "/a"}).error({"f": File(b"x")})
    assert isinstance(error, UnserializableRequestError)
    assert "body: multipart or raw" in str(error)


@pytest.mark.parametrize("body", ["multipart", "raw"])
def test_a_file_within_a_table_is_refused(rest, body):
    error = rest({"path": "/a", "body": body}).error({"f": {"a": File(b"x")}})
    assert isinstance(error, UnserializableRequestError)
    assert "body: multipart or raw" in str(error)


def test_decimals_are_texts(rest):
    client = rest({"method": "POST", "path": "/{d}"})
    sent = client.sent({"d": Decimal("1.10"), "e": Decimal("2.20")})
    assert sent.path == "/1.10"
    assert json.loads(sent.body)["e"] in ("2.20", 2.2)


# --- the key of idempotent calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stated", [True, False, None], ids=["idempotent", "not idempotent", "default"])
@pytest.mark.parametrize("where", ["call", "operation"])
def test_the_key_is_sent_where_a_repetition_would_have_a_further_effect(rest, where, stated, method):
    operation: dict[str, Any] = {"method": method, "path": "/a", "body": "none"}
    if where == "operation":
        operation["idempotent"] = stated
    sent = rest(operation).sent(idempotent=stated if where == "call" else None)
    expected = method in {"POST", "PATCH"} and bool(stated)
    assert ("idempotency-key" in sent.headers) is expected
    if expected:
        assert sent.headers["idempotency-key"] == sent.headers["x-request-id"]


def test_a_post_of_an_idempotent_plugin_has_the_key(rest):
    client = rest(
        {"a": {"method": "POST", "path": "/a"}, "b": {"method": "GET", "path": "/b"}}, retry={"idempotent": True}
    )
    assert "idempotency-key" in client.sent({}, "a").headers
    assert "idempotency-key" not in client.sent({}, "b").headers
