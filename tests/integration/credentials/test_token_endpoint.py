"""How the token endpoint is reached: TLS, proxies, sessions, interrupts; and what a pickle of its client holds."""

from __future__ import annotations

import pickle
import signal
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import trustme

from goplugins import Manager
from goplugins.config import AuthConfig, PluginConfig
from goplugins.errors import CertificateError
from goplugins.runtime.call import Call
from goplugins.runtime.deadline import Deadline
from goplugins.transports.http import HTTPPlugin
from goplugins.transports.json_codec import codec_for
from goplugins.transports.tls import client_context, token_endpoint_context
from tests.integration.credentials.conftest import SECRET, TokenServer
from tests.servers import RawServer, http_reply, ok


@pytest.fixture
def authority(tmp_path):
    found = trustme.CA()
    found.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return found


@pytest.fixture
def secure(authority):
    """A token endpoint over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    found = TokenServer()
    found.server.close()
    found.server = RawServer(found.handle, tls=context)
    yield found
    found.server.close()


def test_a_token_endpoint_over_tls_is_verified(secure, tokens, manage, tmp_path):
    tokens.issued = secure.issued
    url = f"https://127.0.0.1:{secure.server.port}/token"
    with pytest.raises(CertificateError, match=rf"no token from {url}: the token endpoint's certificate was rejected"):
        manage(tokens.auth(token_url=url)).execute("p", None)
    auth = tokens.auth(token_url=url, ca_file=str(tmp_path / "ca.pem"))
    assert manage(auth).execute("p", None) == "ok"
    assert len(secure.asked) == 1


def test_the_authority_of_the_plugin_is_trusted_beside_those_of_the_machine(authority, tmp_path):
    auth = AuthConfig(ca_file=str(tmp_path / "ca.pem"))
    machine = client_context(AuthConfig()).cert_store_stats()["x509"]
    both = token_endpoint_context(auth, trust_env=False).cert_store_stats()["x509"]
    assert both == machine + 1
    assert client_context(auth).cert_store_stats()["x509"] == 1


def test_a_changed_authority_is_used_for_tokens_too(secure, tokens, tmp_path):
    (tmp_path / "ca.pem").rename(tmp_path / "right.pem")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tokens.issued = secure.issued
    url = f"https://127.0.0.1:{secure.server.port}/token"
    auth = AuthConfig(**tokens.auth(token_url=url, ca_file=str(tmp_path / "ca.pem")))
    plugin = HTTPPlugin(PluginConfig(name="p", transport="http", endpoint=tokens.server.url, auth=auth))
    with pytest.raises(CertificateError):
        plugin.execute(None)
    (tmp_path / "right.pem").replace(tmp_path / "ca.pem")
    end = time.monotonic() + 10
    while not secure.asked and time.monotonic() < end:
        plugin.renew_credentials()
        time.sleep(0.05)
        try:
            assert plugin.execute(None) == "ok"
        except CertificateError:
            continue
    assert len(secure.asked) == 1
    plugin.close()


def test_tokens_are_requested_through_the_plugin_s_proxy(tokens, manage, engine):
    def forward(peer):
        while (request := peer.read_request()) is not None:
            if request.path == "http://login.invalid/token":
                peer.send(http_reply({"access_token": "t", "token_type": "Bearer", "expires_in": 60}))
            else:
                peer.send(ok(request, [request.path, request.headers["authorization"]]))

    with RawServer(forward) as proxy:
        options = {"engine": engine, "proxy": f"http://user:pw@127.0.0.1:{proxy.port}"}
        auth = tokens.auth(token_url="http://login.invalid/token")
        manager = manage(auth, endpoint="http://plugin.invalid/a", options=options)
        assert manager.execute("p", None) == ["http://plugin.invalid/a", "Bearer t"]
        assert [request.headers["proxy-authorization"] for request in proxy.requests] == ["Basic dXNlcjpwdw=="] * 2


def test_a_session_sends_the_token(tokens):
    config = PluginConfig(name="p", transport="http", endpoint=tokens.server.url, auth=AuthConfig(**tokens.auth()))
    with requests.Session() as session:
        plugin = HTTPPlugin(config, session=session)
        for revoked in (None, "token-1"):
            tokens.revoked.add(revoked)
            made = Call(None, codec_for(), Deadline.after(5), "req-1")
            plugin.prepare(made)
            assert plugin.send(made) == "ok"
        plugin.close()
    assert len(tokens.asked) == 2


def test_an_interrupt_of_a_call_that_waits_ends_no_request(tokens, manage):
    class InterruptError(Exception):
        pass

    def interrupt(*_):
        raise InterruptError

    gate = threading.Event()
    tokens.reply = lambda peer, request: gate.wait(10) and tokens.token()
    manager = manage()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(manager.execute, "p", None, timeout=20)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(InterruptError):
                manager.execute("p", None, timeout=20)
            gate.set()
            assert other.result(10) == "ok"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert manager.execute("p", None) == "ok"
    assert len(tokens.asked) == 1


def test_hedged_calls_and_groups_share_the_token(tokens, manage):
    manager = manage(
        endpoint="",
        endpoints=[f"{tokens.server.url}/{number}" for number in range(3)],
        hedge={"enabled": True, "delay": 0.001},
    )
    assert {manager.execute("p", number, idempotent=True) for number in range(20)} == {"ok"}
    assert len(tokens.asked) == 1


def test_a_secret_is_in_no_pickle(tokens, tmp_path, monkeypatch):
    def config(**changed):
        plugin = {"name": "p", "transport": "http", "endpoint": tokens.server.url, "auth": tokens.auth(**changed)}
        return {"plugins": [plugin]}

    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("SHOP_SECRET", SECRET)
    with Manager() as manager:
        manager.load_from_config(config())
        with pytest.raises(TypeError, match=r"plugins\[0\]\.auth\.client_secret"):
            pickle.dumps(manager)
    for changed in (
        {"client_secret": "${SHOP_SECRET}"},
        {"client_secret": "", "client_secret_file": str(tmp_path / "secret")},
    ):
        with Manager() as manager:
            manager.load_from_config(config(**changed))
            assert manager.execute("p", None) == "ok"
            pickled = pickle.dumps(manager)
            assert b"4711" not in pickled
            assert b"token-" not in pickled
