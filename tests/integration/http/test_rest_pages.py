"""Pages of a REST service: Link headers, cursors in the query and the body, and what goes wrong between two pages."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from goplugins import Manager, deadline
from goplugins.errors import (
    BadReplyError,
    InvalidArgumentError,
    PluginError,
    PluginTimeoutError,
    PluginUnavailableError,
    ReplyTypeError,
)
from goplugins.transports.http.rest.reply import _next_link
from tests.servers import Peer, Request, http_reply
from tests.timing import time_limit

PAGES = [[1, 2], [], [3], [4, 5]]
ALL = [1, 2, 3, 4, 5]


def number_of(request: Request, name: str = "page") -> int:
    values = parse_qs(urlsplit(request.path).query).get(name)
    if values is None and request.body:
        return int(request.json.get(name, 1))
    assert values is None or len(values) == 1, request.path
    return int(values[0]) if values else 1


def pager(reply_of):
    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            peer.send(reply_of(request))

    return handler


def by_link(form: str):
    """Pages with such a Link header; ``{n}`` is the next page, and ``{host}`` the own host."""

    def reply_of(request: Request) -> bytes:
        number = number_of(request)
        link = form.replace("{n}", str(number + 1)).replace("{host}", request.headers["host"])
        return http_reply(json.dumps(PAGES[number - 1]), headers={"Link": link} if number < len(PAGES) else {})

    return pager(reply_of)


@pytest.mark.parametrize(
    "form",
    [
        '<http://{host}/v1/items?page={n}>; rel="next"',
        '</v1/items?page={n}>; rel="next"',
        "<?page={n}>;rel=next",
        '<items?page={n}> ; REL = "NEXT"',
        '<http://{host}/v1/items?page=9>; rel="prev", <http://{host}/v1/items?page={n}>; rel="next last"',
        '</x>; rel="first"; title="a, <b>; rel=next", </v1/items?page={n}>; title="c \\" ; rel=\\"x\\""; rel=next; a=b',
        '</x>; rel=prev; rel=next, </v1/items?page={n}>; rel="next"',
        "<HTTP://{host}/v1/items?page={n}#part>; rel=next",
        "<//{host}/v1/items?page={n}>; rel=next",
        "<http://user:pw@{host}/v1/items?page={n}>; rel=next",
        '</v1/items?page={n}>; rel="next", <http://other.example/x>; rel="next"',
    ],
)
def test_links(rest, form):
    client = rest({"path": "/items"}, by_link(form), path="/v1")
    assert list(client.manager.pages("p", {}, operation="op")) == ALL
    assert [request.path.partition("?")[0] for request in client.server.requests] == ["/v1/items"] * 4


@pytest.mark.parametrize(
    "header", ["", "x", "<", "</a>", '</a>; rel="nextt"', "</a>; rev=next", '</a>; title="rel=next"']
)
def test_no_link(header):
    assert _next_link(header) == ""


@pytest.mark.parametrize(
    "header", ["<" * 65000, "<>;" * 20000, "</a>" + "; " * 30000, "</a>; a=" + '"' * 64999, "</a>;" + " " * 65000]
)
def test_a_hostile_link_takes_no_time(header):
    for stopwatch in time_limit(0.5):
        with stopwatch:
            assert _next_link(header) == ""


def by_field(next_of, name: str = "cursor"):
    def reply_of(request: Request) -> bytes:
        number = number_of(request, name)
        following = next_of(number + 1, request) if number < len(PAGES) else None
        return http_reply({"items": PAGES[number - 1], "meta": {"next": following}})

    return pager(reply_of)


FIELD = {"result": "/items", "next": "/meta/next"}


@pytest.mark.parametrize("number", [int, str])
@pytest.mark.parametrize("operation", [{"path": "/items"}, {"path": "/items/search", "method": "POST"}])
def test_a_cursor(rest, operation, number):
    client = rest({**operation, **FIELD, "cursor": "cursor"}, by_field(lambda n, _: number(n)))
    assert list(client.manager.pages("p", {"q": "a b"}, operation="op")) == ALL
    for index, request in enumerate(client.server.requests):
        if operation.get("method") == "POST":
            assert request.json == {"q": "a b", **({"cursor": str(index + 1)} if index else {})}
        else:
            assert request.path == "/items?q=a%20b" + (f"&cursor={index + 1}" if index else "")


@pytest.mark.parametrize(
    "url", ["http://{host}/items?cursor={n}&q=a", "/items?cursor={n}&q=a", "?cursor={n}&q=a", "/items?cursor={n}&q=ü b"]
)
def test_a_url_in_the_reply(rest, url):
    client = rest(
        {"path": "/items", **FIELD},
        by_field(lambda n, request: url.replace("{host}", request.headers["host"]).replace("{n}", str(n))),
    )
    assert list(client.manager.pages("p", {"q": "a"}, operation="op")) == ALL
    if "ü" in url:
        assert client.server.requests[-1].path.endswith("q=%C3%BC%20b")


@pytest.mark.parametrize("end", [None, "", False, 0, "missing"])
def test_the_end_of_the_pages(rest, end):
    meta = {} if end == "missing" else {"next": end}
    sent = http_reply({"items": [1], "meta": meta})
    client = rest({"path": "/items", **FIELD, "cursor": "cursor"}, sent)
    assert list(client.manager.pages("p", {}, operation="op")) == [1]


@pytest.mark.parametrize("items", [None, []])
def test_no_items(rest, items):
    client = rest({"path": "/items", **FIELD}, http_reply({"items": items, "meta": {"next": None}}))
    assert list(client.manager.pages("p", {}, operation="op")) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example/items?cursor=2",
        "//other.example/x",
        "https://127.0.0.2/x",
        "http://127.0.0.1@other.example/",
    ],
)
def test_another_host_gets_no_request(rest, url):
    for operation, handler in (
        ({"path": "/items", **FIELD}, by_field(lambda *_: url)),
        ({"path": "/items"}, by_link(f"<{url}>; rel=next")),
    ):
        client = rest(operation, handler)
        with pytest.raises(BadReplyError, match="the next page is on another host"):
            list(client.manager.pages("p", {}, operation="op"))
        assert len(client.server.requests) == 1


@pytest.mark.parametrize("url", ["http://[::1", "http://h:99999999/x\ud800"])
def test_what_is_no_url(rest, url):
    client = rest({"path": "/items", **FIELD}, by_field(lambda *_: url))
    with pytest.raises(BadReplyError, match="next page"):
        list(client.manager.pages("p", {}, operation="op"))
    assert len(client.server.requests) == 1


@pytest.mark.parametrize("found", [{}, [1], 1.5, True])
def test_what_is_no_cursor(rest, found):
    client = rest({"path": "/items", **FIELD, "cursor": "cursor"}, by_field(lambda *_: found))
    with pytest.raises(ReplyTypeError, match="next /meta/next is a JSON"):
        list(client.manager.pages("p", {}, operation="op"))


@pytest.mark.parametrize("following", [lambda n, _: 2, lambda n, _: n % 3 + 1])
def test_pages_that_repeat(rest, following):
    client = rest({"path": "/items", **FIELD, "cursor": "cursor"}, by_field(following))
    with pytest.raises(BadReplyError, match="the pages repeat"):
        list(client.manager.pages("p", {}, operation="op"))
    assert len(client.server.requests) <= 4


@pytest.mark.parametrize("sent", [http_reply({"a": 1}), http_reply("1"), http_reply('"text"')])
def test_what_is_no_list(rest, sent):
    client = rest({"path": "/items"}, sent)
    with pytest.raises(ReplyTypeError, match="a page is a list"):
        next(client.manager.pages("p", {}, operation="op"))


def test_items_have_their_type(rest):
    client = rest({"path": "/items", **FIELD, "cursor": "cursor"}, by_field(lambda n, _: n))
    bound = client.manager.bind("p", dict, list[int], operation="op")
    assert list(bound.pages({})) == ALL
    with pytest.raises(ReplyTypeError):
        list(client.manager.bind("p", dict, list[str], operation="op").pages({}))


def test_pages_are_fetched_when_they_are_needed(rest):
    client = rest({"path": "/items", **FIELD, "cursor": "cursor"}, by_field(lambda n, _: n))
    pages = client.manager.pages("p", {}, operation="op")
    assert client.server.requests == []
    assert [next(pages), next(pages)] == [1, 2]
    assert len(client.server.requests) == 1
    assert next(pages) == 3
    assert len(client.server.requests) == 3  # the second page is empty
    assert pages.cursor == "3"


@pytest.mark.parametrize(
    "operation", [{"path": "/items", **FIELD, "cursor": "cursor"}, {"path": "/items", **FIELD}, {"path": "/items"}]
)
def test_an_iteration_continues_after_an_error_and_in_another_place(rest, operation):
    failing = {3}

    def reply_of(request: Request) -> bytes:
        name = "cursor" if "next" in operation else "page"
        number = number_of(request, name)
        if number in failing:
            failing.clear()
            return http_reply("", "503 Unavailable")
        following = number + 1 if number < len(PAGES) else None
        if "next" not in operation:
            link = {"Link": f"</items?page={following}>; rel=next"} if following else {}
            return http_reply(json.dumps(PAGES[number - 1]), headers=link)
        url = following if "cursor" in operation or following is None else f"/items?cursor={following}"
        return http_reply({"items": PAGES[number - 1], "meta": {"next": url}})

    client = rest(operation, pager(reply_of))
    pages = client.manager.pages("p", {}, operation="op")
    found = [next(pages), next(pages)]
    with pytest.raises(PluginUnavailableError):
        next(pages)
    assert pages.cursor
    again = client.manager.pages("p", {}, operation="op", cursor=pages.cursor)
    assert found + list(pages) == ALL
    assert pages.cursor is None
    assert found + list(again) == ALL
    assert list(pages) == []


@pytest.mark.parametrize("cursor", ["/x\r\nX-Evil: 1", "/x y", "http://other.example/", "x", "//other.example/x", "/ü"])
def test_a_cursor_that_is_no_place_of_this_service(rest, cursor):
    client = rest({"path": "/items"}, http_reply("[]"))
    with pytest.raises(InvalidArgumentError, match="cursor: expected the cursor of an iteration"):
        list(client.manager.pages("p", {}, operation="op", cursor=cursor))
    assert client.server.requests == []


@pytest.mark.parametrize("operation", [{"path": "/items"}, {"path": "/items", "method": "POST"}])
def test_a_cursor_is_data_where_it_is_a_parameter(rest, operation):
    client = rest({**operation, **FIELD, "cursor": "cursor"}, http_reply({"items": [], "meta": {}}))
    cursor = "/x\r\nX-Evil: 1&a=b"
    assert list(client.manager.pages("p", {}, operation="op", cursor=cursor)) == []
    (request,) = client.server.requests
    sent = request.json["cursor"] if request.body else parse_qs(urlsplit(request.path).query)["cursor"][0]
    assert sent == cursor


def test_a_deadline_over_all_pages(rest):
    def reply_of(request: Request) -> bytes:
        number = number_of(request, "cursor")
        return http_reply({"items": [number], "meta": {"next": number + 1}})

    client = rest({"path": "/items", **FIELD, "cursor": "cursor"}, pager(reply_of))
    pages = client.manager.pages("p", {}, operation="op", timeout=5)
    for stopwatch in time_limit(2.0):
        with stopwatch, pytest.raises(PluginTimeoutError), deadline(0.2):
            for _ in pages:
                pass
    assert next(pages) >= 1


def test_pages_and_the_cache(rest):
    client = rest({"path": "/items", **FIELD, "cursor": "cursor"}, by_field(lambda n, _: n), cache={"ttl": "1m"})
    assert client({}) == [1, 2]  # an answer of a single call is no page
    for _ in range(2):
        assert list(client.manager.pages("p", {}, operation="op")) == ALL
    assert client({}) == [1, 2]
    assert len(client.server.requests) == 1 + len(PAGES)


def test_pages_are_retried_one_by_one(rest):
    failed = set()

    def reply_of(request: Request) -> bytes:
        number = number_of(request, "cursor")
        if number not in failed:
            failed.add(number)
            return http_reply("", "503 Unavailable")
        return http_reply({"items": PAGES[number - 1], "meta": {"next": number + 1 if number < 4 else None}})

    retry = {"max_retries": 1, "initial_interval": "1ms"}
    client = rest({"path": "/items", **FIELD, "cursor": "cursor"}, pager(reply_of), retry=retry)
    assert list(client.manager.pages("p", {}, operation="op")) == ALL


@pytest.mark.parametrize("engine", ["fast", "requests"])
@pytest.mark.parametrize("echo", ["api_key={key}&page={n}", "page={n}&api_key={key}", "page={n}&api%5Fkey={key}"])
def test_a_key_in_the_query_is_sent_once_and_is_in_no_cursor(serve, engine, echo):
    """The service repeats the query of the request in its links, the key included."""
    key = "s3cret+of/the key"

    def reply_of(request: Request) -> bytes:
        query = urlsplit(request.path).query
        assert query.count("api_key=") == 1
        number = number_of(request)
        encoded = next(part for part in query.split("&") if part.startswith("api_key=")).partition("=")[2]
        if number == 3:
            return http_reply("", "500 Oops")
        link = f"</items?{echo.replace('{n}', str(number + 1)).replace('{key}', encoded)}>; rel=next"
        return http_reply(json.dumps(PAGES[number - 1]), headers={"Link": link})

    server = serve(pager(reply_of))
    config = {
        "name": "p",
        "transport": "http",
        "endpoint": f"http://127.0.0.1:{server.port}",
        "auth": {"method": "api-key", "api_key": key, "query": "api_key"},
        "options": {"engine": engine},
        "retry": {"max_retries": 0},
        "operations": {"op": {"path": "/items"}},
    }
    with Manager() as manager:
        manager.load_from_config({"plugins": [config]})
        pages = manager.pages("p", {}, operation="op")
        with pytest.raises(PluginError) as caught:
            list(pages)
        assert pages.cursor == "/items?page=3"
        shown: Any = (str(caught.value), caught.value.details, repr(pages))
        assert "s3cret" not in unquote(str(shown))
        assert [unquote(request.path).count("s3cret") for request in server.requests] == [1, 1, 1]
