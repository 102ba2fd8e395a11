"""REST answers, over each engine: types, JSON Pointers, expected statuses, charsets, replies without a body."""

from __future__ import annotations

import codecs
import gzip
import json
from dataclasses import dataclass, field
from typing import Any, TypedDict

import attrs
import pytest

from goplugins import ConfigError, File, ManagerConfig, PluginConfig
from goplugins.errors import (
    BadReplyError,
    PluginRequestError,
    ReplyTooLargeError,
    ReplyTypeError,
    TruncatedReplyError,
)
from tests.servers import Peer, http_reply

GET = {"path": "/items/{id}"}
ASK = {"id": 1}


def reply(
    body: bytes | str | dict[str, Any], kind: str = "application/json", status: str = "200 OK", **headers: str
) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http_reply(body, status, {"Content-Type": kind, **named})


@attrs.frozen
class Item:
    id: int
    tags: list[str] = attrs.field(factory=list)


@dataclass
class Data:
    id: int
    tags: list[str] = field(default_factory=list)


class Typed(TypedDict):
    id: int


ITEM = '{"id": 1, "tags": ["a"], "and": {"what": "else"}}'
WHOLE = json.loads(ITEM)

ANSWERS: dict[str, tuple[bytes, Any, Any]] = {
    "any": (reply(ITEM), Any, WHOLE),
    "attrs": (reply(ITEM), Item, Item(1, ["a"])),
    "dataclass": (reply(ITEM), Data, Data(1, ["a"])),
    "attrs or none": (reply(ITEM), Item | None, Item(1, ["a"])),
    "dict": (reply(ITEM), dict, WHOLE),
    "list": (reply(f"[{ITEM}]"), list[Item], [Item(1, ["a"])]),
    "null": (reply("null"), Item | None, None),
    "number": (reply("1.5"), float, 1.5),
    "JSON text": (reply('"a"'), str, "a"),
    "bytes": (reply(ITEM), bytes, ITEM.encode()),
    "problem JSON": (reply(ITEM, "application/vnd.github+json; charset=utf-8"), Item, Item(1, ["a"])),
    "no content type": (http_reply(ITEM, headers={"Content-Type": ""}), Item, Item(1, ["a"])),
    "JSON that is announced as text": (reply(ITEM, "text/html"), Item, Item(1, ["a"])),
    "byte order mark": (reply(codecs.BOM_UTF8 + ITEM.encode()), Item, Item(1, ["a"])),
    "utf-16": (reply(ITEM.encode("utf-16"), "application/json; charset=UTF-16"), Item, Item(1, ["a"])),
    "latin-1": (reply('"ü"'.encode("latin-1"), 'application/json; charset="ISO-8859-1"'), str, "ü"),
    "gzip": (reply(gzip.compress(ITEM.encode()), Content_Encoding="gzip"), Item, Item(1, ["a"])),
    "a status of its own": (reply(ITEM, status="201 Created"), Item, Item(1, ["a"])),
    "text": (reply("line\n", "text/plain"), str, "line\n"),
    "text or none": (reply("a", "text/csv"), str | None, "a"),
    "html": (reply("<p>ü", "text/html; charset=utf-8"), str, "<p>ü"),
    "text of a charset": (reply("ü€".encode("cp1252"), "text/plain; charset=windows-1252"), str, "ü€"),
    "text with a mark": (reply(codecs.BOM_UTF8 + b"a", "text/plain"), str, "a"),
    "file": (reply(b"\0\xff", "image/png"), bytes, b"\0\xff"),
    "gzipped file": (reply(gzip.compress(b"\0\xff"), "image/png", Content_Encoding="gzip"), bytes, b"\0\xff"),
    "no content": (reply("", status="204 No Content"), None, None),
    "no content, anything": (reply("", status="204 No Content"), Any, None),
    "no content, or an item": (reply("", status="204 No Content"), Item | None, None),
    "nothing": (reply(""), Item | None, None),
    "reset content": (reply("", status="205 Reset Content"), Any, None),
    "accepted": (reply("", status="202 Accepted"), Any, None),
    "empty text": (reply("", "text/plain"), str, ""),
    "empty text or none": (reply("", "text/plain"), str | None, None),
    "empty JSON as a text": (reply(""), str, ""),
    "empty bytes": (reply(""), bytes, b""),
    "empty bytes or none": (reply(""), bytes | None, None),
}


