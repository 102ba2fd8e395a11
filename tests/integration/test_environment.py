"""The environment counts only with ``options.trust_env``, and then alike on every engine and transport.

Each client is called with each variable, trusted or not; see docs/howto/security.md.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from goplugins import Manager, PluginError
from goplugins.config import PluginConfig
from goplugins.errors import CertificateError, InvalidCertificateError, InvalidConfigError, PluginConnectionError
from goplugins.transports.http import HTTPPlugin
from tests.integration.grpc.conftest import RawServer as GRPCServer, grpc
from tests.servers import Peer, RawServer, free_port, http_reply, ok, reply_ok

pytestmark = pytest.mark.matrix

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy")
CA_VARIABLES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in (*PROXY_VARIABLES, *CA_VARIABLES, "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


def call(transport: str, endpoint: str, engine: str, *, trust: bool, headers: Any = None, **sections: Any) -> Any:
    """One call by a plugin of its own."""
    options: dict[str, Any] = {"trust_env": trust}
    if engine == "requests":
        options["engine"] = "requests"
    plugin = {
        "name": "p",
        "transport": transport,
        "endpoint": endpoint,
        "options": options,
        "retry": {"max_retries": 0},
        "health_check": {"enabled": False},
        **sections,
    }
    with Manager() as manager:
        if engine == "session":
            config = PluginConfig.from_mapping(plugin)
            manager.register(HTTPPlugin(config, session=requests.Session()), config)
        else:
            manager.load_from_config({"plugins": [plugin]})
        return manager.execute("p", 1, timeout=10, headers=headers)


# --- certificate authorities -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory) -> dict[str, str]:
    """The authority as a file, and as a directory that OpenSSL can read."""
    folder = tmp_path_factory.mktemp("authorities")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    hashed = folder / "hashed"
    hashed.mkdir()
    name = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", folder / "ca.pem"], capture_output=True, text=True, check=True
    )
    authority.cert_pem.write_to_path(str(hashed / f"{name.stdout.strip()}.0"))
    return {"file": str(folder / "ca.pem"), "directory": str(hashed)}


@pytest.fixture(scope="module")
def https(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with RawServer(reply_ok, tls=context) as server:
        yield f"https://localhost:{server.port}/"


@pytest.fixture(scope="module")
def grpc_tls(authority):
    leaf = authority.issue_cert("localhost")
    pair = leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes()
    server = GRPCServer(answer, credentials=grpc.ssl_server_credentials([pair]))
    yield f"localhost:{server.port}"
    server.close()


def answer(request: bytes, context: Any) -> bytes:
    from tests.integration.grpc.conftest import reply

    return reply(request, payload=b'"ok"')


TLS_CLIENTS = [("https", "fast"), ("https", "requests"), ("https", "session"), ("grpc-tls", "grpc")]


@pytest.mark.parametrize(("transport", "engine"), TLS_CLIENTS)
@pytest.mark.parametrize(
    ("variable", "kind"),
    [
        ("SSL_CERT_FILE", "file"),
        ("SSL_CERT_DIR", "directory"),
        ("REQUESTS_CA_BUNDLE", "file"),
        ("REQUESTS_CA_BUNDLE", "directory"),
        ("CURL_CA_BUNDLE", "file"),
        ("CURL_CA_BUNDLE", "directory"),
        ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "file"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("trust", [False, True])
def test_authorities_of_the_environment(request, monkeypatch, files, transport, engine, variable, kind, trust):
    endpoint = request.getfixturevalue("https" if transport == "https" else "grpc_tls")
    if variable:
        monkeypatch.setenv(variable, files[kind])
    if trust and variable and (variable[:4] != "GRPC" or engine == "grpc"):
        assert call(transport, endpoint, engine, trust=trust) == "ok"
    else:
        with pytest.raises(CertificateError):
            call(transport, endpoint, engine, trust=trust)


@pytest.mark.parametrize(("transport", "engine"), TLS_CLIENTS)
@pytest.mark.parametrize("trust", [False, True])
def test_ca_file_wins(request, monkeypatch, files, tmp_path, transport, engine, trust):
    endpoint = request.getfixturevalue("https" if transport == "https" else "grpc_tls")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    for variable in CA_VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / "other.pem"))
    assert call(transport, endpoint, engine, trust=trust, auth={"ca_file": files["file"]}) == "ok"


@pytest.mark.parametrize(("transport", "engine"), TLS_CLIENTS)
@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_what_can_not_be_used_is_named(monkeypatch, tmp_path, transport, engine, variable):
    if variable[:4] == "GRPC" and engine != "grpc":
        pytest.skip("read by gRPC plugins only")
    endpoint = "https://localhost:1/" if transport == "https" else "localhost:1"
    (tmp_path / "empty.pem").touch()
    for value in ("/not/there.pem", str(tmp_path / "empty.pem")):
        monkeypatch.setenv(variable, value)
        with pytest.raises(InvalidCertificateError) as caught:
            call(transport, endpoint, engine, trust=True)
        assert variable in caught.value.message
        assert value in caught.value.message
        assert "ca_file" not in str(caught.value)


@pytest.mark.parametrize(("transport", "engine"), [each for each in TLS_CLIENTS if each[1] != "session"])
@pytest.mark.parametrize("trusted", ["intermediate", "pinned"])
def test_ca_file_may_be_an_intermediate_authority_or_the_certificate_itself(
    tmp_path, authority, transport, engine, trusted
):
    middle = authority.create_child_ca()
    leaf = middle.issue_cert("localhost")
    path = tmp_path / "trusted.pem"
    (middle.cert_pem if trusted == "intermediate" else leaf.cert_chain_pems[0]).write_to_path(str(path))
    if transport == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        leaf.configure_cert(context)
        server: Any = RawServer(reply_ok, tls=context)
        endpoint = f"https://localhost:{server.port}/"
    else:
        pair = leaf.private_key_pem.bytes(), b"".join(each.bytes() for each in leaf.cert_chain_pems)
        server = GRPCServer(answer, credentials=grpc.ssl_server_credentials([pair]))
        endpoint = f"localhost:{server.port}"
    try:
        assert call(transport, endpoint, engine, trust=False, auth={"ca_file": str(path)}) == "ok"
    finally:
        server.close()


# --- proxies ---------------------------------------------------------------------------------------------------


def forward(peer: Peer) -> None:
    """A proxy: tunnels to 127.0.0.1, and answers a plain request itself."""
    request = peer.read_request()
    if request is None:
        return
    if request.method != "CONNECT":
        peer.send(ok(request))
        return
    with socket.create_connection(("127.0.0.1", int(request.path.rpartition(":")[2]))) as onward:
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=pump, args=(onward, peer.sock), daemon=True).start()
        pump(peer.sock, onward)


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.fixture
def proxy():
    with RawServer(forward) as server:
        yield server


@pytest.fixture(scope="module")
def servers(https, grpc_tls):
    plain = GRPCServer(answer)
    with RawServer(reply_ok) as http:
        yield {"http": http.url, "https": https, "grpc": f"127.0.0.1:{plain.port}", "grpc-tls": grpc_tls}
    plain.close()


CLIENTS = [
    ("http", "fast"),
    ("http", "requests"),
    ("http", "session"),
    ("https", "fast"),
    ("https", "session"),
    ("grpc", "grpc"),
    ("grpc-tls", "grpc"),
]
VARIABLES_OF = {
    "http": {"http_proxy", "all_proxy"},
    "https": {"https_proxy", "all_proxy"},
    "grpc": {"grpc_proxy", "https_proxy", "http_proxy", "all_proxy"},
}


def auth_of(transport: str, files: dict[str, str]) -> dict[str, Any]:
    return {"auth": {"ca_file": files["file"]}} if transport in ("https", "grpc-tls") else {}


@pytest.mark.parametrize(("transport", "engine"), CLIENTS)
@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "all_proxy", "grpc_proxy"])
@pytest.mark.parametrize(("case", "trust"), [(str.lower, True), (str.upper, True), (str.upper, False)])
def test_proxies_of_the_environment(monkeypatch, proxy, servers, files, transport, engine, variable, case, trust):
    monkeypatch.setenv(case(variable), f"http://u:pw@127.0.0.1:{proxy.port}")
    assert call(transport, servers[transport], engine, trust=trust, **auth_of(transport, files)) == "ok"
    used = trust and variable in VARIABLES_OF[transport.partition("-")[0]]
    assert [request.headers.get("proxy-authorization") for request in proxy.requests] == ["Basic dTpwdw=="] * used


@pytest.mark.parametrize(("transport", "engine"), CLIENTS)
@pytest.mark.parametrize(
    ("excluded", "used"),
    [
        ("HOST", False),
        ("HOST:PORT", False),
        ("*", False),
        ("other.example , HOST", False),
        ("127.0.0.0/8 localhost", False),
        ("HOST:1", True),
        ("other.example,10.0.0.0/8", True),
    ],
)
def test_no_proxy(monkeypatch, proxy, servers, files, transport, engine, excluded, used):
    endpoint = servers[transport]
    host, _, port = (
        endpoint.partition("://")[2].partition("/")[0].partition(":") if "//" in endpoint else (endpoint.partition(":"))
    )
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("NO_PROXY", excluded.replace("HOST", host).replace("PORT", port))
    assert call(transport, endpoint, engine, trust=True, **auth_of(transport, files)) == "ok"
    assert len(proxy.requests) == used


def test_a_request_of_a_cgi_server_names_no_proxy(monkeypatch, proxy, servers):
    """HTTP_PROXY is the header "Proxy" of a request there."""
    monkeypatch.setenv("REQUEST_METHOD", "GET")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    assert call("http", servers["http"], "fast", trust=True) == "ok"
    assert not proxy.requests


@pytest.mark.parametrize(("transport", "engine"), CLIENTS)
def test_a_proxy_that_can_not_be_used_is_named(monkeypatch, servers, files, transport, engine):
    monkeypatch.setenv("ALL_PROXY", "socks5://u:s3cret@127.0.0.1:1080")
    with pytest.raises(InvalidConfigError) as caught:
        call(transport, servers[transport], engine, trust=True, **auth_of(transport, files))
    assert "ALL_PROXY" in str(caught.value)
    assert "options.trust_env" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("transport", "engine"), CLIENTS)
@pytest.mark.parametrize("fault", ["is not there", "requires credentials", "has no way", "closes"])
def test_faults_of_a_proxy_name_it(monkeypatch, servers, files, transport, engine, fault):
    replies = {
        "requires credentials": http_reply("", "407 Proxy Authentication Required"),
        "has no way": http_reply("", "502 Bad Gateway"),
        "closes": b"",
    }
    with RawServer(lambda peer: peer.read_request() and peer.send(replies[fault])) as broken:
        port = free_port() if fault == "is not there" else broken.port
        monkeypatch.setenv("ALL_PROXY", f"http://u:s3cret@127.0.0.1:{port}")
        with pytest.raises(PluginError) as caught:
            call(transport, servers[transport], engine, trust=True, **auth_of(transport, files))
    error = caught.value
    assert "proxy" in error.message, error
    assert "s3cret" not in str(error)
    if engine in ("fast", "requests") and (transport == "https" or fault == "is not there"):
        assert isinstance(error, PluginConnectionError)
        assert error.details["proxy"] == f"http://127.0.0.1:{port}"
        assert error.retryable is (fault != "requires credentials")


# --- .netrc ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["fast", "requests", "session"])
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("explicit", ["nothing", "auth", "the call"])
def test_netrc(monkeypatch, tmp_path, engine, trust, explicit):
    netrc = Path(tmp_path / "netrc")
    netrc.write_text("machine 127.0.0.1 login user password pass\n")
    monkeypatch.setenv("NETRC", str(netrc))
    sections = {"auth": {"method": "bearer", "token": "explicit"}} if explicit == "auth" else {}
    headers = {"Authorization": "Bearer explicit"} if explicit == "the call" else None
    with RawServer() as server:
        call("http", server.url, engine, trust=trust, headers=headers, **sections)
        found = server.requests[0].headers.get("authorization")
    if explicit == "nothing":
        assert found == ("Basic dXNlcjpwYXNz" if trust else None)
    else:
        assert found == "Bearer explicit"


def test_a_session_that_does_not_trust_the_environment_stays_so(monkeypatch, tmp_path, proxy):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password pass\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    with RawServer() as server, requests.Session() as session:
        session.trust_env = False
        config = PluginConfig(name="p", transport="http", endpoint=server.url, options={"trust_env": True})
        assert HTTPPlugin(config, session=session).execute(1) == "ok"
        assert "authorization" not in server.requests[0].headers
    assert not proxy.requests


def test_proxies_and_authentication_of_a_session_count_without_trust_env(monkeypatch, proxy):
    with RawServer() as server, requests.Session() as session:
        session.proxies = {"http": f"http://127.0.0.1:{proxy.port}"}
        session.auth = ("user", "pass")
        config = PluginConfig(name="p", transport="http", endpoint=server.url)
        assert HTTPPlugin(config, session=session).execute(1) == "ok"
    assert [request.headers["authorization"] for request in proxy.requests] == ["Basic dXNlcjpwYXNz"]
