"""Certificate and token files that change under load: no call fails, and servers soon see the new ones."""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import trustme

from goplugins import ConfigError, Manager
from goplugins.errors import MissingBearerTokenError
from goplugins.transports.http import HTTPPlugin
from tests.integration.grpc.conftest import RawServer as GRPCServer, grpc, reply
from tests.integration.unix.conftest import ok as line_ok, read_line
from tests.marks import sample
from tests.servers import Peer, RawServer, ok

pytestmark = pytest.mark.matrix

THREADS = 8


class Authority:
    """A certificate authority, and a client certificate in files that can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.folder = folder
        self.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.auth = {
            "method": "mtls",
            **{f"{kind}_file": str(folder / f"{kind}.pem") for kind in ("cert", "key", "ca")},
        }

    def write(self, *, pause: float = 0.0) -> str:
        """Writes a new certificate and then its key, in place; returns the serial number in hexadecimal."""
        issued = self.authority.issue_cert("client@example.org")
        pem = issued.cert_chain_pems[0].bytes()
        (self.folder / "cert.pem").write_bytes(pem)
        time.sleep(pause)
        (self.folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
        return serial_of(pem.decode())


def serial_of(pem: str) -> str:
    from cryptography import x509

    return f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:X}"


@pytest.fixture
def client(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class Seen:
    """The client certificates of the calls, and the time of the first call with each."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.last = ""
        self.open: dict[int, str] = {}

    def note(self, serial: str) -> None:
        self.first.setdefault(serial, time.monotonic())
        self.last = serial


def serve_https(client: Authority, seen: Seen) -> RawServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.authority.issue_cert("127.0.0.1").configure_cert(context)
    client.authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    def answer(peer: Peer) -> None:
        serial = peer.sock.getpeercert()["serialNumber"].lstrip("0")  # type: ignore[attr-defined]
        while (request := peer.read_request()) is not None:
            seen.note(serial)
            time.sleep(0.002)
            peer.send(ok(request))

    return RawServer(answer, tls=context)


def serve_grpc(client: Authority, seen: Seen) -> GRPCServer:
    issued = client.authority.issue_cert("127.0.0.1")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    credentials = grpc.ssl_server_credentials([pair], client.authority.cert_pem.bytes(), require_client_auth=True)

    def answer(request: bytes, context: Any) -> bytes:
        seen.note(serial_of(context.auth_context()["x509_pem_cert"][0].decode()))
        time.sleep(0.002)
        return reply(request, payload=b'"ok"')

    return GRPCServer(answer, credentials=credentials)


@pytest.fixture(params=["https", "grpc-tls"])
def served(request: Any, client: Authority) -> Iterator[tuple[dict[str, Any], Seen]]:
    seen = Seen()
    if request.param == "https":
        server: Any = serve_https(client, seen)
        endpoint = server.url
    else:
        server = serve_grpc(client, seen)
        endpoint = server.address
    yield {"name": "p", "transport": request.param, "endpoint": endpoint}, seen
    server.close()


class Load:
    """Threads that call continuously."""

    def __init__(self, manager: Manager[Any, Any], take: Callable[[Any], object] | None = None) -> None:
        self.manager = manager
        self.take = take or (lambda answer: None)
        self.errors: list[Exception] = []
        self.calls = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(THREADS)]

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.take(self.manager.execute("p", 1, timeout=10))
                self.calls += 1
            except Exception as exc:
                self.errors.append(exc)
                return

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + seconds, "it did not happen"
        time.sleep(0.005)
    return time.monotonic() - started