@pytest.mark.parametrize(("sent", "kind", "answer"), ANSWERS.values(), ids=ANSWERS)
def test_answers(rest, sent, kind, answer):
    client = rest(GET, sent)
    found = client(ASK, answer=kind)
    assert found == answer
    assert type(found) is type(answer)
    assert client(ASK, answer=kind) == answer
    assert client.server.connections == 1


BAD: dict[str, tuple[bytes, Any, type[Exception], str]] = {
    "another type": (reply('{"id": "x"}'), Item, ReplyTypeError, "id"),
    "an empty reply": (reply(""), Item, ReplyTypeError, "null"),
    "no content": (reply("", status="204 No Content"), Item, ReplyTypeError, "null"),
    "a text where JSON is due": (reply("<h1>Welcome", "text/html"), Item, BadReplyError, "<h1>Welcome"),
    "a text for Any": (
        reply("hello", "text/plain"),
        Any,
        BadReplyError,
        "(str and bytes as the answer's type take it as it is): hello",
    ),
    "broken JSON": (reply('{"id": 1'), Item, TruncatedReplyError, ""),
    "two values": (reply("1 2"), Any, BadReplyError, ""),
    "a name twice": (reply('{"id": 1, "id": 2}'), Item, BadReplyError, "id"),
    "no number": (reply("NaN"), Any, BadReplyError, ""),
    "deep JSON": (reply("[" * 60_000), Any, BadReplyError, ""),
    "a charset that is not known": (reply("a", "text/plain; charset=klingon"), str, BadReplyError, "klingon"),
    "another charset": (reply(b"\xff", "text/plain; charset=utf-8"), str, BadReplyError, "utf-8"),
    "no utf-8": (reply(b'"\xff"'), str, BadReplyError, ""),
    "a codec that is no charset": (reply("aGk=", "text/plain; charset=base64"), str, BadReplyError, "base64"),
    "a codec that is no charset, of JSON": (reply("1", "application/json; charset=rot13"), Any, BadReplyError, "rot13"),
    "too large": (reply("x" * 70_000, "text/plain"), str, ReplyTooLargeError, "65536"),
    "a gzip bomb": (reply(gzip.compress(b" " * 10**6), Content_Encoding="gzip"), bytes, ReplyTooLargeError, "65536"),
}


@pytest.mark.parametrize(("sent", "kind", "error", "text"), BAD.values(), ids=BAD)
def test_replies_that_are_no_answer(rest, sent, kind, error, text):
    client = rest(GET, sent, connection={"max_response_bytes": 65536})
    found = client.error(ASK, answer=kind)
    assert type(found) is error, repr(found)
    assert text in str(found)
    assert "operation 'op'" in str(found)
    assert len(str(found)) < 1000
    if error is not ReplyTooLargeError:
        assert "GET /items/{id}" in str(found)
    assert len(client.server.requests) == 1


