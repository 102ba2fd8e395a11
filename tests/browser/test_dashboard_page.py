"""The dashboard in a browser: live updates, mouse, keyboard, small windows, accessibility, attacks."""

from __future__ import annotations

import json
import threading
import time
from urllib.parse import urlsplit

import pytest

from goplugins import (
    CircuitBreakerConfig,
    CircuitBreakerState,
    HealthCheckConfig,
    LoadBalancer,
    Manager,
    OperationConfig,
    PluginConfig,
    PluginStatus,
    RateLimitConfig,
    RetryConfig,
    serve,
)
from goplugins.contrib import dashboard
from goplugins.contrib.dashboard._server import PageServer
from tests.unit.contrib.dashboards import FakePlugin, call

ATTACK = "<script>window.hit=1</script><img/src=x/onerror=window.hit=1>"
LONG = "a-plugin-with-a-long-name-that-has-no-space-where-a-line-can-break-" * 2

FRAIL = {
    "retry": {"max_retries": 0},
    "circuit_breaker": {"failure_threshold": 3, "min_request_threshold": 1},
    "health_check": {"interval": "500ms"},
}
ONCE = PluginConfig(
    retry=RetryConfig(max_retries=0),
    circuit_breaker=CircuitBreakerConfig(failure_threshold=3, min_request_threshold=1),
    health_check=HealthCheckConfig(enabled=False),
)

# Contrast of each visible text with its background: the lowest ratio by kind of element.
CONTRASTS = """
const parse = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const behind = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const found = {};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const node = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !node.checkVisibility()) continue;
  if (node.closest('.visually-hidden, .label, dialog')) continue;
  const style = getComputedStyle(node);
  const [one, two] = [light(parse(node.namespaceURI.endsWith('svg') ? style.fill : style.color)), light(behind(node))];
  const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  const kind = node.tagName + '.' + node.getAttribute('class') + ' ' + texts.currentNode.data.trim().slice(0, 20);
  found[kind] = Math.min(found[kind] ?? 99, ratio);
}
return found;
"""


@pytest.fixture
def manager():
    with Manager() as manager:
        yield manager


@pytest.fixture
def all_states(manager):
    """Plugins in each state, a group, long names, a rate limit, an open breaker."""
    working, failing, dead, odd = FakePlugin("working"), FakePlugin("failing"), FakePlugin("dead"), FakePlugin(LONG)
    limit = RateLimitConfig(enabled=True, requests_per_second=0.1, burst_size=50)
    operations = {f"get_item_{LONG}"[:120]: OperationConfig(path="/items/{id}"), "save": OperationConfig()}
    notes = {"runbook": "https://wiki.example.com/" + LONG}
    manager.register(working, PluginConfig(rate_limit=limit, annotations=notes, operations=operations))
    for plugin in (failing, dead, odd):
        manager.register(plugin, ONCE)
    members = [FakePlugin(f"member-{number}.{'search' * 12}.example.com:8443") for number in range(3)]
    group = LoadBalancer("search", members=members)
    manager.register(group)
    group.disable_plugin(members[2].name)
    for operation in operations:
        manager.execute("working", "", operation=operation)
    failing.status = PluginStatus.DEGRADED
    for plugin in (dead, odd):
        plugin.fail(f"no route to {LONG * 3}")
        plugin.status = PluginStatus.OFFLINE  # a check that succeeds would end the breaker's open time
    for name in ("working", "failing", "dead", LONG, "search"):
        call(manager, name, 6)
    manager.health()
    return manager


# --- live ------------------------------------------------------------------------------------------------------------


