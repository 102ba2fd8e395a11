"""Credentials of operations over REST: the same token, and a key in the query that no page shows."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from goplugins.errors import AuthenticationError
from tests.servers import http_reply

OPERATIONS = {"get": {"method": "GET", "path": "/items/{id}"}, "list": {"method": "GET", "path": "/items"}}


def test_a_refused_token_is_replaced_once(tokens, manage):
    tokens.answer = lambda request: (
        http_reply(json.dumps(request.path))
        if tokens.accepts(request.headers.get("authorization", ""))
        else http_reply("", "401 Unauthorized")
    )
    manager = manage(operations=OPERATIONS)
    assert manager.execute("p", {"id": 7}, operation="get") == "/plugin/items/7"
    tokens.revoked.add("token-1")
    result = manager.execute_result("p", {"id": 8}, operation="get")
    assert (result.value, result.attempts, len(tokens.asked)) == ("/plugin/items/8", 1, 2)


def test_a_missing_scope_is_named(tokens, manage):
    challenge = {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="items:read"'}
    tokens.answer = lambda request: http_reply("no", "403 Forbidden", challenge)
    with pytest.raises(AuthenticationError, match="lacks a scope: it needs 'items:read'") as caught:
        manage(operations=OPERATIONS).execute("p", {"id": 7}, operation="get")
    assert caught.value.details["scope"] == "items:read"


def test_a_key_in_the_query_is_sent_once_with_each_page_and_is_in_no_page(tokens, manage):
    def answer(request):
        query = parse_qs(urlsplit(request.path).query)
        page = int(query.get("page", ["1"])[0])
        link = {} if page == 3 else {"Link": f'</plugin/items?key={query["key"][0]}&page={page + 1}>; rel="next"'}
        return http_reply(json.dumps([f"{page} {len(query['key'])} {query['key'][0]}"]), headers=link)

    tokens.answer = answer
    manager = manage({"method": "api-key", "api_key": "k-4711", "query": "key"}, operations=OPERATIONS)
    pages = manager.pages("p", None, operation="list")
    assert next(pages) == "1 1 k-4711"
    assert pages.cursor is not None
    assert "4711" not in f"{pages!r} {pages.cursor} {vars(pages)}"
    assert list(pages) == ["2 1 k-4711", "3 1 k-4711"]