# --- HEAD, and replies without a body ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "1000"},
        {"Content-Length": str(10**12)},
        {"Content-Length": "1000", "Content-Encoding": "gzip"},
        {"Transfer-Encoding": "chunked"},
        {"Content-Encoding": "br", "Content-Length": "3"},
        {},
    ],
    ids=str,
)
def test_head_has_headers_and_no_body_and_the_next_reply_is_its_own(rest, headers):
    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            if request.method == "HEAD":
                lines = "".join(f"{name}: {value}\r\n" for name, value in {"ETag": '"v1"', **headers}.items())
                peer.send(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{lines}\r\n".encode())
            else:
                peer.send(reply({"path": request.path}))

    operations = {"head": {"method": "HEAD", "path": "/items/{id}"}, "get": GET}
    client = rest(operations, handler, options={"response_headers": ["ETag", "content-length"]})
    for number in range(3):
        bound = client.manager.bind("p", Any, Any, operation="head")
        result = bound.result({"id": number}, timeout=5)
        assert result.value is None
        assert result.metadata["ETag"] == '"v1"'
        assert result.metadata.get("content-length") == headers.get("Content-Length")
        assert client({"id": number}, "get") == {"path": f"/items/{number}"}


def test_head_of_what_is_not_there(rest):
    sent = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
    client = rest({"method": "HEAD", "path": "/a", "expect": {404: False, 200: True}}, sent)
    assert client({}, answer=bool) is False
    client = rest({"method": "HEAD", "path": "/a"}, sent)
    assert client.error().details["status"] == 404


def test_a_304_has_no_body_although_it_has_a_length(rest):
    sent = b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\nContent-Length: 500\r\n\r\n'
    operation = {"path": "/items", "headers": {"If-None-Match": "{etag}"}, "expect": {304: None}}
    client = rest(operation, sent, options={"response_headers": ["ETag"]})
    for _ in range(2):
        assert client({"etag": '"v1"'}, answer=Item | None) is None
    assert client.server.requests[0].headers["if-none-match"] == '"v1"'


# --- result --------------------------------------------------------------------------------------------------------


DOCUMENT = {"data": {"items": [{"a/b": 1, "c~d": 2, "": 3, "0": 4}], "none": None}, "id": 1}


@pytest.mark.parametrize(
    ("pointer", "answer"),
    [
        ("/data/items", DOCUMENT["data"]["items"]),  # type: ignore[index]
        ("/data/items/0/a~1b", 1),
        ("/data/items/0/c~0d", 2),
        ("/data/items/0/", 3),
        ("/data/items/0/0", 4),
        ("/data/none", None),
        ("/id", 1),
    ],
)
def test_a_pointer_to_the_answer(rest, pointer, answer):
    assert rest({**GET, "result": pointer}, reply(DOCUMENT))(ASK) == answer


@pytest.mark.parametrize(
    ("pointer", "text"),
    [
        ("/datas", "at 'datas' it is an object with data, id"),
        ("/data/items/1", "at '1' it is a JSON list"),
        ("/data/items/-", "at '-' it is a JSON list"),
        ("/data/items/00", "at '00' it is a JSON list"),
        ("/data/items/²", "at '²' it is a JSON list"),
        ("/id/x", "at 'x' it is a JSON int"),
        ("/data/none/x", "at 'x' it is a JSON NoneType"),
    ],
)
def test_a_pointer_to_nothing(rest, pointer, text):
    error = rest({**GET, "result": pointer}, reply(DOCUMENT)).error(ASK)
    assert type(error) is ReplyTypeError
    assert f"result {pointer} finds nothing in the reply: {text}" in str(error)
    assert "GET /items/{id}" in str(error)


def test_a_pointer_into_an_empty_reply(rest):
    client = rest({**GET, "result": "/data"}, reply("", status="204 No Content"))
    assert client(ASK, answer=Item | None) is None


@pytest.mark.parametrize(("kind", "answer"), [(str, "aGk="), (bytes, b"hi")])
def test_texts_behind_a_pointer(rest, kind, answer):
    assert rest({**GET, "result": "/a"}, reply({"a": "aGk="}))(ASK, answer=kind) == answer


# --- expect --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "kind", "answer"),
    [
        ({404: None}, Item | None, None),
        ({"404": None}, Item | None, None),
        ([404, 410], Item | None, None),
        ({404: {"id": 0}}, Item, Item(0)),
        ({404: []}, list[Item], []),
        ({404: False}, bool, False),
        ({404: "none"}, str, "none"),
    ],
)
def test_a_status_that_is_an_answer(rest, expect, kind, answer):
    client = rest({**GET, "expect": expect}, reply("<html>", "text/html", "404 Not Found"))
    first = client(ASK, answer=kind)
    assert first == answer
    if isinstance(first, list):
        first.append(1)  # the caller's own
        assert client(ASK, answer=kind) == answer