def test_a_stopped_plugin_is_shown_as_down_within_two_seconds(browser, show, manager):
    @serve.plugin(name="billing")
    def billing(request: str) -> str:
        return request

    server = serve.start(billing)
    manager.load_from_config({"plugins": [{"name": "billing", "transport": "http", "endpoint": server.url, **FRAIL}]})
    done = threading.Event()

    def traffic():
        while not done.wait(0.05):
            call(manager, "billing")

    caller = threading.Thread(target=traffic, daemon=True)
    caller.start()
    try:
        browser.open(show(dashboard.wsgi(manager)))
        browser.wait(f"return {browser.row('billing')}.dataset.severity === 'healthy'")
        browser.wait("return document.querySelector('#feed').dataset.state === 'live'")
        browser.run("window.same = true")
        server.stop(0)
        died = time.monotonic()
        browser.wait(f"return {browser.row('billing')}.dataset.severity === 'down'")
        took = time.monotonic() - died
        assert browser.run("return window.same && document.title") == "1 down · goplugins"
        assert browser.run("return document.querySelector('.tile.is-down dd').textContent") == "1"
        assert took < 2.0
        # Whether the breaker or a health check noticed first, it is announced once.
        browser.wait(
            "return /billing: (circuit open|offline)/.test(document.querySelector('#announcement').textContent)"
        )
    finally:
        done.set()
        caller.join()


def test_old_figures_are_marked_while_the_server_is_down(browser, manager):
    manager.register(FakePlugin())
    app = dashboard.wsgi(manager)

    def served(port):
        server = PageServer(app, "127.0.0.1", port)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    server = served(0)
    browser.open(server.url)
    server.shutdown()
    server.server_close()
    browser.wait("return document.body.classList.contains('stale')", timeout=12)
    assert "no data for" in browser.run("return document.querySelector('#feed').textContent")
    again = served(server.server_port)
    browser.wait("return !document.body.classList.contains('stale')", timeout=12)
    again.shutdown()
    again.server_close()


def test_pause_stops_updates_and_resume_restarts_them(browser, show, manager):
    manager.register(FakePlugin())
    browser.open(show(dashboard.wsgi(manager)))
    browser.run("document.querySelector('#pause').click()")
    manager.register(FakePlugin("late"))
    time.sleep(2.5)
    assert not browser.run(f"return {browser.row('late')}")
    browser.run("document.querySelector('#pause').click()")
    browser.wait(f"return {browser.row('late')}")


def test_failing_plugins_are_first_and_the_filter_matches_names_states_and_annotations(browser, show, all_states):
    browser.open(show(dashboard.wsgi(all_states)))
    severities = browser.run("return [...document.querySelectorAll('.plugin')].map(e => e.dataset.severity)")
    assert severities == ["down", "down", "degraded", "healthy", "healthy"]

    def names(text):
        browser.run(
            "const field = document.querySelector('#filter'); field.value = arguments[0];"
            "field.dispatchEvent(new Event('input'))",
            text,
        )
        return browser.run(
            "return [...document.querySelectorAll('#plugins > li:not([hidden]) .name')].map(e => e.textContent)"
        )

    assert names("DEAD") == ["dead"]
    assert names("runbook") == ["working"]
    assert names("down no-such") == []
    assert browser.run("return document.querySelector('#empty').textContent") == "No plugin matches the filter."


# --- attacks ---------------------------------------------------------------------------------------------------------


def test_markup_in_names_errors_annotations_and_configuration_is_shown_as_text(browser, show, manager):
    plugin = FakePlugin(ATTACK)
    noted = {"labels": {"team": ATTACK}, "annotations": {ATTACK: ATTACK}}
    manager.register(plugin, PluginConfig(retry=RetryConfig(max_retries=0), options={"note": ATTACK}, **noted))
    member = FakePlugin(f"member {ATTACK}")
    manager.register(LoadBalancer("group", members=[member]))
    plugin.fail(ATTACK)
    member.fail(ATTACK)
    call(manager, ATTACK, 3)
    call(manager, "group", 3)
    browser.open(show(dashboard.wsgi(manager, title=ATTACK, authorize=lambda environ: True)))
    browser.open_all()
    browser.wait("return document.querySelectorAll('.more .failures .text, .more table').length >= 2")
    for button in range(browser.run("return document.querySelectorAll('.more button').length")):
        browser.run("document.querySelectorAll('.more button')[arguments[0]]?.click()", button)
    browser.wait("return document.querySelector('#notice').textContent || document.querySelector('#confirm').open")
    time.sleep(1.5)
    assert browser.run("return document.body.textContent.split(arguments[0]).length", ATTACK) > 8
    assert browser.run("return window.hit") is None
    assert browser.run("return [document.scripts.length, document.images.length]") == [1, 0]
    assert browser.logged() == []


