"""A host name with several addresses: real servers on 127.0.0.2, 127.0.0.3, ..., behind a fake resolver."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from goplugins import Manager, PluginError, PluginStatus, ReloadError, serve
from goplugins.errors import CertificateError, NameResolutionError
from goplugins.runtime.scheduler import get_scheduler
from goplugins.serve import ServerTLS
from tests.integration.conformance.conftest import in_threads, join, until
from tests.processes import in_child, run
from tests.servers import Peer, RawServer, free_port, ok

HOST = "search.test"


class Names:
    """A fake of the system's resolver."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.down = False
        self.lookups = 0
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != HOST:
            return self._real(host, port, *args, **options)
        self.lookups += 1
        if self.down or not self.addresses:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names()
    monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
    return found


class Instances:
    """Servers at several addresses and one port; each answers with its address."""

    def __init__(self, tls: Callable[[], ssl.SSLContext] | None = None) -> None:
        self.port = free_port()
        self.running: dict[str, RawServer] = {}
        self.sni: list[Any] = []
        self.seconds = 0.0
        self._tls = tls

    def start(self, *addresses: str) -> None:
        for address in addresses:
            tls = None if self._tls is None else self._tls()
            if tls is not None:
                tls.sni_callback = lambda _, name, __: self.sni.append(name)
            server = RawServer(self._handler(address), host=address, bind_port=self.port, tls=tls)
            self.running[address] = server

    def _handler(self, address: str) -> Callable[[Peer], None]:
        def handle(peer: Peer) -> None:
            while (request := peer.read_request()) is not None:
                time.sleep(self.seconds)
                peer.send(ok(request, address))

        return handle

    def stop(self, *addresses: str) -> None:
        for address in addresses or list(self.running):
            self.running.pop(address).close()

    @property
    def open_now(self) -> int:
        return sum(server.open_now for server in self.running.values())


@pytest.fixture
def instances() -> Iterator[Instances]:
    made = Instances()
    yield made
    made.stop()


def connect(port: int, **sections: Any) -> Manager[str, str]:
    manager = Manager(str, str)
    manager.load_from_config(configuration(port, **sections))
    return manager


def configuration(port: int, **sections: Any) -> dict[str, Any]:
    options = {"resolve": True, "resolve_interval": 0.1, **sections.pop("options", {})}
    plugin = {
        "name": "p",
        "transport": "http",
        "endpoint": f"http://{HOST}:{port}/plugin",
        "options": options,
        "balancing": {"slow_start": 0},
        "health_check": {"enabled": False},
        "retry": {"max_retries": 3, "initial_interval": 0.02},
        **sections,
    }
    return {"plugins": [plugin], "log_level": "error"}


def spread_of(manager: Manager[str, str], calls: int) -> Counter[str]:
    return Counter(manager.execute("p", "x") for _ in range(calls))


def sockets() -> int:
    gc.collect()
    links = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _exists(fd))
    return sum(link.startswith("socket:") for link in links)


