"""A call's headers as gRPC metadata."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from goplugins.errors import AuthConfigError, InvalidHeaderError
from goplugins.headers import check_headers
from goplugins.runtime.call import Call

__all__ = ["Metadata", "MetadataWriter"]

Metadata = tuple[tuple[str, str | bytes], ...]

_NAME = re.compile(r"[0-9a-z_.\-]+")
_OWN = frozenset({"host", "content-type", "content-length", "connection", "te", "transfer-encoding", "user-agent"})
"""Headers that are the connection's, or grpc's."""


class MetadataWriter:
    """Writes the metadata of one plugin's calls.

    Args:
        credentials: headers that no caller may override.

    Raises:
        AuthConfigError: a credential that metadata can't carry; never tells its value.
    """

    def __init__(self, credentials: Mapping[str, str]) -> None:
        try:
            written = [_pair(name, value, "auth.headers") for name, value in credentials.items()]
        except InvalidHeaderError as exc:
            raise AuthConfigError(exc.message, path="auth") from None  # the cause's frames hold the value
        self.credentials: Metadata = tuple(written)
        self._reserved = frozenset(name for name, _ in written)

    def check(self, call: Call) -> None:
        """Refuses headers that can't be sent or are not the caller's to set.

        Raises:
            InvalidHeaderError: names the header, never its value.
        """
        request_id = call.request_id
        if not (request_id.isascii() and request_id.isprintable()):
            raise InvalidHeaderError("request_id: it travels in metadata, so it must be printable ASCII")
        if call.headers:
            check_headers(call.headers)
            for name, value in call.headers.items():
                if _pair(name, value, "headers")[0] in self._reserved:
                    raise InvalidHeaderError(f"headers: {name!r} is set by auth and can't be overridden by a call")

    def metadata(self, call: Call) -> Metadata:
        """All metadata of a checked call."""
        request_id = call.request_id
        if call.headers:
            return self._merged(call)
        if call.idempotent:
            return (("x-request-id", request_id), ("idempotency-key", request_id), *self.credentials)
        return (("x-request-id", request_id), *self.credentials)

    def _merged(self, call: Call) -> Metadata:
        """A caller's own ``X-Request-ID`` replaces ours: two would contradict each other."""
        merged: dict[str, str | bytes] = {"x-request-id": call.request_id}
        if call.idempotent:
            merged["idempotency-key"] = call.request_id
        merged.update(_pair(name, value, "headers") for name, value in call.headers.items())
        return (*merged.items(), *self.credentials)


def _pair(name: str, value: str, where: str) -> tuple[str, str | bytes]:
    """One header as metadata. The value of a name that ends in ``-bin`` is base64 of the bytes that are meant."""
    lower = name.lower()
    if not _NAME.fullmatch(lower):
        raise InvalidHeaderError(f"{where}: {name!r} is no name that gRPC metadata can have")
    if lower in _OWN or lower.startswith("grpc-"):
        raise InvalidHeaderError(f"{where}: {name!r} is the connection's own and can't be set")
    if lower.endswith("-bin"):
        try:
            return lower, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise InvalidHeaderError(f"{where}[{name!r}]: the value of a -bin header is base64") from None
    if not (value.isascii() and value.isprintable()):
        raise InvalidHeaderError(f"{where}[{name!r}]: gRPC metadata can only carry printable ASCII")
    return lower, value