def test_operations_are_listed_with_their_figures(browser, show, manager):
    operations = {"get_item": OperationConfig(path="/items/{id}"), "save": OperationConfig()}
    manager.register(FakePlugin("shop"), PluginConfig(name="shop", operations=operations))
    manager.register(FakePlugin("plain"))
    for operation in ("get_item", "get_item", "save"):
        manager.execute("shop", "", operation=operation)
    browser.open(show(dashboard.wsgi(manager)))
    browser.open_all()
    panel = f"[...{browser.row('shop')}.querySelectorAll('.panel')].find(e => e.textContent.startsWith('Operations'))"
    rows = f"[...{panel}.querySelectorAll('tbody tr')].map(e => e.innerText.split(/\\s+/))"
    found = browser.wait(f"const rows = {rows}; return rows.length === 2 && rows")
    assert [(row[0], row[-2:]) for row in found] == [("get_item", ["2", "0"]), ("save", ["1", "0"])]
    hidden = f"[...{browser.row('plain')}.querySelectorAll('.panel')].find(e => e.textContent.startsWith('Operations'))"
    assert browser.run(f"return {hidden}.hidden")


def test_the_content_security_policy_blocks_injected_markup(browser, show, manager):
    manager.register(FakePlugin())
    browser.open(show(dashboard.wsgi(manager)))
    with pytest.raises(Exception, match="TrustedHTML"):
        browser.run("document.body.innerHTML = arguments[0]", ATTACK)
    with pytest.raises(Exception, match="TrustedScript"):
        browser.run("document.createElement('img').setAttribute('onerror', 'window.hit=1')")
    browser.run(
        "const made = document.createElement('img'); made.src = 'https://evil.example.com/'; document.body.append(made)"
    )
    browser.wait_logged("violates", "img-src")


