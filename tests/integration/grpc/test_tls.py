"""TLS: certificates are always verified, and every refusal has a reason."""

from __future__ import annotations

import traceback

import attrs
import pytest
import trustme

from goplugins import serve as serving
from goplugins.config import AuthConfig
from goplugins.enums import PluginStatus
from goplugins.errors import (
    CertificateError,
    InvalidCertificateError,
    PluginConnectionError,
    PluginTimeoutError,
    Replay,
    TLSError,
)
from tests.integration.grpc.conftest import call, failure
from tests.servers import RawServer as SocketServer
from tests.timing import time_limit


@serving.plugin(name="echo")
def echo(request: object) -> object:
    return request


def test_ca_file_is_honoured(serve, make, tls, ca_file):
    server = serve(echo, tls=tls())
    plugin = make(server.address, transport="grpc-tls", auth=AuthConfig(ca_file=ca_file))
    assert call(plugin, 1) == 1
    assert plugin.health(2).status is PluginStatus.HEALTHY


def test_server_name(serve, make, tls, ca_file):
    server = serve(echo, tls=tls(name="localhost"))
    plugin = make(f"localhost:{server.port}", transport="grpc-tls", auth=AuthConfig(ca_file=ca_file))
    assert call(plugin, 1) == 1


@pytest.mark.parametrize(
    ("certificate", "trusted"),
    [({"expired": True}, True), ({"name": "other.example.org"}, True), ({}, False)],
    ids=["expired", "wrong host", "unknown authority"],
)
def test_certificates_that_fail_verification(serve, make, tls, ca_file, certificate, trusted):
    server = serve(echo, tls=tls(**certificate))
    auth = AuthConfig(ca_file=ca_file if trusted else "", method="bearer", token="tok-456-secret")
    plugin = make(server.address, transport="grpc-tls", auth=auth)
    error = failure(plugin)
    assert type(error) is CertificateError
    assert error.replay is Replay.NEVER
    assert "tok-456" not in "".join(traceback.format_exception(error))
    assert plugin.health(1).status is PluginStatus.OFFLINE


def test_plain_server_behind_tls(serve, make, ca_file):
    error = failure(make(serve(echo).address, transport="grpc-tls", auth=AuthConfig(ca_file=ca_file)))
    assert type(error) is TLSError
    assert error.replay is Replay.ALWAYS


def test_tls_server_behind_plain(serve, make, tls):
    assert type(failure(make(serve(echo, tls=tls()).address))) is PluginConnectionError


@pytest.mark.parametrize("how", ["close", "reset"])
def test_handshake_that_breaks_off(make, how):
    with SocketServer(lambda peer: peer.sock.recv(1) and getattr(peer, how)()) as server:
        error = failure(make(f"127.0.0.1:{server.port}", transport="grpc-tls"))
        assert type(error) is TLSError
        assert error.replay is Replay.ALWAYS


def test_handshake_that_hangs_ends_at_the_deadline(make):
    with SocketServer(lambda peer: peer.hang()) as server:
        plugin = make(f"127.0.0.1:{server.port}", transport="grpc-tls")
        for stopwatch in time_limit(0.4):
            with stopwatch:
                error = failure(plugin, timeout=0.3)
        # At the deadline it is unknown whether an earlier connection had carried the call.
        assert (type(error), error.replay) == (PluginTimeoutError, Replay.IF_IDEMPOTENT)


class TestMutual:
    def auth(self, files, ca_file, **by):
        cert, key = files("client@example.org", **by)
        return AuthConfig(method="mtls", cert_file=cert, key_file=key, ca_file=ca_file)

    def test_right(self, serve, make, tls, files, ca_file):
        server = serve(echo, tls=tls(ca=ca_file))
        assert call(make(server.address, transport="grpc-tls", auth=self.auth(files, ca_file)), 1) == 1

    @pytest.mark.parametrize("method", ["mtls", "bearer"])
    def test_with_a_token(self, serve, make, tls, files, ca_file, method):
        auth = attrs.evolve(self.auth(files, ca_file), method=method, token="tok-456")
        server = serve(echo, tls=tls(ca=ca_file), auth=AuthConfig(method="bearer", token="tok-456"))
        assert call(make(server.address, transport="grpc-tls", auth=auth), 1) == 1

    @pytest.mark.parametrize("presented", [True, False])
    def test_wrong_or_none(self, serve, make, tls, files, ca_file, presented):
        server = serve(echo, tls=tls(ca=ca_file))
        auth = self.auth(files, ca_file, by=trustme.CA()) if presented else AuthConfig(ca_file=ca_file)
        error = failure(make(server.address, transport="grpc-tls", auth=auth))
        assert type(error) is TLSError
        assert "client certificate" in error.message

    @pytest.mark.parametrize("field", ["cert_file", "key_file", "ca_file"])
    def test_files_that_can_not_be_used(self, make, files, ca_file, field, tmp_path):
        cert, key = files("client@example.org")
        (tmp_path / "x.pem").write_text("hello")
        for path in ("/does/not/exist.pem", str(tmp_path / "x.pem")):
            names = {"cert_file": cert, "key_file": key, "ca_file": ca_file, field: path}
            with pytest.raises(InvalidCertificateError) as caught:
                make("127.0.0.1:1", transport="grpc-tls", auth=AuthConfig(method="mtls", **names))
            assert caught.value.path == f"auth.{field}"


def test_a_servers_missing_certificate_files_are_named(serve, tls):
    from goplugins.serve._grpc import ServerTLS

    with pytest.raises(InvalidCertificateError, match=r"none\.key"):
        serve(echo, tls=ServerTLS("/none.pem", "/none.key"))
