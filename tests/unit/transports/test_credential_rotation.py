"""Credentials are removed from the texts of errors, in whatever form a service echoes them."""

from __future__ import annotations

import html
import json
import re
from urllib.parse import quote, quote_plus

import pytest

from goplugins import ExecutionContext
from goplugins.config import AuthConfig
from goplugins.errors import PluginError
from goplugins.json_text import shown_key
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.runtime.text import CUT, cut, from_outside
from goplugins.transports.credential_rotation import PluginCredentials, scrub, secrets_of
from tests.timing import time_limit

FORMS = {
    "as it is": str,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded, lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    "percent-encoded, slashes kept": quote,
    "form": quote_plus,
    "HTML": html.escape,
    "HTML, quotes kept": lambda text: html.escape(text, quote=False),
    "HTML as Go writes it": lambda text: html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    "JSON": lambda text: json.dumps(text)[1:-1],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "cookie", "X-Auth-Token", "Proxy-Authorization"])
@pytest.mark.parametrize("own", [True, False], ids=["of the call", "configured"])
def test_a_credential_is_removed_in_each_form_in_which_it_is_echoed(own, name, form):
    secret = "pä\"ss/w&rd<=+x'y z"
    credentials = PluginCredentials(None, SYSTEM_CLOCK, "p")
    if not own:
        credentials.protect(AuthConfig(), {name: secret})
    echoed = FORMS[form](secret)
    error = PluginError(f"bad header {echoed}!", details={"metadata": {"got": [f"x {echoed}"]}})
    credentials.scrub_error(error, {name: secret} if own else {})
    assert str(error) == "[PLUGIN_1200] bad header ***!"
    assert error.details == {"metadata": {"got": ["x ***"]}}


CUTS = {
    "a text from outside": from_outside,
    "bytes from outside": lambda text, limit: from_outside(text.encode(), limit),
    "quoted": lambda text, limit: f"the id {cut(text, limit)!r}, expected 'r'",
    "followed by a remark": lambda text, limit: f"{cut(text, limit)}; there may be further faults",
    "a key": lambda text, limit: f"the key {shown_key('x' * (40 - limit) + text)!r} occurs more than once",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", CUTS)
@pytest.mark.parametrize("own", [True, False], ids=["of the call", "configured"])
def test_a_credential_that_is_cut_in_two_is_removed(own, way, form):
    secret = "Q/W&ERTZ+UIOP<QW"
    credentials = PluginCredentials(None, SYSTEM_CLOCK, "p")
    if not own:
        credentials.protect(AuthConfig(), {"Authorization": f"Bearer {secret}"})
    echoed = FORMS[form](secret)
    shown = 3 if way == "a key" else 0  # characters before the dots that are no proof
    for limit in range(3, 40):
        error = PluginError(CUTS[way](f"xx{echoed} xxxxx", limit), details={"text": CUTS[way](f"xx{echoed}", limit)})
        credentials.scrub_error(error, {"Authorization": f"Bearer {secret}"} if own else {})
        for text in (error.message, error.details["text"]):
            assert len(re.findall("[A-Z]", text)) <= shown, (limit, text)


def test_dots_in_the_text_of_others_are_no_proof_of_a_cut():
    assert scrub("please wait... or etc…", secrets_of({"Authorization": "Bearer tok-456"})) == "please wait... or etc…"


def test_many_marks_take_no_time():
    texts = ("x..." * 4000, "x..." * 1_000_000, f"x{CUT}" * 8000)
    for stopwatch in time_limit(1.0):
        with stopwatch:
            for text in texts:
                assert scrub(text, secrets_of({"Authorization": "Bearer xyz-456"})) is not None


def test_headers_that_are_no_credentials_stay_in_texts():
    credentials = PluginCredentials(None, SYSTEM_CLOCK, "p")
    error = PluginError("tenant blue-team unknown, key 1234-5678")
    credentials.scrub_error(error, {"X-Tenant": "blue-team", "Idempotency-Key": "1234-5678"})
    assert error.message == "tenant blue-team unknown, key 1234-5678"


def test_a_context_shows_the_names_of_its_headers_only():
    shown = repr(ExecutionContext(headers={"Authorization": "Bearer tok-456", "X-Tenant": "blue"}))
    assert "'Authorization': '***'" in shown
    assert "tok-456" not in shown
