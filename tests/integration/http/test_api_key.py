"""An API key travels in the header or query parameter that the service expects, and appears in no text."""

from __future__ import annotations

import logging
import traceback

import pytest
import requests

from goplugins import Manager
from goplugins.config import AuthConfig, PluginConfig
from goplugins.enums import PluginStatus
from goplugins.errors import InvalidConfigError, PluginError
from goplugins.transports.http import HTTPPlugin
from tests.integration.http.conftest import call, failure
from tests.servers import http_reply, ok

KEY = "k/4711 +&="
SENT = "api%20key=k%2F4711%20%2B%26%3D"
IN_QUERY = AuthConfig(method="api-key", api_key=KEY, query="api key")


def test_the_key_in_a_header_of_another_name(serve, make):
    server = serve()
    plugin = make(server.url, auth=AuthConfig(method="api-key", api_key=KEY, header="X-Quotes-Key"))
    assert call(plugin) == "ok"
    assert plugin.health(1).status is PluginStatus.HEALTHY
    assert [request.headers["x-quotes-key"] for request in server.requests] == [KEY, KEY]
    assert not any("x-api-key" in request.headers for request in server.requests)
    assert "is set by auth" in str(failure(plugin, headers={"x-quotes-key": "mine"}))


@pytest.mark.parametrize(("query", "expected"), [("", f"?{SENT}"), ("?v=1", f"?v=1&{SENT}")])
def test_the_key_in_the_query(serve, make, query, expected):
    server = serve()
    plugin = make(server.url + query, auth=IN_QUERY)
    assert call(plugin) == "ok"
    assert plugin.health(1).status is PluginStatus.HEALTHY
    assert [request.path for request in server.requests] == [f"/plugin{expected}", f"/plugin/health{expected}"]
    assert not any("x-api-key" in request.headers for request in server.requests)


def test_no_text_shows_the_query(serve, make, caplog):
    def refuse(peer):
        while (request := peer.read_request()) is not None:
            location = {"Location": f"/other{request.path}"}
            peer.send(
                http_reply(
                    f"no such page: {request.path} for {KEY}", "302 Found", {"Content-Type": "text/plain", **location}
                )
            )

    caplog.set_level(logging.DEBUG)
    plugin = make(serve(refuse).url, auth=IN_QUERY)
    error = failure(plugin)
    shown = "".join([str(error), repr(error.details), repr(plugin), *traceback.format_exception(error), caplog.text])
    assert "/other/plugin" in shown
    assert "4711" not in shown
    assert "4711" not in plugin.health(1).message


def test_metrics_and_reports_do_not_show_the_query(serve, engine):
    server = serve(lambda peer: (request := peer.read_request()) and peer.send(ok(request)))
    auth = {"method": "api-key", "api_key": KEY, "query": "key"}
    plugin = {"name": "p", "transport": "http", "endpoint": server.url, "auth": auth, "options": {"engine": engine}}
    with Manager() as manager:
        manager.load_from_config({"plugins": [plugin]})
        manager.execute("p", None)
        assert "4711" not in f"{manager.explain('p')} {manager.metrics()} {manager.get_plugin('p')!r}"
    server.close()
    with Manager() as manager:
        manager.load_from_config({"plugins": [plugin]})
        with pytest.raises(PluginError) as caught:
            manager.execute("p", None)
    assert "4711" not in "".join(traceback.format_exception(caught.value))


def test_a_session_gets_no_key_in_the_query():
    config = PluginConfig(name="p", transport="http", endpoint="http://127.0.0.1:1", auth=IN_QUERY)
    with requests.Session() as session, pytest.raises(InvalidConfigError, match=r"auth.query: .*session.params"):
        HTTPPlugin(config, session=session)
