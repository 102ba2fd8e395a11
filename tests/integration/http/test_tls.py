"""TLS: always verified, with a reason in every error."""

from __future__ import annotations

import socket
import ssl
import time
import traceback

import pytest
import trustme

from goplugins.config import AuthConfig
from goplugins.errors import (
    CertificateError,
    InvalidCertificateError,
    InvalidEndpointURLError,
    PluginTimeoutError,
    Replay,
    TLSError,
)
from tests.integration.http.conftest import call
from tests.servers import Peer, ok
from tests.timing import time_limit


def test_known_fault_https_ignored_the_ca_file(serve, make, server_context, ca_file):
    server = serve(tls=server_context())
    plugin = make(server.url, auth=AuthConfig(ca_file=ca_file))
    assert call(plugin) == "ok"
    assert call(plugin) == "ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    ("certificate", "trusted", "reason"),
    [
        ({"expired": True}, True, "expired"),
        ({"name": "other.example.org"}, True, "127.0.0.1"),
        ({}, False, "unable to get local issuer"),
    ],
    ids=["expired", "wrong host", "unknown authority"],
)
def test_untrusted_certificate(serve, make, server_context, ca_file, certificate, trusted, reason):
    server = serve(tls=server_context(**certificate))
    plugin = make(server.url, auth=AuthConfig(ca_file=ca_file if trusted else "", method="bearer", token="tok-456"))
    with pytest.raises(CertificateError, match=reason) as caught:
        call(plugin)
    assert caught.value.replay is Replay.NEVER
    assert server.requests == []