def test_an_expected_status_that_does_not_fit_the_type(rest):
    error = rest({**GET, "expect": {404: None}}, reply("", status="404 Not Found")).error(ASK, answer=Item)
    assert type(error) is ReplyTypeError
    assert "HTTP 404 from GET /items/{id}" in str(error)


def test_other_statuses_are_errors_all_the_same(rest):
    error = rest({**GET, "expect": {404: None}}, reply("", status="410 Gone")).error(ASK)
    assert type(error) is PluginRequestError


@pytest.mark.parametrize("suffix", ["json", "toml", "yaml"])
def test_expected_statuses_in_files(tmp_path, suffix):
    texts = {
        "json": '{"plugins": [{"name": "p", "transport": "http", "endpoint": "http://h:1", "operations":'
        ' {"a": {"path": "/a", "expect": {"404": null}}, "b": {"path": "/b", "expect": [404, 410]}}}]}',
        "toml": '[[plugins]]\nname = "p"\ntransport = "http"\nendpoint = "http://h:1"\n'
        '[plugins.operations]\na = {path = "/a", expect = [404]}\nb = {path = "/b", expect = [404, 410]}\n',
        "yaml": "plugins:\n- name: p\n  transport: http\n  endpoint: http://h:1\n  operations:\n"
        '    a: {path: "/a", expect: {404: null}}\n    b: {path: "/b", expect: [404, 410]}\n',
    }
    path = tmp_path / f"plugins.{suffix}"
    path.write_text(texts[suffix])
    operations = ManagerConfig.from_file(path).plugins[0].operations
    assert operations["a"].expect == {404: None}
    assert operations["b"].expect == {404: None, 410: None}


@pytest.mark.parametrize("expect", [{99: None}, {600: None}, {"4xx": None}, [404, 404.5], "404", {True: None}, [None]])
def test_what_is_no_status(expect):
    with pytest.raises(ConfigError, match="expect"):
        PluginConfig.from_mapping(
            {
                "name": "p",
                "transport": "http",
                "endpoint": "http://h",
                "operations": {"a": {"path": "/", "expect": expect}},
            }
        )


# --- headers of replies --------------------------------------------------------------------------------------------


def test_headers_of_the_reply_in_the_metadata(rest):
    sent = reply(ITEM, etag='"v1"', X_RateLimit_Remaining="7", Set_Cookie="secret=1")
    client = rest(GET, sent, options={"response_headers": ["ETag", "x-ratelimit-remaining", "X-None"]})
    result = client.manager.bind("p", Any, Item, operation="op").result(ASK, timeout=5)
    assert result.metadata == {"ETag": '"v1"', "x-ratelimit-remaining": "7"}
    assert rest(GET, sent).manager.execute_result("p", ASK, operation="op").metadata == {}


def test_headers_of_an_error(rest):
    sent = reply("", status="404 Not Found", X_Request_Id="srv-1")
    client = rest(GET, sent, options={"response_headers": ["X-Request-Id"]})
    assert client.error(ASK).details["headers"] == {"X-Request-Id": "srv-1"}


def test_a_repeated_header_is_one(rest):
    sent = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 4\r\nx-a: 2\r\n\r\nnull"
    client = rest(GET, sent, options={"response_headers": ["X-A"]})
    assert client.manager.execute_result("p", ASK, operation="op").metadata == {"X-A": "1, 2"}


def test_an_upload_and_its_download(rest):
    """Bytes reach the service and come back unchanged."""
    content = bytes(range(256)) * 100

    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            peer.send(reply(request.body, request.headers["content-type"]))

    client = rest({"path": "/a", "body": "raw"}, handler)
    assert client(File(content, content_type="image/png"), answer=bytes) == content
