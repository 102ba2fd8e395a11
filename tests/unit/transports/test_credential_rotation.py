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
from goplugins.runtime.clock import SYSTEM_CLOCK
from goplugins.transports.credential_rotation import PluginCredentials

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


def test_headers_that_are_no_credentials_stay_in_texts():
    credentials = PluginCredentials(None, SYSTEM_CLOCK, "p")
    error = PluginError("tenant blue-team unknown, key 1234-5678")
    credentials.scrub_error(error, {"X-Tenant": "blue-team", "Idempotency-Key": "1234-5678"})
    assert error.message == "tenant blue-team unknown, key 1234-5678"


def test_a_context_shows_the_names_of_its_headers_only():
    shown = repr(ExecutionContext(headers={"Authorization": "Bearer tok-456", "X-Tenant": "blue"}))
    assert "'Authorization': '***'" in shown
    assert "tok-456" not in shown