def test_plain_server_behind_https(serve, make):
    server = serve(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    with pytest.raises(TLSError) as caught:
        call(make(server.url.replace("http", "https")))
    assert type(caught.value) is TLSError
    assert caught.value.replay is Replay.ALWAYS


@pytest.mark.parametrize("how", ["close", "reset"])
def test_handshake_that_is_aborted(serve, make, how):
    server = serve(lambda peer: peer.sock.recv(1) and getattr(peer, how)())
    with pytest.raises(TLSError) as caught:
        call(make(server.url.replace("http", "https")))
    assert type(caught.value) is TLSError
    assert caught.value.replay is Replay.ALWAYS


def test_handshake_that_hangs_ends_at_the_deadline(serve, make):
    server = serve(lambda peer: peer.hang())
    plugin = make(server.url.replace("http", "https"))
    for stopwatch in time_limit(0.4):
        with stopwatch, pytest.raises(PluginTimeoutError) as caught:
            call(plugin, timeout=0.3)
    assert caught.value.replay is Replay.ALWAYS


def test_slow_handshake_ends_at_the_deadline(serve, make):
    server = serve(lambda peer: peer.drip(b"\x16\x03\x03\x40\x00" + b"\x02" * 500, 0.02))
    plugin = make(server.url.replace("http", "https"))
    for stopwatch in time_limit(0.4):
        with stopwatch, pytest.raises(PluginTimeoutError):
            call(plugin, timeout=0.3)


def test_old_tls_is_rejected(serve, make, server_context, ca_file):
    context = server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(TLSError):
        call(make(serve(tls=context).url, auth=AuthConfig(ca_file=ca_file)))


def test_mtls(serve, make, server_context, ca_file, client_files, authority):
    cert, key = client_files()
    server = serve(tls=server_context(client_authority=authority))
    auth = AuthConfig(method="mtls", cert_file=cert, key_file=key, ca_file=ca_file)
    assert call(make(server.url, auth=auth)) == "ok"


@pytest.mark.parametrize("method", ["mtls", "bearer"])
@pytest.mark.parametrize("field", ["token", "token_file"])
def test_a_client_certificate_and_a_token_belong_together(
    serve, make, server_context, ca_file, client_files, authority, tmp_path, method, field
):
    cert, key = client_files()
    server = serve(tls=server_context(client_authority=authority))
    (tmp_path / "token").write_text("tok-456\n")
    token = {field: "tok-456" if field == "token" else str(tmp_path / "token")}
    auth = AuthConfig(method=method, cert_file=cert, key_file=key, ca_file=ca_file, **token)
    assert call(make(server.url, auth=auth)) == "ok"
    assert server.requests[0].headers["authorization"] == "Bearer tok-456"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("presented", [True, False])
def test_client_certificate_that_the_server_rejects(
    serve, make, server_context, ca_file, client_files, authority, version, presented
):
    context = server_context(client_authority=authority)
    context.minimum_version = context.maximum_version = version
    server = serve(tls=context)
    auth = AuthConfig(ca_file=ca_file)
    if presented:
        cert, key = client_files(trustme.CA())
        auth = AuthConfig(method="mtls", cert_file=cert, key_file=key, ca_file=ca_file)
    with pytest.raises(TLSError) as caught:
        call(make(server.url, auth=auth))
    assert type(caught.value) is TLSError
    assert caught.value.replay is Replay.NEVER
    assert not caught.value.retryable


class TestFiles:
    """The error for a file that can't be used names its field."""

    @pytest.fixture
    def files(self, client_files, ca_file):
        cert, key = client_files()
        return {"cert_file": cert, "key_file": key, "ca_file": ca_file}

    @pytest.mark.parametrize("field", ["cert_file", "key_file", "ca_file"])
    def test_missing(self, make, files, field):
        auth = AuthConfig(method="mtls", **{**files, field: "/does/not/exist.pem"})
        with pytest.raises(InvalidCertificateError, match="No such file") as caught:
            make("https://127.0.0.1:1/x", auth=auth)
        assert caught.value.path == f"auth.{field}"

    @pytest.mark.parametrize("field", ["cert_file", "key_file", "ca_file"])
    def test_not_pem(self, make, files, field, tmp_path):
        (tmp_path / "x.pem").write_text("hello")
        auth = AuthConfig(method="mtls", **{**files, field: str(tmp_path / "x.pem")})
        with pytest.raises(InvalidCertificateError, match="PEM") as caught:
            make("https://127.0.0.1:1/x", auth=auth)
        assert caught.value.path == f"auth.{field}"

    def test_key_of_another_certificate(self, make, files, client_files):
        _, other = client_files()
        with pytest.raises(InvalidCertificateError, match="does not belong to cert_file") as caught:
            make("https://127.0.0.1:1/x", auth=AuthConfig(method="mtls", **{**files, "key_file": other}))
        assert caught.value.path == "auth.key_file"

    def test_encrypted_key_does_not_prompt_on_the_terminal(self, make, files, tmp_path):
        from cryptography.hazmat.primitives import serialization

        with open(files["key_file"], "rb") as stream:
            key = serialization.load_pem_private_key(stream.read(), None)
        locked = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
        (tmp_path / "locked.pem").write_bytes(locked)
        with pytest.raises(InvalidCertificateError, match="encrypted"):
            make(
                "https://127.0.0.1:1/x",
                auth=AuthConfig(method="mtls", **{**files, "key_file": str(tmp_path / "locked.pem")}),
            )


def test_known_fault_the_bearer_token_went_out_in_clear(serve):
    from goplugins.config import PluginConfig
    from goplugins.transports.http import HTTPPluginFactory

    server = serve()
    config = PluginConfig(name="p", transport="https", endpoint=server.url)
    with pytest.raises(InvalidEndpointURLError):
        HTTPPluginFactory().validate_config(config)
    with pytest.raises(InvalidEndpointURLError):
        HTTPPluginFactory().create_plugin(config)
    assert server.connections == 0


def test_dead_tls_connection_is_replaced_silently(serve, make, server_context, ca_file):
    server = serve(tls=server_context())
    plugin = make(server.url, auth=AuthConfig(ca_file=ca_file))
    assert call(plugin) == "ok"
    server.drop_connections()
    time.sleep(0.05)
    assert call(plugin) == "ok"
    assert server.connections == 2


def test_tls_errors_contain_no_credential(serve, make, server_context):
    server = serve(tls=server_context())
    plugin = make(server.url, auth=AuthConfig(method="bearer", token="tok-456-secret"))
    with pytest.raises(CertificateError) as caught:
        call(plugin)
    assert "tok-456-secret" not in "".join(traceback.format_exception(caught.value))


def test_server_name_is_sent_and_checked_for_a_name(serve, make, server_context, ca_file):
    context = server_context("localhost")
    names: list[str] = []
    context.sni_callback = lambda sock, name, context: names.append(name)
    server = serve(tls=context)
    plugin = make(server.url.replace("127.0.0.1", "localhost"), auth=AuthConfig(ca_file=ca_file))
    assert call(plugin) == "ok"
    assert names == ["localhost"]
    assert server.requests[0].headers["host"] == f"localhost:{server.port}"


def test_ipv6(serve, make):
    try:
        server = serve(host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert call(make(server.url)) == "ok"
    assert server.requests[0].headers["host"] == f"[::1]:{server.port}"
    assert socket.has_ipv6


def test_large_requests_and_replies_in_many_records(serve, make, server_context, ca_file):
    def handler(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            time.sleep(0.05)  # so that the client's buffer is full
            peer.send(ok(request, request.json["data"]))

    server = serve(handler, tls=server_context())
    plugin = make(server.url, auth=AuthConfig(ca_file=ca_file), max_response_bytes=1 << 24)
    value = "x" * 3_000_000
    assert [call(plugin, value, timeout=20), call(plugin, "y", timeout=20)] == [value, "y"]
    assert server.connections == 1