def test_the_page_sends_requests_to_its_own_server_only(browser, show, all_states):
    url = show(dashboard.wsgi(all_states))
    browser.open(url)
    browser.open_all()
    requested = browser.run("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert len(requested) >= 8
    assert {urlsplit(each).netloc for each in requested} == {urlsplit(url).netloc}


# --- buttons ---------------------------------------------------------------------------------------------------------


def press(browser, name, label):
    browser.open_row(name)
    browser.wait(
        f"const found = [...{browser.row(name)}.querySelectorAll('button')].find((each) =>"
        " each.firstChild.textContent === arguments[0]); found?.click(); return found",
        label,
    )


def test_a_viewer_sees_no_buttons(browser, show, manager):
    manager.register(FakePlugin())
    manager.register(LoadBalancer("group", members=[FakePlugin("one")]))
    url = show(dashboard.wsgi(manager, authorize=lambda environ: False))
    browser.open(url)
    for name in ("auth", "group"):
        browser.open_row(name)
    assert (
        browser.run(
            "return [...document.querySelectorAll('.more button')].filter((each) => each.checkVisibility()).length"
        )
        == 0
    )
    status = browser.driver.execute_async_script(
        "const done = arguments[0]; fetch('actions/disable', {method: 'POST', body: '{\"plugin\":\"auth\"}',"
        " headers: {'Content-Type': 'application/json'}}).then((reply) => done(reply.status))"
    )
    assert status == 403


def test_an_operator_disables_after_confirmation_and_enables(browser, show, manager):
    manager.register(FakePlugin())
    browser.open(show(dashboard.wsgi(manager, authorize=lambda environ: True)))
    press(browser, "auth", "Disable…")
    browser.run("document.querySelector('#confirm button').click()")  # the first button is Cancel
    assert manager.explain("auth").breaker is CircuitBreakerState.CLOSED
    press(browser, "auth", "Disable…")
    browser.run("document.querySelector('#confirm-yes').click()")
    browser.wait("return document.querySelector('#notice').textContent === 'auth takes no calls until it is enabled'")
    browser.wait(f"return {browser.row('auth')}.querySelector('.word').textContent === 'disabled'")
    assert manager.explain("auth").breaker is CircuitBreakerState.OPEN
    press(browser, "auth", "Enable")
    browser.wait(f"return {browser.row('auth')}.dataset.severity === 'healthy'")


def test_an_operator_resets_a_breaker_and_drains_a_member(browser, show, manager):
    plugin = FakePlugin()
    manager.register(plugin, ONCE)
    manager.register(LoadBalancer("group", members=[FakePlugin("one"), FakePlugin("two")]))
    plugin.fail()
    call(manager, times=5)
    plugin.recover()
    browser.open(show(dashboard.wsgi(manager, authorize=lambda environ: True)))
    press(browser, "auth", "Reset breaker")
    browser.wait(f"return {browser.row('auth')}.dataset.severity !== 'down'")
    call(manager)
    assert manager.metrics().plugins["auth"].requests_success == 1
    press(browser, "group", "Drain")
    browser.wait(f"return {browser.row('group')}.querySelector('.word').textContent === '1 of 2 members'")
    press(browser, "group", "Restore")
    browser.wait(f"return {browser.row('group')}.querySelector('.word').textContent !== '1 of 2 members'")


def test_a_page_of_another_site_can_send_no_action(browser, show, manager):
    manager.register(FakePlugin())
    target = show(dashboard.wsgi(manager, authorize=lambda environ: True))
    browser.open(target)  # sets the cookie of the operator

    def evil(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<p>win a prize</p>"]

    browser.open(show(evil).replace("127.0.0.1", "localhost"), live=False)
    body = json.dumps({"plugin": "auth"})
    script = """
    const [url, body, done] = arguments;
    const ways = [
      {mode: 'no-cors', headers: {'Content-Type': 'text/plain'}},
      {mode: 'cors', headers: {'Content-Type': 'application/json'}},
      {mode: 'cors', headers: {'Content-Type': 'application/json', 'X-Goplugins-Token': 'A'.repeat(43)}},
    ];
    Promise.allSettled(ways.map((way) => fetch(url, {method: 'POST', credentials: 'include', body, ...way})))
      .then((all) => done(all.map((each) => each.status === 'fulfilled' ? each.value.type : 'refused')));
    """
    answers = browser.driver.execute_async_script(script, target + "actions/disable", body)
    assert answers == ["refused"] * 3
    browser.run(
        "const form = document.createElement('form'); form.method = 'post'; form.enctype = 'text/plain';"
        "form.action = arguments[0]; document.body.append(form); form.submit()",
        target + "actions/disable",
    )
    browser.wait(
        "return location.href === arguments[0] && document.readyState === 'complete'", target + "actions/disable"
    )
    assert manager.explain("auth").breaker is CircuitBreakerState.CLOSED


def test_the_page_cannot_be_framed(browser, show, manager):
    manager.register(FakePlugin())
    target = show(dashboard.wsgi(manager))

    def framing(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        return [f"<iframe src='{target}'></iframe>".encode()]

    browser.open(show(framing), live=False)
    browser.wait_logged("frame-ancestors")


# --- accessibility ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [320, 390, 700, 1000, 1280, 1920])
def test_no_element_is_wider_than_the_window(browser, show, all_states, width):
    browser.size(width)
    browser.open(show(dashboard.wsgi(all_states, authorize=lambda environ: True)))
    assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.open_all()
    time.sleep(1.2)
    wide = browser.run(
        "return [...document.querySelectorAll('body *')].filter((each) => each.checkVisibility() &&"
        " each.getBoundingClientRect().right > arguments[0] + 1 &&"
        " !each.closest('.scroll, .visually-hidden, .label, .skip'))"
        ".map((each) => each.outerHTML.slice(0, 120))",
        width,
    )
    assert wide == []
    assert browser.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_text_has_sufficient_contrast(browser, show, all_states, scheme):
    browser.prefer(color_scheme=scheme)
    browser.open(show(dashboard.wsgi(all_states, authorize=lambda environ: True)))
    browser.open_all()
    time.sleep(0.3)
    found = browser.run(CONTRASTS)
    assert len(found) > 60
    assert {kind: ratio for kind, ratio in found.items() if ratio < 4.5} == {}


def test_keyboard_reaches_all_controls_and_the_focus_is_visible(browser, show, all_states):
    from selenium.webdriver import ActionChains, Keys

    browser.open(show(dashboard.wsgi(all_states, authorize=lambda environ: True)))
    browser.run("document.querySelector('#pause').click(); document.activeElement.blur()")  # rows keep their order

    def key(*keys):
        ActionChains(browser.driver).send_keys(*keys).perform()

    def focused():
        return browser.run(
            "const at = document.activeElement; const style = getComputedStyle(at);"
            "const name = at.closest('.plugin')?.querySelector('.name').textContent ?? '';"
            "const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;"
            "return [name, at.tagName, at.textContent.slice(0, 12), outlined, at.getBoundingClientRect().top >= 0]"
        )

    def walk(count):
        seen = []
        for _ in range(count):
            key(Keys.TAB)
            seen.append(focused())
            if seen[-1][1] == "BODY":
                break
        return seen

    seen = walk(40)
    stops = [(name, tag) for name, tag, *_ in seen]
    assert [tag for _, tag in stops[:3]] == ["A", "BUTTON", "INPUT"]
    assert [name for name, tag in stops if tag == "SUMMARY" and name] == [LONG, "dead", "failing", "search", "working"]
    assert [each for each in seen if each[1] != "BODY" and not each[3]] == []
    assert [each for each in seen if each[1] != "BODY" and not each[4]] == []
    browser.run(f"{browser.row('search')}.querySelector('summary').focus()")
    key(Keys.ENTER)
    browser.wait_details("search")
    inside = [(tag, text) for name, tag, text, *_ in walk(10) if name == "search"]
    assert ("BUTTON", "Disable… of ") in inside
    assert sum(tag == "BUTTON" and text.startswith(("Drain", "Restore")) for tag, text in inside) == 3
    browser.run("[...document.querySelectorAll('.more button')][0].focus()")
    key(Keys.ENTER)
    browser.wait("return document.querySelector('#confirm').open")
    assert browser.run("return document.activeElement.textContent") == "Cancel"
    key(Keys.ESCAPE)
    browser.wait("return !document.querySelector('#confirm').open")


def test_a_focused_row_keeps_the_focus_when_the_order_changes(browser, show, manager):
    first, second = FakePlugin("first"), FakePlugin("second")
    for plugin in (first, second):
        manager.register(plugin, ONCE)
    call(manager, "first")
    call(manager, "second")
    browser.open(show(dashboard.wsgi(manager)))
    browser.run(f"{browser.row('second')}.querySelector('summary').focus()")
    second.fail()
    call(manager, "second", 5)
    browser.wait("return document.querySelector('.plugin .name').textContent === 'second'")
    assert browser.run("return document.activeElement.querySelector('.name')?.textContent") == "second"


def test_elements_have_roles_and_names_for_screen_readers(browser, show, all_states):
    browser.open(show(dashboard.wsgi(all_states, authorize=lambda environ: True)))
    browser.open_all()
    tree = browser.command("Accessibility.getFullAXTree")["nodes"]
    seen = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node.get("ignored") and "role" in node
    ]
    nameless = {"button", "textbox", "searchbox", "DisclosureTriangle", "region", "list", "table", "link", "heading"}
    assert [each for each in seen if each[0] in nameless - {"list"} and not each[1].strip()] == []
    roles = [role for role, _ in seen]
    for role, least in {
        "heading": 5,
        "main": 1,
        "banner": 1,
        "contentinfo": 1,
        "table": 1,
        "status": 2,
        "searchbox": 1,
    }.items():
        assert roles.count(role) >= least, role
    names = [name for role, name in seen if role == "DisclosureTriangle"]
    dead = next(name for name in names if name.startswith("dead"))
    for part in ("Circuit open", "circuit breaker open", "calls per second", "errors", "p95"):
        assert part.lower() in dead.lower()
    live = browser.run(
        "return [...document.querySelectorAll('[aria-live], [role=status], [role=alert]')].map((each) => each.id)"
    )
    assert sorted(live) == ["announcement", "notice"]  # figures that change each second are not announced


def test_reduced_motion_disables_transitions(browser, show, manager):
    manager.register(FakePlugin())
    url = show(dashboard.wsgi(manager))
    script = "return getComputedStyle(document.querySelector('.plugin > summary')).transitionDuration"
    browser.prefer(reduced_motion="no-preference")
    browser.open(url)
    assert browser.run(script) != "0s"
    browser.prefer(reduced_motion="reduce")
    assert browser.run(script) == "0s"
