"""The gRPC server of ``serve``: its threads, its certificates and its port."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import attrs

from goplugins.errors import ConfigError
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import create_lock
from goplugins.runtime.workers import WorkerPool
from goplugins.serve._addresses import check_free
from goplugins.serve._auth import Guard
from goplugins.serve._grpc_service import Service, abort_with
from goplugins.serve._served import Served, as_served
from goplugins.transports.grpc.fork_support import load
from goplugins.transports.grpc.messages import EXECUTE
from goplugins.transports.tls import read_pem

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig

_MAX_WAITING = 1000
"""Calls that may wait for a thread; further ones are refused with RESOURCE_EXHAUSTED."""

_HEALTH_THREADS = 2
"""Threads for health and info: two, so that one health check that hangs does not block the next one."""

_Handler = Callable[[bytes, Any], bytes]


@attrs.frozen
class ServerTLS:
    """The PEM files of a server.

    Attributes:
        cert_file: its certificate, with the chain.
        key_file: the private key of ``cert_file``.
        ca_file: the certificate authorities of client certificates, which are then required; not required when empty.
    """

    cert_file: str
    key_file: str
    ca_file: str = ""

    def credentials(self) -> Any:
        """The credentials for grpc.

        Raises:
            InvalidCertificateError: a file that can't be read.
        """
        pair = (read_pem(self.key_file, "key_file"), read_pem(self.cert_file, "cert_file"))
        authorities = read_pem(self.ca_file, "ca_file") if self.ca_file else None
        return load().ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)


class _BesideCalls:
    """Marks a method that runs on threads of its own: health is most important when calls keep a server busy."""

    def __init__(self, method: _Handler) -> None:
        self._method = method

    def __call__(self, request: bytes, context: Any) -> bytes:
        return self._method(request, context)


class _Threads(Executor):
    """The executor of a grpc server. Its queues are unbounded for grpc: a refused task would end grpc's own thread.

    The standard library's executor would also delay the interpreter's exit until the slowest call has ended.

    Args:
        calls: maximum calls executed at once.
        waiting: maximum calls that wait.
        tasks: maximum tasks that grpc submits at a time.
    """

    def __init__(self, calls: int, waiting: int, tasks: int) -> None:
        self._max_calls = calls + waiting
        self._calls = WorkerPool("goplugins-grpc", calls, max_queued=tasks)
        self._beside = WorkerPool("goplugins-grpc-health", _HEALTH_THREADS, max_queued=tasks)
        self._lock = create_lock(self)
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether no more calls may wait."""
        return self._count >= self._max_calls

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs a task of grpc's, which has the method among its arguments."""
        if any(type(argument) is _BesideCalls for argument in args):
            return self._beside.submit(fn, *args, **kwargs)
        with self._lock:
            self._count += 1
        future = self._calls.submit(fn, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._count -= 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuses further tasks; the threads end once their tasks are done."""
        for pool in (self._calls, self._beside):
            pool.shutdown(wait, cancel_futures=cancel_futures)


class _Handlers:
    """Maps names to methods; a :class:`grpc.GenericRpcHandler`, which can't be a base class before grpc is loaded."""

    def __init__(self, service: Service, threads: _Threads) -> None:
        handler = load().unary_unary_rpc_method_handler
        methods = {name: service.handler(name) for name in service.methods}
        self._handlers = {
            name: handler(method if name == EXECUTE else _BesideCalls(method)) for name, method in methods.items()
        }
        self._refusal = handler(_BesideCalls(_refuse))
        self._threads = threads

    def service(self, details: Any) -> Any:
        """The handler, or None for an unknown method."""
        if details.method == EXECUTE and self._threads.full:
            return self._refusal
        return self._handlers.get(details.method)


def _refuse(request: bytes, context: Any) -> bytes:
    text = f"all threads are busy, and {_MAX_WAITING} calls wait for one"
    abort_with(context, "RESOURCE_EXHAUSTED", text, (("grpc-retry-pushback-ms", "100"),))  # nothing was executed


class Server:
    """Serves gRPC: listens when made, :meth:`run` on a thread of its own, :meth:`stop` from any other.

    Args:
        plugin: a function with :func:`~goplugins.serve.plugin`, or a :class:`~goplugins.serve.Plugin`.
        address: ``host:port`` or ``unix:/path``, in grpc's syntax; port 0 takes a free one.
        auth: credentials that every call must have, health checks included.
        threads: maximum calls executed at once; further ones wait, within their callers' deadlines.
        max_request_bytes: larger requests are refused.
        tls: certificates; plaintext without.

    Attributes:
        port: the real port; 1 for a Unix socket.

    Raises:
        ConfigError: the address can't be used, or ``auth`` lacks its credentials.
        InvalidCertificateError: a certificate file that can't be used.
    """

    def __init__(
        self,
        plugin: Served,
        address: str,
        *,
        auth: AuthConfig | None = None,
        threads: int = 8,
        max_request_bytes: int = 4 * 1024 * 1024,
        tls: ServerTLS | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        as_served(plugin)
        grpc = load()
        service = Service(plugin, Guard(auth, clock=clock), clock)
        tasks = threads + 2 * _MAX_WAITING  # calls, and as many other tasks while calls are refused
        self._threads = _Threads(threads, _MAX_WAITING, tasks)
        self._stopped = False
        self._lock = create_lock(self)
        self._grace: float | None = None
        self._started = False
        self._server: Any = grpc.server(
            self._threads,
            handlers=(_Handlers(service, self._threads),),
            options=(
                ("grpc.so_reuseport", 0),  # or a second server would share the port without an error
                ("grpc.max_receive_message_length", max_request_bytes),
                ("grpc.max_send_message_length", -1),
            ),
            maximum_concurrent_rpcs=tasks,
        )
        self.port = self._bind(address, tls)

    def _bind(self, address: str, tls: ServerTLS | None) -> int:
        credentials = None if tls is None else tls.credentials()
        where = f"{'grpc' if tls is None else 'grpcs'}://{address}"
        host, _, number = address.rpartition(":")
        if number.isdigit() and int(number) and "/" not in host:
            # grpc gives no reason, and is satisfied with one of a host's several addresses.
            check_free(host.removeprefix("[").removesuffix("]"), int(number), where)
        port: int
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as exc:
            raise _cant_listen(where) from exc
        if not port:  # older versions of grpc
            raise _cant_listen(where)
        return port

    def run(self) -> None:
        """Serves until :meth:`stop`, then finishes the calls in flight."""
        with self._lock:
            if not self._stopped:
                self._server.start()
                self._started = True
        if self._started:
            self._server.wait_for_termination()
        self._threads.shutdown(wait=False)

    def stop(self, grace: float) -> None:
        """Ends :meth:`run` in ``grace`` seconds at the latest; a later call can only shorten that."""
        with self._lock:
            self._stopped = True
            if self._grace is not None and grace >= self._grace:
                return
            self._grace = grace
            if self._started:
                self._server.stop(grace)  # does not wait


def _cant_listen(where: str) -> ConfigError:
    return ConfigError(f"can't listen on {where}", fix="use a free address of this machine")
