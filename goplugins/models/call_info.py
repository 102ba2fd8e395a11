"""What interceptors see of a call, and may change."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from goplugins.errors import InvalidArgumentError
from goplugins.headers import check_headers
from goplugins.models.context import ExecutionContext, check_mapping, check_texts

__all__ = ["CallInfo"]


class _Deadline(Protocol):
    def remaining(self) -> float: ...


class CallRecord(Protocol):
    """The record of a call, as far as it is shown."""

    request: Any
    context: Any
    request_id: str
    headers: Mapping[str, str]
    metadata: Mapping[str, str]
    idempotent: bool
    key: str
    operation: str
    attempts: int
    member: str
    source: str

    @property
    def deadline(self) -> _Deadline: ...


class CallInfo:
    """A call, as its interceptors see it; see ``interceptors`` of :class:`goplugins.Manager`.

    ``headers`` and ``metadata`` can be replaced until the call is made, and are checked as a caller's are::

        call.headers = {**call.headers, "X-Tenant": tenant}

    Attributes:
        plugin: the name of the plugin.
    """

    __slots__ = ("_call", "_made", "plugin")

    def __init__(self, plugin: str, call: CallRecord) -> None:
        self.plugin = plugin
        self._call = call
        self._made = False

    @property
    def operation(self) -> str:
        """The operation of the plugin; empty for a plugin with one function."""
        return self._call.operation

    @property
    def request(self) -> Any:
        """The request, as the caller passed it."""
        return self._call.request

    @property
    def context(self) -> ExecutionContext | None:
        """The caller's context; None if the caller passed none."""
        context: ExecutionContext | None = self._call.context
        return context

    @property
    def request_id(self) -> str:
        """Identifies the call on the wire and in logs."""
        return self._call.request_id

    @property
    def remaining(self) -> float:
        """Seconds until the call's deadline; 0 once it has passed."""
        return max(0.0, self._call.deadline.remaining())

    @property
    def idempotent(self) -> bool:
        """Whether the request may take effect twice."""
        return self._call.idempotent

    @property
    def key(self) -> str:
        """Routes calls of a consistent-hash group, and is part of the cache key."""
        return self._call.key

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that are sent with the call: a view, to be replaced as a whole.

        Raises:
            InvalidArgumentError: when replaced by what is no mapping, by a header that can't be sent, or after the
                call was made.
        """
        return MappingProxyType(dict(self._call.headers))

    @headers.setter
    def headers(self, headers: Mapping[str, str]) -> None:
        self._check_open("headers")
        check_mapping("headers", headers)
        check_headers(headers)
        self._call.headers = dict(headers)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata that is sent with the call: a view, to be replaced as a whole.

        Raises:
            InvalidArgumentError: when replaced by what is no mapping of strings, or after the call was made.
        """
        return MappingProxyType(dict(self._call.metadata))

    @metadata.setter
    def metadata(self, metadata: Mapping[str, str]) -> None:
        self._check_open("metadata")
        check_texts("metadata", metadata)
        self._call.metadata = dict(metadata)

    @property
    def attempts(self) -> int:
        """How many attempts were sent so far; 0 if the answer came from a cache, or the call was refused."""
        return self._call.attempts

    @property
    def source(self) -> str:
        """The source of the answer, as in :attr:`goplugins.CallResult.source`; "plugin" until there is one."""
        return self._call.source

    @property
    def member(self) -> str:
        """The group's member that answered; empty for other plugins."""
        return self._call.member

    def _check_open(self, name: str) -> None:
        if self._made:
            raise InvalidArgumentError(f"{name}: the call has been made; set them before proceed()")

    def __repr__(self) -> str:
        operation = f" {self.operation!r}" if self.operation else ""
        return f"<CallInfo: {self.plugin!r}{operation}, request {self.request_id}>"