@pytest.mark.parametrize("served", sample(["https", "grpc-tls"], ["https"], pytest.mark.stress), indirect=True)
@pytest.mark.parametrize("pause", sample([0.0, 0.6], [0.0], pytest.mark.stress), ids=["at once", "key later"])
def test_a_client_certificate_is_replaced_under_load(
    client: Authority, served: tuple[dict[str, Any], Seen], pause: float
) -> None:
    config, seen = served
    first = client.write()
    manager: Manager[Any, Any] = Manager()
    manager.load_from_config({"plugins": [{**config, "auth": client.auth, "retry": {"max_retries": 0}}]})
    with manager, Load(manager) as load:
        eventually(lambda: load.calls > 50)
        assert set(seen.first) == {first}
        second = client.write(pause=pause)
        took = eventually(lambda: second in seen.first)
        assert took < 2.0
        # All connections with the old certificate are closed soon, also those that were never idle.
        before = load.calls
        eventually(lambda: load.calls > before + 20 * THREADS)
        late: list[str] = []
        seen.note = late.append  # type: ignore[method-assign]
        eventually(lambda: len(late) > 100)
        assert set(late) == {second}
    assert load.errors == []


def test_invalid_files_leave_the_old_certificate_in_use(
    client: Authority, served: tuple[dict[str, Any], Seen], caplog: pytest.LogCaptureFixture
) -> None:
    config, seen = served
    first = client.write()
    manager: Manager[Any, Any] = Manager()
    manager.load_from_config({"plugins": [{**config, "auth": client.auth}]})
    with manager:
        manager.execute("p", 1)
        (client.folder / "cert.pem").write_text("half a certif")
        eventually(lambda: "can't be used" in caplog.text)
        manager.execute("p", 1)
        (client.folder / "key.pem").unlink()
        time.sleep(1.2)
        manager.execute("p", 1)
        assert set(seen.first) == {first}
        second = client.write()

        def is_used() -> bool:
            manager.execute("p", 1)
            return second in seen.first

        eventually(is_used)
    assert caplog.text.count("half a certif") == 0