def _exists(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


# --- it is called as the host --------------------------------------------------------------------------------------


def test_each_address_gets_its_share_under_the_hosts_name(names: Names, instances: Instances) -> None:
    instances.start("127.0.0.2", "127.0.0.3", "127.0.0.4")
    names.addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    with connect(instances.port) as manager:
        assert spread_of(manager, 30) == dict.fromkeys(names.addresses, 10)
        requests = [request for server in instances.running.values() for request in server.requests]
        assert {request.headers["host"] for request in requests} == {f"{HOST}:{instances.port}"}
        assert {request.path for request in requests} == {"/plugin"}
        result = manager.execute_result("p", "x")
        assert result.member == f"p@{result.value}:{instances.port}"


def test_members_are_listed_by_name(names: Names, instances: Instances) -> None:
    instances.start("127.0.0.2", "127.0.0.3")
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    with connect(instances.port, health_check={"enabled": True, "interval": 0.1}) as manager:
        assert set(manager.list_plugins()) == {"p"}
        spread_of(manager, 10)
        members = {f"p@{address}:{instances.port}" for address in names.addresses}
        until(lambda: all(status.status is PluginStatus.HEALTHY for status in manager.health().values()), 10)
        assert set(manager.health()) == {"p", *members} == set(manager.list_plugins())
        metrics = manager.metrics()
        assert {name: metrics.plugins[name].requests_success for name in members} == dict.fromkeys(members, 5)
        assert metrics.plugins["p"].requests_success == 10
        text = str(manager.explain("p"))
        assert f"{HOST}: looked up" in text
        assert all(f"{member}: ready" in text for member in members)
        assert all(manager.explain(member).admits for member in members)
        total = metrics.requests_total
        names.addresses = ["127.0.0.3"]
        until(lambda: spread_of(manager, 2) == {"127.0.0.3": 2}, 10)
        until(lambda: set(manager.list_plugins()) == {"p", f"p@127.0.0.3:{instances.port}"}, 10)
        assert manager.metrics().requests_total >= total + 2, "counts of removed members stay in the total"


def test_the_certificate_of_each_address_is_verified_for_the_hosts_name(names: Names, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    certificate = {"name": HOST}

    def context() -> ssl.SSLContext:
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(certificate["name"]).configure_cert(found)
        return found

    instances = Instances(context)
    instances.start("127.0.0.2", "127.0.0.3")
    certificate["name"] = "other.test"
    instances.start("127.0.0.4")
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    where = {"transport": "https", "endpoint": f"https://{HOST}:{instances.port}/", "auth": {"ca_file": str(ca_file)}}
    try:
        with connect(instances.port, **where) as manager:
            assert set(spread_of(manager, 10)) == {"127.0.0.2", "127.0.0.3"}
            assert set(instances.sni) == {HOST}
            names.addresses = ["127.0.0.4"]
            until(lambda: refused_for_its_certificate(manager), 10)
    finally:
        instances.stop()


def refused_for_its_certificate(manager: Manager[str, str]) -> bool:
    try:
        assert manager.execute("p", "x") in {"127.0.0.2", "127.0.0.3"}
    except CertificateError:
        return True
    return False


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_grpc_calls_each_address_under_the_hosts_name(names: Names, tmp_path: Path, secure: bool) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert(HOST)
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    tls = ServerTLS(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")) if secure else None
    port = free_port()
    addresses = ["127.0.0.2", "127.0.0.3"]
    servers = [grpc_instance(address, port, tls) for address in addresses]
    names.addresses = addresses
    where: dict[str, Any] = {"transport": "grpc", "endpoint": f"{HOST}:{port}"}
    if secure:
        where |= {"transport": "grpc-tls", "auth": {"ca_file": str(tmp_path / "ca.pem")}}
    try:
        with connect(port, **where) as manager:
            assert spread_of(manager, 10) == dict.fromkeys(addresses, 5)
            names.addresses = ["127.0.0.3"]
            until(lambda: spread_of(manager, 2) == {"127.0.0.3": 2}, 10)
    finally:
        for server in servers:
            server.stop()


def grpc_instance(address: str, port: int, tls: ServerTLS | None) -> Any:
    @serve.plugin(name="search")
    def search(request: str) -> str:
        return address

    return serve.start(search, f"{'grpc' if tls is None else 'grpcs'}://{address}:{port}", tls=tls)


# --- it follows ----------------------------------------------------------------------------------------------------


def test_no_call_fails_when_the_addresses_change(names: Names, instances: Instances) -> None:
    instances.seconds = 0.002
    instances.start("127.0.0.2", "127.0.0.3")
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    connection = {"max_connections": 8, "max_idle_connections": 8}
    with connect(instances.port, connection=connection) as manager:
        served: Counter[str] = Counter()
        errors: list[PluginError] = []
        stop, lock = threading.Event(), threading.Lock()

        def work(_: int) -> None:
            while not stop.is_set():
                try:
                    answer = manager.execute("p", "x", idempotent=True)
                except PluginError as error:
                    errors.append(error)
                else:
                    with lock:
                        served[answer] += 1

        def served_only_by(*addresses: str) -> bool:
            served.clear()
            until(lambda: served.total() >= 100, 20)
            return set(served) == set(addresses)

        threads = in_threads(8, work)
        try:
            until(lambda: served_only_by("127.0.0.2", "127.0.0.3"), 20)
            # One is added; one is removed; one is removed after its end; then all change.
            instances.start("127.0.0.4")
            names.addresses = ["127.0.0.4", "127.0.0.3", "127.0.0.2"]
            until(lambda: served_only_by("127.0.0.2", "127.0.0.3", "127.0.0.4"), 20)
            names.addresses = ["127.0.0.3", "127.0.0.4"]
            until(lambda: served_only_by("127.0.0.3", "127.0.0.4"), 20)
            until(lambda: instances.running["127.0.0.2"].open_now == 0, 20)
            instances.stop("127.0.0.2", "127.0.0.3")
            names.addresses = ["127.0.0.4"]
            until(lambda: served_only_by("127.0.0.4"), 20)
            instances.start("127.0.0.2", "127.0.0.5")
            names.addresses = ["127.0.0.2", "127.0.0.5"]
            until(lambda: served_only_by("127.0.0.2", "127.0.0.5"), 20)
        finally:
            stop.set()
            join(threads)
        assert [str(error) for error in errors] == []
        assert manager.metrics().plugins["p"].active_requests == 0


def test_a_call_that_can_not_connect_finds_the_services_new_address(names: Names, instances: Instances) -> None:
    instances.start("127.0.0.2")
    names.addresses = ["127.0.0.2"]
    with connect(instances.port, options={"resolve_interval": 60}) as manager:
        assert manager.execute("p", "x") == "127.0.0.2"
        time.sleep(1.0)  # the minimum pause between two lookups
        instances.stop("127.0.0.2")
        instances.start("127.0.0.3")
        names.addresses = ["127.0.0.3"]
        assert manager.execute("p", "x", idempotent=True) == "127.0.0.3"
        assert names.lookups == 2


def test_failed_lookups_keep_the_members(names: Names, instances: Instances) -> None:
    instances.start("127.0.0.2", "127.0.0.3")
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    with connect(instances.port) as manager:
        spread_of(manager, 2)
        names.down = True
        lookups = names.lookups

        def has_resolved_again() -> bool:
            assert spread_of(manager, 10) == {"127.0.0.2": 5, "127.0.0.3": 5}
            return names.lookups > lookups + 2

        until(has_resolved_again, 10)
        assert "Temporary failure in name resolution" in str(manager.explain("p"))
        names.down = False
        names.addresses = ["127.0.0.3"]
        until(lambda: spread_of(manager, 2) == {"127.0.0.3": 2}, 10)
        assert "Temporary failure" not in str(manager.explain("p"))


def test_a_name_without_an_address_raises_within_the_timeout(names: Names) -> None:
    with connect(1) as manager:
        with pytest.raises(NameResolutionError, match="Temporary failure") as caught:
            manager.execute("p", "x", timeout=2)
        assert caught.value.attempts == 4
        found = manager.health()["p"]
        assert found.status is not PluginStatus.HEALTHY
        assert "Temporary failure" in found.message
        assert "not found yet" in str(manager.explain("p"))


# --- it leaves nothing behind --------------------------------------------------------------------------------------


def test_shutdown_leaves_no_tasks_and_no_sockets(names: Names, instances: Instances) -> None:
    instances.start("127.0.0.2", "127.0.0.3", "127.0.0.4")
    names.addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    until(lambda: instances.open_now == 0, 10)
    tasks, before = get_scheduler().scheduled, sockets()
    manager = connect(instances.port, health_check={"enabled": True, "interval": 0.1})
    assert get_scheduler().scheduled <= tasks, "nothing runs before the first call"
    spread_of(manager, 9)
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    until(lambda: "127.0.0.4" not in spread_of(manager, 9), 10)
    until(lambda: get_scheduler().scheduled > tasks, 10)
    manager.shutdown()
    assert get_scheduler().scheduled <= tasks
    until(lambda: instances.open_now == 0, 10)
    until(lambda: sockets() <= before, 10)


def test_a_reload_replaces_the_group_with_its_members(names: Names, instances: Instances) -> None:
    instances.start("127.0.0.2", "127.0.0.3")
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    health = {"enabled": True, "interval": 0.1, "endpoint": "/health"}
    with connect(instances.port, health_check=health) as manager:
        spread_of(manager, 4)
        members = [
            f"p@{address}:{instances.port}" for address in names.addresses
        ]  # whose checks are the last tasks that the first call leads to
        until(lambda: all(manager._lifecycle.maintenance.monitor.get_status(name) for name in members), 10)
        tasks = get_scheduler().scheduled
        wires = {name: member.sender for name, member in manager._lifecycle.maintenance.members.items()}
        assert len(wires) == 2
        in_place = configuration(instances.port, health_check=health, circuit_breaker={"failure_threshold": 50})
        report = manager.reload_config(in_place)
        assert [str(outcome.action) for outcome in report.plugins] == ["updated"]
        assert {name: member.sender for name, member in manager._lifecycle.maintenance.members.items()} == wires
        spread_of(manager, 4)
        other = configuration(instances.port, health_check=health, connection={"max_connections": 3})
        manager.reload_config(other)
        assert spread_of(manager, 4) == {"127.0.0.2": 2, "127.0.0.3": 2}
        until(lambda: get_scheduler().scheduled <= tasks, 10)
        names.down = True
        with pytest.raises(ReloadError, match="Temporary failure"):
            manager.reload_config(configuration(instances.port, connection={"max_connections": 4}))
        assert spread_of(manager, 4) == {"127.0.0.2": 2, "127.0.0.3": 2}
        names.down = False
        checked = {name: status.last_check for name, status in manager.health().items() if name != "p"}
        assert len(checked) == 2
        until(lambda: all(manager.health()[name].last_check > seen for name, seen in checked.items()), 10)


def fork_with_members(port: int) -> Any:
    names = Names()
    names.addresses = ["127.0.0.2", "127.0.0.3"]
    socket.getaddrinfo = names.getaddrinfo  # type: ignore[assignment]
    with connect(port) as manager:
        spread_of(manager, 4)

        def child() -> Any:
            before = sorted(spread_of(manager, 10))
            names.addresses = ["127.0.0.3"]
            until(lambda: spread_of(manager, 2) == {"127.0.0.3": 2}, 5)
            return before

        return in_child(child), sorted(spread_of(manager, 10))


def test_a_forked_child_calls_the_members_and_follows_the_addresses(instances: Instances) -> None:
    instances.start("127.0.0.2", "127.0.0.3")
    both = ["127.0.0.2", "127.0.0.3"]
    assert run(fork_with_members, instances.port) == [both, both]
