"""A call that a member can't have got goes to another one, also a call that is not idempotent. Cause by cause."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import trustme

from goplugins import HTTPPlugin, Manager, PluginConfig, PluginError, errors
from tests.servers import Peer, RawServer, free_port, http_reply, ok
from tests.timing import until

pytestmark = pytest.mark.matrix


class Place:
    """What a cause is made of: a directory, an authority, and servers that end with the test."""

    def __init__(self, folder: Path, authority: trustme.CA, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.authority = authority
        self._stack = stack

    def server(self, handler: Callable[[Peer], None], **options: Any) -> RawServer:
        return self._stack.enter_context(RawServer(handler, **options))

    def give_up_rights(self) -> None:
        """This thread has no rights to files but those of everyone: the administrator may open any."""
        if os.geteuid() == 0:
            libc = ctypes.CDLL(None)
            libc.setfsuid(65534)
            self._stack.callback(libc.setfsuid, 0)

    def file(self, name: str, text: str = "", mode: int = 0o644) -> str:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    def trusted(self) -> str:
        path = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(path))
        return str(path)

    def context(self, name: str = "127.0.0.1", *, wants_client: bool = False, tls_1_2: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(name).configure_cert(context)
        if wants_client:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        if tls_1_2:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context


def program(path: str, **fields: Any) -> dict[str, Any]:
    return {"transport": "exec", "executable": path, **fields}


def not_executable(place: Place) -> dict[str, Any]:
    return program(place.file("program", "#!/bin/sh\n"))


def without_interpreter(place: Place) -> dict[str, Any]:
    return program(place.file("program", "#!/no/such/interpreter\n", 0o755))


def not_a_program(place: Place) -> dict[str, Any]:
    return program(place.file("program", "plain text", 0o755))


def pinned_to_another(place: Place) -> dict[str, Any]:
    return program(sys.executable, options={"sha256": "0" * 64})


def abandoned_socket(place: Place) -> dict[str, Any]:
    path = str(place.folder / "socket")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    return {"transport": "unix", "endpoint": path}


def forbidden_socket(place: Place) -> dict[str, Any]:
    path = str(place.folder / "socket")
    place.server(lambda peer: peer.hang(), unix=path)
    os.chmod(path, 0)
    place.give_up_rights()
    return {"transport": "unix", "endpoint": path}


def nothing_listens(place: Place) -> dict[str, Any]:
    return {"transport": "http", "endpoint": f"http://127.0.0.1:{free_port()}"}


def https(url: str, ca_file: str = "", **fields: Any) -> dict[str, Any]:
    endpoint = url.replace("http:", "https:")
    return {"transport": "https", "endpoint": endpoint, "auth": {"ca_file": ca_file}, **fields}


def plain_server_behind_tls(place: Place) -> dict[str, Any]:
    return https(place.server(lambda peer: peer.send(http_reply("?"))).url, place.trusted())


def cut_handshake(place: Place) -> dict[str, Any]:
    return https(place.server(lambda peer: peer.close()).url, place.trusted())


def unknown_authority(place: Place) -> dict[str, Any]:
    return https(place.server(lambda peer: None, tls=place.context()).url)


def certificate_of_another_host(place: Place) -> dict[str, Any]:
    return https(place.server(lambda peer: None, tls=place.context("other.example.org")).url, place.trusted())


def wants_client_certificate(place: Place) -> dict[str, Any]:
    return https(place.server(reads, tls=place.context(wants_client=True)).url, place.trusted())


def wants_client_certificate_by_tls_1_2(place: Place) -> dict[str, Any]:
    context = place.context(wants_client=True, tls_1_2=True)
    return https(place.server(reads, tls=context).url, place.trusted())


def proxy_that(status: str) -> Callable[[Place], dict[str, Any]]:
    def refuses(peer: Peer) -> None:
        peer.read_request()
        peer.send(http_reply(status=status))

    def make(place: Place) -> dict[str, Any]:
        return https("https://127.0.0.1:1", options={"proxy": f"http://127.0.0.1:{place.server(refuses).port}"})

    return make


def no_proxy(place: Place) -> dict[str, Any]:
    return https("https://127.0.0.1:1", options={"proxy": f"http://127.0.0.1:{free_port()}"})


def session_with(file: str) -> Callable[[Place], HTTPPlugin]:
    def make(place: Place) -> HTTPPlugin:
        session = requests.Session()
        setattr(session, file, str(place.folder / "missing.pem"))
        server = place.server(reads, tls=place.context())
        config = {"name": "bad", "transport": "https", "endpoint": server.url.replace("http:", "https:")}
        return HTTPPlugin(PluginConfig.from_mapping(config), session=session)

    return make


def grpc(endpoint: str, transport: str = "grpc", **fields: Any) -> dict[str, Any]:
    return {"transport": transport, "endpoint": endpoint, **fields}


def grpc_to_http(place: Place) -> dict[str, Any]:
    server = place.server(lambda peer: peer.close())
    return grpc(f"127.0.0.1:{server.port}", "grpc-tls", auth={"ca_file": place.trusted()})


def grpc_unknown_authority(place: Place) -> dict[str, Any]:
    context = place.context()
    context.set_alpn_protocols(["h2"])
    return grpc(f"127.0.0.1:{place.server(reads, tls=context).port}", "grpc-tls")


def reads(peer: Peer) -> None:
    peer.read_request()


class Cause(NamedTuple):
    make: Callable[[Place], dict[str, Any] | HTTPPlugin]
    lasting: bool  # a retry by the same plugin would end the same way


CAUSES = {
    "no program": Cause(lambda place: program(str(place.folder / "missing")), True),
    "no program in PATH": Cause(lambda _: program("no-such-program"), True),
    "a directory as program": Cause(lambda place: program(str(place.folder)), True),
    "a file that is not executable": Cause(not_executable, True),
    "a script without its interpreter": Cause(without_interpreter, True),
    "a text as program": Cause(not_a_program, True),
    "no work_dir": Cause(lambda place: program(sys.executable, work_dir=str(place.folder / "missing")), True),
    "a program with another SHA-256": Cause(pinned_to_another, True),
    "no socket": Cause(lambda place: {"transport": "unix", "endpoint": str(place.folder / "missing")}, False),
    "a socket that was left": Cause(abandoned_socket, False),
    "a file in place of a socket": Cause(lambda place: {"transport": "unix", "endpoint": place.file("x")}, False),
    "a socket that is forbidden": Cause(forbidden_socket, True),
    "refused": Cause(nothing_listens, False),
    "no such host": Cause(lambda _: {"transport": "http", "endpoint": "http://no-such-host.invalid"}, False),
    "a server without TLS": Cause(plain_server_behind_tls, False),
    "a handshake that is cut": Cause(cut_handshake, False),
    "an unknown authority": Cause(unknown_authority, True),
    "a certificate of another host": Cause(certificate_of_another_host, True),
    "no client certificate": Cause(wants_client_certificate, True),
    "no client certificate, TLS 1.2": Cause(wants_client_certificate_by_tls_1_2, True),
    "no proxy": Cause(no_proxy, False),
    "a proxy that wants credentials": Cause(proxy_that("407 Proxy Authentication Required"), True),
    "a proxy that forbids": Cause(proxy_that("403 Forbidden"), True),
    "a proxy that fails": Cause(proxy_that("502 Bad Gateway"), False),
    "a session without its authorities": Cause(session_with("verify"), True),
    "a session without its certificate": Cause(session_with("cert"), True),
    "gRPC, refused": Cause(lambda _: grpc(f"127.0.0.1:{free_port()}"), False),
    "gRPC, no socket": Cause(lambda place: grpc(f"unix://{place.folder}/missing"), False),
    "gRPC, a handshake that is cut": Cause(grpc_to_http, False),
    "gRPC, an unknown authority": Cause(grpc_unknown_authority, True),
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def place(tmp_path: Path, authority: trustme.CA) -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(tmp_path, authority, stack)


RETRY = {"max_retries": 3, "initial_interval": "1ms", "budget_ratio": 1.0}


@contextlib.contextmanager
def group_of(place: Place, bad: dict[str, Any] | HTTPPlugin, *, alone: bool = False, bads: int = 1) -> Iterator[Any]:
    """A manager with the group "g", whose bad members are preferred, and the server of its good member."""
    good = place.server(serve_well)
    names = ["bad", *(f"bad-{number}" for number in range(1, bads))]
    own = {"health_check": {"enabled": False}, "retry": RETRY}
    members = [{"name": name, "priority": 2} for name in names]
    members += [] if alone else [{"name": "good", "priority": 1}]
    with Manager(str, str) as manager:
        plugins = [{"name": "good", "transport": "http", "endpoint": good.url, **own}]
        if isinstance(bad, HTTPPlugin):
            manager.register(bad, PluginConfig.from_mapping({"name": "bad", "retry": RETRY}), name="bad")
        else:
            plugins += [{"name": name, **bad, **own} for name in names]
        balancer = {"name": "g", "strategy": "priority", "members": members, "slow_start": 0, "retry": RETRY}
        manager.load_from_config({"log_level": "error", "plugins": plugins, "load_balancers": [balancer]})
        yield manager, good


def serve_well(peer: Peer) -> None:
    while (request := peer.read_request()) is not None:
        peer.send(ok(request, "good"))


@pytest.mark.parametrize("cause", CAUSES)
def test_another_member_takes_the_call(place: Place, cause: str) -> None:
    bad = CAUSES[cause].make(place)
    with group_of(place, bad) as (manager, good):
        result = manager.execute_result("g", "once", idempotent=False)
    assert (result.value, result.member, result.attempts) == ("good", "good", 2)
    assert len(good.requests) == 1


@pytest.mark.parametrize("cause", [name for name, cause in CAUSES.items() if cause.lasting])
def test_what_lasts_is_not_tried_again_by_the_same_plugin(place: Place, cause: str) -> None:
    bad = CAUSES[cause].make(place)
    with group_of(place, bad, alone=True) as (manager, _):
        for name in ("bad", "g"):
            with pytest.raises(PluginError) as caught:
                manager.execute(name, "once", idempotent=True)
            assert (caught.value.attempts, caught.value.retryable) == (1, False), name


def test_each_member_is_tried_once(place: Place) -> None:
    bad = program(str(place.folder / "missing"))
    with group_of(place, bad, bads=3, alone=True) as (manager, _), pytest.raises(PluginError) as caught:
        manager.execute("g", "once")
    assert (caught.value.attempts, "retry_stopped" in caught.value.details) == (3, False)


def test_the_delay_of_a_start_holds_back_no_other_member(place: Place) -> None:
    bad = program(str(place.folder / "missing"))
    with group_of(place, bad) as (manager, _):
        for _ in range(4):  # each failure doubles the delay of the next start; five open the breaker
            with pytest.raises(PluginError):
                manager.execute("bad", "start")
        result = manager.execute_result("g", "once")
    assert (result.value, result.attempts) == ("good", 2)
    assert result.elapsed < 0.3  # the fourth start is delayed by 400 ms


def answers(reply: bytes | None) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        while peer.read_request() is not None:
            if reply is None:
                peer.close()
                return
            peer.send(reply)

    return serve


ARRIVED = {
    "a lost connection": None,
    "HTTP 500": http_reply(status="500 Internal Server Error"),
    "HTTP 503": http_reply(status="503 Service Unavailable"),
    "HTTP 401": http_reply(status="401 Unauthorized"),
    "a broken reply": http_reply("{"),
}


@pytest.mark.parametrize("cause", ARRIVED)
def test_a_call_that_may_have_had_its_effect_is_made_once(place: Place, cause: str) -> None:
    server = place.server(answers(ARRIVED[cause]))
    bad = {"transport": "http", "endpoint": server.url}
    with group_of(place, bad) as (manager, good), pytest.raises(PluginError) as caught:
        manager.execute("g", "once", idempotent=False)
    assert (caught.value.attempts, len(server.requests), len(good.requests)) == (1, 1, 0)


def test_a_probe_that_has_not_connected_in_time_is_repeated_elsewhere(place: Place) -> None:
    """The error of a probe has the class of a timeout, and what it says of a retry."""
    silent = place.server(lambda peer: peer.hang())  # no handshake
    bad = https(silent.url, place.trusted(), connection={"connection_timeout": "150ms"})
    breaker = {"failure_threshold": 1, "min_request_threshold": 1, "recovery_timeout": "1ms"}
    bad = {**bad, "circuit_breaker": breaker}
    with group_of(place, bad) as (manager, _):
        manager.execute("g", "once", idempotent=False)
        until(lambda: manager.explain("bad").admits, 5.0)
        result = manager.execute_result("g", "once", idempotent=False)
        assert (result.value, result.attempts) == ("good", 2)
        assert manager.explain("bad").last_error.startswith("CIRCUIT_1402")


def test_the_attributes_agree() -> None:
    """No error is for another member that may have reached this one."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PluginError)]
    elsewhere = {kind for kind in kinds if kind.elsewhere}
    assert {kind.__name__ for kind in elsewhere} == {
        "PluginConnectionError",
        "NameResolutionError",
        "TLSError",
        "CertificateError",
    }
