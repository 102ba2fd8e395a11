"""REST as the protocol of an HTTP plugin: prepares requests, writes them, and reads the answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from goplugins.config.operations import OperationConfig, is_rest, resolve_operations
from goplugins.config.plugin import PluginConfig
from goplugins.config.problems import unknown_fix
from goplugins.errors import OperationNotFoundError
from goplugins.runtime.call import Call
from goplugins.transports.http.engine import HTTPReply
from goplugins.transports.http.request import RequestWriter, lines
from goplugins.transports.http.rest.operation import RestOperation, RestRequest
from goplugins.transports.http.rest.reply import answer_of
from goplugins.transports.http.target import Target

_ACCEPT = "application/json, */*;q=0.5"


class RestProtocol:
    """The operations of one plugin.

    Args:
        config: the plugin's.
        target: its address.
    """

    def __init__(self, config: PluginConfig, target: Target) -> None:
        base, _, query = target.path.partition("?")
        base = "" if base == "/" else base
        operations = resolve_operations(config) or {"": OperationConfig(method="POST", body="json")}
        key = target.key.partition("=")[0]
        slashes = bool(config.options.get("encoded_slashes"))
        self._operations = {
            name: RestOperation(name, each, base, query, target.origin, key, slashes=slashes)
            for name, each in operations.items()
        }
        self._headers: tuple[str, ...] = tuple(config.options.get("response_headers") or ())

    @classmethod
    def of(cls, config: PluginConfig, target: Target) -> RestProtocol | None:
        """The protocol of a plugin; None for one that speaks the envelope."""
        return cls(config, target) if is_rest(config) else None

    def prepare(self, call: Call) -> None:
        """Sets ``call.prepared`` and ``call.payload``.

        Raises:
            PluginError: the request can't be sent.
        """
        operation = self._operations.get(call.operation)
        if operation is None:
            known = ", ".join(self._operations)
            if not call.operation:
                raise OperationNotFoundError(f"the call names no operation: pass operation=, one of {known}")
            fix = unknown_fix(call.operation, self._operations, "operations")
            raise OperationNotFoundError(f"operation {call.operation!r} is not configured: {fix}")
        call.prepared = request = operation.request(call)
        call.payload = request.body or b""

    def answer(self, reply: HTTPReply, call: Call, now: float, scrub: Callable[[str], str]) -> Any:
        """The typed answer; see :func:`goplugins.transports.http.rest.reply.answer_of`."""
        return answer_of(reply, call, self._headers, now, scrub)


class RestWriter(RequestWriter):
    """Writes the prepared requests of one plugin."""

    def __init__(self, target: Target, **settings: Any) -> None:
        super().__init__(target, **settings)
        self._base = {"Accept": _ACCEPT, **self._base}
        self._target = target
        usual = self._base.copy()
        self._override(usual, self._fixed)
        self._usual_end = f" HTTP/1.1\r\nHost: {self.host}\r\n{lines(usual)}"

    def parts(self, call: Call) -> tuple[str, str, dict[str, str], bytes | None]:
        request = call.prepared
        return request.operation.method, self._path_of(request), self.headers(call), request.body

    def _path_of(self, request: RestRequest) -> str:
        return self._target.prefix + self._target.with_key(request.path)

    def headers(self, call: Call) -> dict[str, str]:
        headers = self._base.copy()
        headers["X-Request-ID"] = call.request_id
        if call.idempotent and call.prepared.operation.sends_key:
            headers["Idempotency-Key"] = call.request_id
        self._override(headers, dict(call.prepared.headers))
        if call.headers:
            self._override(headers, call.headers)
        self._override(headers, self._fixed)
        return headers

    def message(self, call: Call) -> bytes:
        request = call.prepared
        operation, body = request.operation, request.body
        if call.headers or operation.config.headers:
            return self.encode(*self.parts(call))
        key = f"Idempotency-Key: {call.request_id}\r\n" if call.idempotent and operation.sends_key else ""
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = (
            f"{operation.method} {self._path_of(request)}{self._usual_end}X-Request-ID: {call.request_id}\r\n"
            f"{lines(dict(request.headers))}{key}{length}\r\n"
        ).encode("latin-1")
        return head if not body else b"".join((head, body))