def test_an_authority_is_replaced_under_load(client: Authority, tmp_path: Path) -> None:
    """Both authorities are trusted first, then the server's certificate changes, then the old authority is removed."""
    client.write()
    other = trustme.CA()

    def certified(authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        return context

    def answer(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            peer.send(ok(request))

    with RawServer(answer, tls=certified(client.authority)) as server:
        manager: Manager[Any, Any] = Manager()
        plugin = {
            "name": "p",
            "transport": "https",
            "endpoint": server.url,
            "auth": {"ca_file": client.auth["ca_file"]},
        }
        manager.load_from_config({"plugins": [{**plugin, "retry": {"max_retries": 0}}]})
        with manager, Load(manager) as load:
            eventually(lambda: load.calls > 50)
            before = server.connections
            both = client.authority.cert_pem.bytes() + other.cert_pem.bytes()
            (tmp_path / "ca.pem").write_bytes(both)
            eventually(lambda: server.connections >= before + THREADS)  # all reconnect
            server.tls = certified(other)  # a new context: certificate and key change together
            before = server.connections
            (tmp_path / "ca.pem").write_bytes(other.cert_pem.bytes())
            eventually(lambda: server.connections >= before + THREADS)
            before = load.calls
            eventually(lambda: load.calls > before + 50)
        assert load.errors == []


# --- tokens ------------------------------------------------------------------------------------------------------


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("tok-first\n")
    return path


def write(path: Path, text: str) -> None:
    fresh = path.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.replace(path)


def http_server(sent: list[str]) -> Any:
    def answer(peer: Peer) -> None:
        while (request := peer.read_request()) is not None:
            sent.append(request.headers["authorization"])
            peer.send(ok(request))

    server = RawServer(answer)
    return server, {"transport": "http", "endpoint": server.url}


def grpc_server(sent: list[str]) -> Any:
    def answer(request: bytes, context: Any) -> bytes:
        sent.append(dict(context.invocation_metadata())["authorization"])
        return reply(request, payload=b'"ok"')

    server = GRPCServer(answer)
    return server, {"transport": "grpc", "endpoint": server.address}


def unix_server(sent: list[str], folder: Path) -> Any:
    def answer(peer: Peer) -> None:
        while (request := read_line(peer)) is not None:
            sent.append(request["headers"]["Authorization"])
            peer.send(line_ok(request))

    path = str(folder / "s")
    return RawServer(answer, unix=path), {"transport": "unix", "endpoint": path}


def exec_program(folder: Path) -> dict[str, Any]:
    """A program that answers with the token that it received."""
    program = folder / "token.py"
    program.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    message = json.loads(line)\n"
        "    data = message.get('headers', {}).get('Authorization')\n"
        "    print(json.dumps({**message, 'success': True, 'data': data}), flush=True)\n"
    )
    return {"transport": "exec", "executable": sys.executable, "args": ["-S", "-E", str(program)]}


@pytest.mark.parametrize("wire", sample(["http", "grpc", "unix", "exec"], ["http"], pytest.mark.stress))
def test_a_token_is_read_again_when_its_file_changes(token: Path, wire: str) -> None:
    sent: list[str] = []
    server: Any = None
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        if wire == "http":
            server, config = http_server(sent)
        elif wire == "grpc":
            server, config = grpc_server(sent)
        elif wire == "unix":
            server, config = unix_server(sent, Path(folder))
        else:
            config = exec_program(Path(folder))
        manager: Manager[Any, Any] = Manager()
        auth = {"method": "bearer", "token_file": str(token)}
        manager.load_from_config({"plugins": [{"name": "p", **config, "auth": auth}]})
        with manager, Load(manager, sent.append if server is None else None) as load:
            eventually(lambda: load.calls > 20)
            write(token, "tok-second")
            assert eventually(lambda: sent[-1] == "Bearer tok-second") < 2.0
            token.write_text("")  # as a writer may for a moment
            time.sleep(1.0)
            assert sent[-1] == "Bearer tok-second"
        assert load.errors == []
        assert set(sent) == {"Bearer tok-first", "Bearer tok-second"}
        if wire == "http":
            assert server.connections <= THREADS + 1  # a new token needs no new connection
        if server is not None:
            server.close()


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", None])
def test_a_token_file_without_a_token(token: Path, content: str | None) -> None:
    if content is None:
        token.unlink()
    else:
        token.write_text(content)
    auth = {"method": "bearer", "token_file": str(token)}
    manager: Manager[Any, Any] = Manager()
    plugin = {"name": "p", "transport": "http", "endpoint": "http://127.0.0.1:1", "auth": auth}
    with pytest.raises(ConfigError, match=r"plugins\[0\]\.auth"):
        manager.load_from_config({"plugins": [plugin]})


@pytest.mark.parametrize(
    "auth", [{"method": "bearer"}, {"token_file": "x"}, {"method": "bearer", "token": "t", "token_file": "x"}]
)
def test_bearer_authentication_needs_one_token(auth: dict[str, Any]) -> None:
    manager: Manager[Any, Any] = Manager()
    plugin = {"name": "p", "transport": "http", "endpoint": "http://127.0.0.1:1", "auth": auth}
    with pytest.raises(ConfigError, match="auth"):
        manager.load_from_config({"plugins": [plugin]})


def test_a_missing_token_file_is_named() -> None:
    manager: Manager[Any, Any] = Manager()
    auth = {"method": "bearer", "token_file": "/no/such/file"}
    plugin = {"name": "p", "transport": "unix", "endpoint": "/run/x", "auth": auth}
    with pytest.raises(MissingBearerTokenError, match="/no/such/file"):
        manager.load_from_config({"plugins": [plugin]})


def test_a_plugin_keeps_no_file_open(token: Path) -> None:
    """A plugin renews its credentials on request, and keeps no file open."""
    from goplugins import PluginConfig

    before = len(os.listdir("/proc/self/fd"))
    plugin = HTTPPlugin(
        PluginConfig.from_mapping(
            {
                "name": "p",
                "transport": "http",
                "endpoint": "http://127.0.0.1:1",
                "auth": {"method": "bearer", "token_file": str(token)},
            }
        )
    )
    assert plugin.watches_credentials
    plugin.renew_credentials()
    assert len(os.listdir("/proc/self/fd")) <= before
    plugin.close()
