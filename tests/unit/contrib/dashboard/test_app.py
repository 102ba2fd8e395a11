"""The dashboard as a WSGI application: pages, data, permissions, and protection against other sites."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from goplugins import CircuitBreakerState, Manager, PluginConfig, RateLimitConfig
from goplugins.contrib import dashboard
from tests.unit.contrib.dashboards import ORIGIN, FakePlugin, ask, call, press, shown, signed_in

ASSETS = resources.files("goplugins.contrib.dashboard") / "assets"


@pytest.fixture
def manager():
    with Manager() as manager:
        yield manager


@pytest.fixture
def plugin(manager):
    plugin = FakePlugin()
    manager.register(plugin)
    return plugin


@pytest.fixture
def page(manager, plugin):
    return dashboard.wsgi(manager)


@pytest.fixture
def operator(manager, plugin):
    return dashboard.wsgi(manager, authorize=lambda environ: True)


def breaker(manager, name="auth"):
    return manager.explain(name).breaker


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_has_relative_links_under_any_prefix(page):
    for prefix in ("", "/ops/plugins", "/ops/plug ins"):
        answer = ask(page, "/", prefix=prefix)
        assert answer.status == 200
        assert set(re.findall(r'(?:src|href)="([^"#]+)"', answer.text)) == {
            "static/icon.svg",
            "static/app.css",
            "static/app.js",
            "state",
        }


@pytest.mark.parametrize(
    ("prefix", "location"),
    [("/ops/plugins", "./plugins/"), ("//evil.example.com", "./evil.example.com/"), ("/a b", "./a%20b/"), ("", "/")],
)
def test_a_path_without_trailing_slash_redirects_to_the_page_of_the_same_host(page, prefix, location):
    answer = ask(page, "", prefix=prefix)
    assert (answer.status, answer.headers["location"]) == (308, location)


def test_security_headers_forbid_foreign_code_inline_code_and_frames(page):
    for path in ("/", "/state", "/config", "/static/app.js", "/nothing"):
        headers = ask(page, path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"


def test_assets_have_no_foreign_urls_and_write_no_markup():
    for asset in ASSETS.iterdir():
        text = asset.read_text()
        assert set(re.findall(r"\b(?:https?:)?//[\w.-]+\.\w+[\w./-]*", text)) <= {"http://www.w3.org/2000/svg"}, (
            asset.name
        )
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text), asset.name
        assert not re.search(r"<script(?! type=\"module\" src=)|<style|\sstyle=|\son\w+=", text.partition("//")[0]), (
            asset.name
        )


def test_each_asset_is_served_with_an_etag(page):
    for asset in ASSETS.iterdir():
        answer = ask(page, f"/static/{asset.name}")
        assert answer.text == asset.read_text()
        assert ask(page, f"/static/{asset.name}", HTTP_IF_NONE_MATCH=answer.headers["etag"]).status == 304


@pytest.mark.parametrize(
    "path", ["/static/", "/static/../__init__.py", "/static/%2e%2e/_app.py", "/nothing", "/state/"]
)
def test_other_paths_are_not_found(page, path):
    assert ask(page, path).status == 404


@pytest.mark.parametrize(("path", "method"), [("/", "POST"), ("/state", "DELETE"), ("/actions/reset", "GET")])
def test_other_methods_are_rejected(page, path, method):
    answer = ask(page, path, method)
    assert answer.status == 405
    assert method not in answer.headers["allow"]


def test_head_has_no_body(page):
    for path in ("/", "/state", "/static/app.css", "/nothing"):
        assert ask(page, path, "HEAD").text == ""


def test_the_title_is_escaped(manager):
    page = dashboard.wsgi(manager, title="<script>alert(1)</script>")
    assert "<script>alert" not in ask(page).text


# --- viewers ----------------------------------------------------------------------------------------------------


def test_a_viewer_without_permission_gets_no_data(manager, plugin):
    page = dashboard.wsgi(manager, may_view=lambda environ: environ.get("REMOTE_USER") == "ada")
    for path in ("/", "/state", "/config", "/static/app.js", ""):
        answer = ask(page, path)
        assert answer.status == 403
        assert "auth" not in answer.text
    assert ask(page, "/state", REMOTE_USER="ada").status == 200


def test_a_permission_check_that_raises_denies_access(manager, plugin, caplog):
    page = dashboard.wsgi(manager, may_view=lambda environ: environ["no such key"])
    assert ask(page).status == 403
    assert "no such key" in caplog.text


def test_requests_for_other_hosts_are_rejected(manager):
    page = dashboard.wsgi(manager, hosts={"localhost", "[::1]"})
    for host in ("localhost", "localhost:8765", "LOCALHOST:1", "[::1]:8765"):
        assert ask(page, HTTP_HOST=host).status == 200
    for host in ("rebound.example.com", "localhost.example.com:80", "", "[::2]:8765"):
        assert ask(page, HTTP_HOST=host).status == 403


# --- data ------------------------------------------------------------------------------------------------------------


def test_the_first_request_waits_for_the_first_snapshot(page):
    message = ask(page, "/state").json
    assert [each["name"] for each in message["plugins"]] == ["auth"]


def test_a_snapshot_is_sent_once(page, manager):
    page.board.sample()
    tag = ask(page, "/state").headers["etag"]
    same = ask(page, "/state", HTTP_IF_NONE_MATCH=page.board.snapshot.tag)
    assert (same.status, same.text) == (304, "")
    manager.register(FakePlugin("idle"))
    page.board.sample()
    answer = ask(page, "/state", HTTP_IF_NONE_MATCH=tag)
    assert [each["name"] for each in answer.json["plugins"]] == ["auth", "idle"]
    assert answer.headers["etag"] != tag


def test_the_configuration_hides_secrets(page, manager):
    manager.load_from_config(
        {
            "plugins": [
                {
                    "name": "billing",
                    "transport": "https",
                    "endpoint": "https://billing.example.com/?key=pass-one",
                    "auth": {"method": "bearer", "token": "pass-two"},
                }
            ]
        }
    )
    for answer in (ask(page, "/config"), ask(page, "/config?plugin=billing"), ask(page, "/state")):
        assert "billing.example.com" in answer.text
        assert "pass-" not in answer.text
    assert ask(page, "/config").json["plugins"][1]["auth"]["token"] == "***"
    assert ask(page, "/config?plugin=missing").status == 404


def test_functions_in_the_configuration_are_shown_as_a_placeholder(page, manager):
    from goplugins import FallbackConfig

    manager.register(FakePlugin("other"), PluginConfig(fallback=FallbackConfig(function=lambda request, error: 1)))
    assert ask(page, "/config?plugin=other").json["fallback"]["function"] == "<function>"


# --- operators -----------------------------------------------------------------------------------------------------


def test_without_authorize_the_page_has_no_token_and_actions_are_rejected(page, manager):
    answer = ask(page)
    assert 'name="token" content=""' in answer.text
    assert "set-cookie" not in answer.headers
    assert press(page, "disable", {"plugin": "auth"}, HTTP_ORIGIN=ORIGIN).status == 403
    assert breaker(manager) is CircuitBreakerState.CLOSED


def test_an_operator_disables_and_enables(operator, manager):
    keys = signed_in(operator)
    assert press(operator, "disable", {"plugin": "auth"}, **keys).status == 200
    assert shown(operator, "auth")["breaker"]["state"] == "forced open"
    assert shown(operator, "auth")["word"] == "disabled"
    assert press(operator, "enable", {"plugin": "auth"}, **keys).json == {"message": "auth takes calls"}
    assert breaker(manager) is CircuitBreakerState.CLOSED
    manager.execute("auth", "hello")


def test_an_operator_resets_a_breaker(operator, manager, plugin):
    plugin.fail()
    call(manager, times=60)
    assert breaker(manager) is CircuitBreakerState.OPEN
    plugin.recover()
    assert press(operator, "reset", {"plugin": "auth"}, **signed_in(operator)).status == 200
    manager.execute("auth", "hello")


def test_an_action_is_logged_with_the_operator(operator, caplog):
    press(operator, "disable", {"plugin": "auth"}, REMOTE_USER="ada", REMOTE_ADDR="10.0.0.7", **signed_in(operator))
    assert "ada at 10.0.0.7: auth takes no calls until it is enabled" in caplog.text
    forced = [each for each in caplog.records if getattr(each, "audit", "") == "breaker_forced"]
    assert [(each.plugin, each.actor) for each in forced] == [("auth", "ada at 10.0.0.7")]


def forged(keys, **changes):
    return {name: value for name, value in {**keys, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"HTTP_ORIGIN": None},
        {"HTTP_ORIGIN": "https://evil.example.com"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_ORIGIN": "http://ops.example.com.evil.example.com"},
        {"HTTP_ORIGIN": None, "HTTP_HOST": ""},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_SEC_FETCH_SITE": "none"},
        {"HTTP_X_GOPLUGINS_TOKEN": None},
        {"HTTP_X_GOPLUGINS_TOKEN": ""},
        {"HTTP_X_GOPLUGINS_TOKEN": "A" * 43},
        {"HTTP_X_GOPLUGINS_TOKEN": "\u00ff" * 43},
        {"HTTP_COOKIE": None},
        {"HTTP_COOKIE": "goplugins_dashboard="},
        {"HTTP_COOKIE": "goplugins_dashboard=short", "HTTP_X_GOPLUGINS_TOKEN": "short"},
        {"HTTP_COOKIE": "broken=\x01;;=", "HTTP_X_GOPLUGINS_TOKEN": ""},
    ],
)
def test_a_request_of_another_site_is_rejected(operator, manager, changes):
    answer = press(operator, "disable", {"plugin": "auth"}, **forged(signed_in(operator), **changes))
    assert answer.status == 403
    assert breaker(manager) is CircuitBreakerState.CLOSED


def test_behind_a_proxy_that_changes_the_host_sec_fetch_site_is_checked(operator, manager):
    keys = signed_in(operator) | {"HTTP_HOST": "127.0.0.1:8000", "HTTP_SEC_FETCH_SITE": "same-origin"}
    assert press(operator, "disable", {"plugin": "auth"}, **keys).status == 200


def test_an_unauthorized_request_changes_nothing(manager, plugin):
    app = dashboard.wsgi(manager, authorize=lambda environ: environ.get("REMOTE_USER") == "ada")
    keys = signed_in(app, REMOTE_USER="ada")
    assert press(app, "disable", {"plugin": "auth"}, REMOTE_USER="eve", **keys).status == 403
    assert 'name="token" content=""' in ask(app, REMOTE_USER="eve", HTTP_COOKIE=keys["HTTP_COOKIE"]).text
    assert breaker(manager) is CircuitBreakerState.CLOSED


def test_dashboards_in_one_browser_share_the_token(operator, manager):
    keys = signed_in(operator)
    again = ask(operator, HTTP_COOKIE=keys["HTTP_COOKIE"])
    assert "set-cookie" not in again.headers
    assert keys["HTTP_X_GOPLUGINS_TOKEN"] in again.text


def test_the_cookie_is_limited_to_the_path_of_the_page(operator):
    cookie = ask(operator, prefix="/ops/plugins", **{"wsgi.url_scheme": "https"}).headers["set-cookie"]
    assert re.search(r"; Path=/ops/plugins/; HttpOnly; SameSite=Strict; Secure$", cookie)


@pytest.mark.parametrize(
    ("action", "order", "environ", "status"),
    [
        ("reset", {"plugin": "missing"}, {}, 404),
        ("explode", {"plugin": "auth"}, {}, 404),
        ("reset", {}, {}, 400),
        ("reset", {"plugin": 5}, {}, 400),
        ("reset", ["auth"], {}, 400),
        ("reset", b"{", {}, 400),
        ("reset", b"[" * 4000, {}, 400),
        ("reset", b"\xff", {}, 400),
        ("drain", {"plugin": "auth", "member": "auth"}, {}, 404),
        ("drain", {"plugin": "auth"}, {}, 400),
        ("disable", {"plugin": "auth", "drain_timeout": -1}, {}, 400),
        ("disable", {"plugin": "auth", "drain_timeout": 301}, {}, 400),
        ("disable", {"plugin": "auth", "drain_timeout": "5"}, {}, 400),
        ("disable", {"plugin": "auth", "drain_timeout": True}, {}, 400),
        ("disable", b'{"plugin": "auth", "drain_timeout": NaN}', {}, 400),
        ("drain", {"plugin": "auth", "member": "auth", "drain_timeout": 1}, {}, 404),
        ("reset", {"plugin": "auth", "drain_timeout": 1}, {}, 400),
        ("reset", {"plugin": "auth"}, {"CONTENT_TYPE": "text/plain"}, 415),
        ("reset", {"plugin": "auth"}, {"CONTENT_LENGTH": ""}, 413),
        ("reset", {"plugin": "auth"}, {"CONTENT_LENGTH": "5000"}, 413),
        ("reset", {"plugin": "a" * 5000}, {}, 413),
    ],
)
def test_invalid_actions_are_rejected_with_a_reason(operator, action, order, environ, status):
    answer = press(operator, action, order, **signed_in(operator), **environ)
    assert answer.status == status
    assert answer.json["error"]


def test_an_action_says_whether_calls_are_in_flight_if_it_is_asked(operator, manager):
    keys = signed_in(operator)
    assert press(operator, "disable", {"plugin": "auth"}, **keys).json == {
        "message": "auth takes no calls until it is enabled"
    }
    assert press(operator, "disable", {"plugin": "auth", "drain_timeout": 0.5}, **keys).json == {
        "message": "auth takes no calls until it is enabled; no call is in flight",
        "drained": True,
    }


def test_limits_are_shown(page, manager):
    limit = RateLimitConfig(enabled=True, requests_per_second=5, burst_size=10)
    manager.register(FakePlugin("limited"), PluginConfig(rate_limit=limit))
    call(manager, "limited", 4)
    limiter = shown(page, "limited")["limiter"]
    assert (limiter["burst"], limiter["rate"]) == (10, 5)
    assert 6 <= limiter["tokens"] < 7
