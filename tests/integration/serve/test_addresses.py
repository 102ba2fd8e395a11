"""Addresses of servers: errors of those that can't be used, and the endpoint that is printed."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from goplugins import Manager, serve
from goplugins.errors import ConfigError, InvalidEndpointURLError
from goplugins.serve import _addresses

USE = "stop the program that listens there, or use another port; 0 takes a free one"


@serve.plugin(name="echo")
def echo(request: int) -> int:
    return request


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_port_that_is_taken(scheme: str, taken: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        serve.start(echo, f"{scheme}://127.0.0.1:{taken}")
    assert caught.value.message == f"can't listen on {scheme}://127.0.0.1:{taken}: {os.strerror(errno.EADDRINUSE)}"
    assert caught.value.fix == USE
    assert capfd.readouterr().err == ""  # nothing of grpc's own log either


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_two_servers_at_one_port(scheme: str) -> None:
    with serve.start(echo, f"{scheme}://127.0.0.1:0") as first:
        with pytest.raises(ConfigError) as caught:
            serve.start(echo, first.url)
        assert caught.value.fix == USE


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize(
    ("where", "fix"),
    [("192.0.2.1:7", "use an address of this machine"), ("no-such-host.invalid:7", "that this machine can resolve")],
)
def test_a_host_that_is_not_this_machine(scheme: str, where: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"can't listen on {scheme}://{where}: ") as caught:
        serve.start(echo, f"{scheme}://{where}")
    assert fix in caught.value.fix


def test_a_host_with_one_address_in_use_is_an_error(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """grpc would listen at the other one, and half of the callers would reach another program."""
    free, busy = ("127.0.0.2", taken), ("127.0.0.1", taken)
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(_addresses, "_resolve", lambda host, port: [(*kind, free), (*kind, busy)])
    with pytest.raises(ConfigError, match="can't listen on grpc://localhost"):
        serve.start(echo, f"grpc://localhost:{taken}")


def test_an_address_of_another_machine_beside_a_local_one_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    monkeypatch.setattr(_addresses, "_resolve", lambda host, port: [(*kind, ("192.0.2.1", 0)), (*kind, (host, 0))])
    _addresses.check_free("127.0.0.1", 0, "here")


@pytest.mark.parametrize("port", ["65536", "99999", "x", "", "-1"])
def test_an_invalid_port_is_refused(port: str) -> None:
    with pytest.raises(InvalidEndpointURLError, match="not an address to serve at"):
        serve.start(echo, f"grpc://127.0.0.1:{port}")


@pytest.mark.parametrize("transport", ["http", "grpc", "unix"])
def test_the_printed_endpoint_works_in_a_configuration(
    transport: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"unix://{tmp_path}/s" if transport == "unix" else f"{transport}://127.0.0.1:0"

    def use(server: serve.RunningServer) -> None:
        said = capsys.readouterr().out.removeprefix("listening on ").strip()
        assert said == server.endpoint
        with Manager(int, int) as manager:
            manager.load_from_config({"plugins": [{"name": "echo", "transport": transport, "endpoint": said}]})
            assert manager.execute("echo", 7) == 7
        server.request_stop()

    serve.run(echo, url, ready=use)


def test_an_abstract_sockets_endpoint_is_its_name_in_a_configuration() -> None:
    with serve.start(echo, f"unix:@goplugins-test-{os.getpid()}") as server:
        assert server.endpoint == f"@goplugins-test-{os.getpid()}"


def test_of_two_addresses_only_grpcs_uses_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    started: list[serve.RunningServer] = []

    def use(server: serve.RunningServer) -> None:
        started.append(server)
        if len(started) == 2:
            server.request_stop()

    urls = ("http://127.0.0.1:0", "grpcs://127.0.0.1:0")
    serve.run(echo, *urls, tls=serve.ServerTLS(cert, key), ready=use)
    assert [server.url.partition(":")[0] for server in started] == ["http", "grpcs"]


def test_the_error_for_https_names_a_reverse_proxy() -> None:
    for url, tls in (("https://127.0.0.1:0", None), ("http://127.0.0.1:0", serve.ServerTLS("c", "k"))):
        with pytest.raises(InvalidEndpointURLError) as caught:
            serve.run(echo, url, tls=tls)
        assert caught.value.fix == "serve http behind a reverse proxy that terminates TLS"
