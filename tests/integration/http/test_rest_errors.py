"""Errors of REST services over each engine: the status decides, the text has the words of the service and no secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from goplugins.errors import (
    AuthenticationError,
    HTTPTransportError,
    PluginError,
    PluginRequestError,
    PluginThrottledError,
    PluginUnavailableError,
    Replay,
    UnexpectedRedirectError,
)
from tests.servers import http_reply

OPERATION = {"method": "POST", "path": "/items/{id}", "idempotent": False}
WHERE = "from POST /v1/items/{id}"
ASK = {"id": 1}
SECRET = "t0ken-of-the-shop-0123456789"
AUTH = {"method": "bearer", "token": SECRET}

STATUSES: dict[str, tuple[type[PluginError], Replay]] = {
    "301 Moved": (UnexpectedRedirectError, Replay.NEVER),
    "304 Not Modified": (UnexpectedRedirectError, Replay.NEVER),
    "400 Bad Request": (PluginRequestError, Replay.NEVER),
    "401 Unauthorized": (AuthenticationError, Replay.NEVER),
    "403 Forbidden": (AuthenticationError, Replay.NEVER),
    "404 Not Found": (PluginRequestError, Replay.NEVER),
    "407 Proxy Authentication Required": (AuthenticationError, Replay.NEVER),
    "409 Conflict": (PluginRequestError, Replay.NEVER),
    "418 Teapot": (PluginRequestError, Replay.NEVER),
    "422 Unprocessable Content": (PluginRequestError, Replay.NEVER),
    "429 Too Many Requests": (PluginThrottledError, Replay.ALWAYS),
    "499 Unknown": (PluginRequestError, Replay.NEVER),
    "500 Oops": (HTTPTransportError, Replay.IF_IDEMPOTENT),
    "501 Not Implemented": (HTTPTransportError, Replay.NEVER),
    "502 Bad Gateway": (HTTPTransportError, Replay.IF_IDEMPOTENT),
    "503 Unavailable": (PluginUnavailableError, Replay.IF_IDEMPOTENT),
    "504 Timeout": (HTTPTransportError, Replay.IF_IDEMPOTENT),
    "599 Unknown": (HTTPTransportError, Replay.NEVER),
}
BODIES = {
    "empty": (b"", ""),
    "JSON": (b'{"message": "no stock"}', "application/json"),
    "an answer": (b'{"id": 1}', "application/json"),
    "broken JSON": (b'{"id": ', "application/json"),
    "HTML": (b"<html>", "text/html"),
    "bytes": (b"\0\xff", "image/png"),
    "problem": (b'{"title": "no stock"}', "application/problem+json"),
    "a problem that is none": (b"[1]", "application/problem+json"),
}


@pytest.mark.parametrize(("body", "kind"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize(("status", "expected"), STATUSES.items(), ids=STATUSES)
def test_the_status_decides_whatever_the_body_is(rest, status, expected, body, kind):
    if status.startswith("304"):
        body = b""
    client = rest(OPERATION, http_reply(body, status, {"Content-Type": kind}), path="/v1")
    error = client.error(ASK)
    assert (type(error), error.replay) == expected
    assert f"HTTP {status[:3]} {WHERE}" in str(error)
    assert error.details["status"] == int(status[:3])
    assert (error.details["method"], error.details["path"]) == ("POST", "/v1/items/{id}")
    json.dumps(error.details)


WORDS = {
    "message": ({"message": "Bad credentials", "documentation_url": "https://x"}, "Bad credentials"),
    "error": ({"error": "no stock"}, "no stock"),
    "a table": ({"error": {"message": "No such price", "type": "invalid_request_error"}}, "No such price"),
    "detail": ({"detail": "Not found."}, "Not found."),
    "fields": ({"email": ["Enter a valid email address."]}, "Enter a valid email address."),
    "details of fields": ({"detail": [{"loc": ["body", "id"], "msg": "Field required"}]}, "Field required"),
    "a list": (["Enter a list."], "Enter a list."),
    "a text": ("plain words", "plain words"),
}


@pytest.mark.parametrize(("body", "words"), WORDS.values(), ids=WORDS)
def test_the_words_of_the_service_are_in_the_message(rest, body, words):
    error = rest(OPERATION, http_reply(json.dumps(body), "400 Bad Request")).error(ASK)
    assert words in str(error)
    assert error.details["body"] == json.dumps(body)


def test_nothing_of_an_html_page_is_in_the_message(rest):
    page = "<html><h1>Server error</h1>" + "x" * 10_000
    error = rest(OPERATION, http_reply(page, "500 Oops", {"Content-Type": "text/html"})).error(ASK)
    assert "<" not in str(error)
    assert error.details["body"].startswith("<html><h1>Server error</h1>")
    assert len(error.details["body"]) <= 2048


def test_problem_details(rest):
    problem = {
        "type": "https://example.com/probs/out-of-credit",
        "title": "You do not have enough credit.",
        "detail": "Your current balance is 30, but that costs 50.",
        "status": 403,
        "balance": 30,
        "accounts": ["/account/1"],
    }
    sent = http_reply(json.dumps(problem), "409 Conflict", {"Content-Type": "application/problem+json; charset=utf-8"})
    error = rest(OPERATION, sent).error(ASK)
    assert type(error) is PluginRequestError  # the status of the reply, not that in the body
    assert "You do not have enough credit.: Your current balance is 30, but that costs 50." in str(error)
    assert error.details["problem"] == problem


def test_large_problem_details_are_cut(rest):
    problem = {
        "title": "x" * 100_000,
        "detail": ["y"] * 10_000,
        "nested": {"a": "z" * 100_000},
        **{str(i): i for i in range(99)},
    }
    sent = http_reply(json.dumps(problem), "400 Bad", {"Content-Type": "application/problem+json"})
    error = rest(OPERATION, sent).error(ASK)
    assert len(json.dumps(error.details)) < 6000
    assert len(str(error)) < 1000


@pytest.mark.parametrize("start", [0, 100, 2040, 2047, 2048, 4090])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/problem+json", "text/html"])
def test_credentials_that_the_service_repeats_are_removed(rest, kind, start):
    text = "x" * start + SECRET
    body = (
        json.dumps({"title": text, "detail": SECRET, "message": f"{SECRET} is wrong", "more": text})
        if "json" in kind
        else text
    )
    headers = {"Content-Type": kind, "X-Echo": SECRET, "Location": f"/login?token={SECRET}"}
    for status in ("400 Bad Request", "302 Found"):
        client = rest(OPERATION, http_reply(body, status, headers), auth=AUTH, options={"response_headers": ["X-Echo"]})
        error = client.error(ASK)
        shown = str(error) + repr(error.details)
        for length in range(8, len(SECRET) + 1):
            assert SECRET[:length] not in shown, length


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("0.5", 0.5), ("soon", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)]
)
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Unavailable", "403 Forbidden"])
def test_retry_after(rest, status, value, seconds):
    error = rest(OPERATION, http_reply("", status, {"Retry-After": value})).error(ASK)
    assert error.retry_after == seconds


def test_a_redirect_names_the_place(rest):
    error = rest(OPERATION, http_reply("", "301 Moved", {"Location": "/v1/items/1/"}), path="/v1").error(ASK)
    assert "it refers to /v1/items/1/" in str(error)
    assert error.details["location"] == "/v1/items/1/"


@pytest.mark.parametrize("body", [b"\x1b[31mred\nWARNING all is well", "ü\u202e\n\n".encode()])
def test_texts_are_one_line_without_control_characters(rest, body):
    error = rest(OPERATION, http_reply(body, "400 Bad", {"Content-Type": "text/plain"})).error(ASK)
    assert str(error).isprintable()


def test_an_operation_that_is_not_configured(rest):
    client = rest({"get_item": {"path": "/items/{id}"}, "list_items": {"path": "/items"}})
    for name, text in (("get_itm", "get_item"), ("", "get_item, list_items")):
        error: Any = client.error(ASK, operation=name)
        assert text in str(error)
        assert isinstance(error, LookupError)
    assert client.server.requests == []
