"""HTTP requests with the headers of ``auth.provider``, which each attempt gets anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from goplugins.headers import is_of_connection
from goplugins.runtime.call import Call
from goplugins.transports.http.request import RequestWriter
from goplugins.transports.http.target import Target
from goplugins.transports.provider import Provider, merged


class SigningWriter:
    """Writes what another writer writes, signed. See :class:`goplugins.transports.http.request.RequestWriter`.

    Args:
        writer: writes the requests.
        provider: signs them.
        target: of the plugin.
        remember: gets the headers of a health check, to keep them out of texts.
    """

    def __init__(
        self,
        writer: RequestWriter,
        provider: Provider,
        target: Target,
        remember: Callable[[Mapping[str, str]], object],
    ) -> None:
        self._writer = writer
        self._provider = provider
        self._target = target
        self._remember = remember
        self.health_path = writer.health_path
        self.encode = writer.encode
        self.check = writer.check

    def parts(self, call: Call) -> tuple[str, str, dict[str, str], bytes | None]:
        """Method, path, headers and body; sets ``call.signed``."""
        method, path, headers, body = self._writer.parts(call)
        call.signed = signed = self._sign(call.operation, method, path, headers, body or b"")
        return method, path, merged(headers, signed), body

    def message(self, call: Call) -> bytes:
        return self.encode(*self.parts(call))

    @property
    def health_headers(self) -> Mapping[str, str]:
        headers = self._writer.health_headers
        signed = self._sign("", "GET", self.health_path, headers, b"")
        self._remember(signed)
        return merged(headers, signed)

    @property
    def health_message(self) -> bytes:
        return self.encode("GET", self.health_path, self.health_headers)

    def _sign(self, operation: str, method: str, path: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
        target = self._target
        url = target.origin + path.removeprefix(target.prefix)
        signed = self._provider.headers(operation, method, url, {"Host": self._writer.host, **headers}, body)
        for name in signed:
            if is_of_connection(name):
                self._provider.refuse(name)
        return signed
