"""Whether an endpoint is an address that its transport can call. No message repeats user info or a query."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, urlsplit

from goplugins.config.masking import MASK, mask_url
from goplugins.config.problems import Problems
from goplugins.enums import TransportType
from goplugins.errors import (
    InvalidEndpointFormatError,
    InvalidEndpointURLError,
    MissingEndpointError,
    MissingSocketPathError,
)

__all__ = ["check_endpoint", "check_health_endpoint"]

_BLANK_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f]")
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^\s:/?#@\[\]]+)):(?P<port>[0-9]{1,5})")
_HOST_ONLY = re.compile(r"\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\s:/?#@\[\]]+")
_GRPC_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
_PYTHON_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_PYTHON_TARGET = re.compile(rf"{_PYTHON_NAME}:{_PYTHON_NAME}")
_ENTRY_POINT = re.compile(r"\w[\w.-]*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_SOCKET_PATH = 107  # bytes that fit a Linux socket address, its closing zero apart


def check_endpoint(transport: TransportType, endpoint: str, problems: Problems, *, named: bool = True) -> None:
    """Notes what is wrong with ``endpoint`` as an address of ``transport``, below its field's name if ``named``."""
    check = _CHECKS.get(transport)
    if check is not None:
        check(transport, endpoint, problems.below("endpoint") if named else problems)


def check_health_endpoint(transport: TransportType, endpoint: str, problems: Problems) -> None:
    """Notes what is wrong with a ``health_check.endpoint``: a path, or on http and https a URL of the same safety."""
    if transport not in {TransportType.HTTP, TransportType.HTTPS} or endpoint.startswith("/"):
        if _BLANK_OR_CONTROL.search(endpoint):
            problems.add(InvalidEndpointURLError, "holds a space or control character", "write such characters as %20")
        return
    if "://" in endpoint:
        _check_url(transport, endpoint, problems)
    else:
        fix = "write a path that starts with /, or a whole URL"
        problems.add(InvalidEndpointURLError, "is neither a path nor a URL", fix)


def _check_http(transport: TransportType, endpoint: str, problems: Problems) -> None:
    if not endpoint:
        problems.add(MissingEndpointError, "missing", f"write the plugin's URL, such as {transport}://host/path")
    else:
        _check_url(transport, endpoint, problems)


def _check_url(transport: TransportType, endpoint: str, problems: Problems) -> None:
    def refuse(message: str, fix: str) -> None:
        problems.add(InvalidEndpointURLError, message, fix)

    example = f"write a URL such as {transport}://host:port/path"
    if _BLANK_OR_CONTROL.search(endpoint):
        return refuse("holds a space or control character", "take it out, or write it as %20")
    try:
        parts = urlsplit(endpoint)
        port_fault = _port_fault(parts)
    except ValueError:
        return refuse("is not a URL", example)
    if parts.scheme.lower() != transport or not parts.hostname:
        return _refuse_scheme(transport, parts, refuse)
    if port_fault:
        refuse("has a port that is no number from 1 to 65535", "correct the port, or leave it out")
    if "@" in parts.netloc:
        refuse("holds credentials", "take them out of the URL and set auth: method basic, username, password")
    elif MASK in endpoint:
        refuse(f"holds {MASK}, which stands for a secret that was left out", "write to_json(include_secrets=True)")
    if "#" in endpoint:
        refuse("has a fragment, which is never sent", "take out the part from # on")
    return None


def _port_fault(parts: SplitResult) -> bool:
    try:
        return parts.port == 0
    except ValueError:
        return True


def _refuse_scheme(transport: TransportType, parts: SplitResult, refuse: Callable[[str, str], None]) -> None:
    scheme = parts.scheme.lower()
    if not parts.netloc or not scheme:
        refuse("is not a whole URL", f"begin it with {transport}://host")
    elif not parts.hostname:
        refuse("names no host", f"begin it with {transport}://host")
    elif scheme == "http":
        refuse("is a plaintext URL on transport https", "write https:// here, or transport: http")
    elif scheme == "https":
        refuse("is an https:// URL on transport http", "write transport: https, or http:// here")
    else:
        refuse(f"has the scheme {scheme!r}, which transport {transport} can't call", f"begin it with {transport}://")


def _check_grpc(transport: TransportType, endpoint: str, problems: Problems) -> None:
    example = "write host:port, [v6]:port, dns:///host:port or unix:/path"

    def refuse(message: str, fix: str = example) -> None:
        problems.add(InvalidEndpointFormatError, message, fix)

    if not endpoint:
        return problems.add(MissingEndpointError, "missing", example)
    scheme, colon, rest = endpoint.partition(":")
    if _BLANK_OR_CONTROL.search(endpoint):
        return refuse("holds a space or control character")
    if rest.startswith("//") and scheme.lower() in {"http", "grpc"} and transport is TransportType.GRPC_TLS:
        return refuse("is a plaintext address on transport grpc-tls")
    if rest.startswith("//") and scheme.lower() not in _GRPC_SCHEMES:
        return refuse("is a URL, not a gRPC address")
    if colon and scheme in _GRPC_SCHEMES and not rest.isdigit():
        fault = _grpc_target_fault(scheme, rest)
    else:
        fault = _host_port_fault(endpoint)
    return refuse(fault) if fault else None


def _grpc_target_fault(scheme: str, rest: str) -> str | None:
    path = rest
    if rest.startswith("//"):
        authority, _, path = rest[2:].partition("/")
        if "@" in authority:
            return "holds credentials"
    if not path.strip("/"):
        return f"names nothing after {scheme}:"
    if scheme == "dns":
        return None if _HOST_ONLY.fullmatch(path) else _host_port_fault(path)
    return None


def _host_port_fault(text: str) -> str | None:
    found = _HOST_PORT.fullmatch(text)
    if found is None:
        return "holds credentials" if "@" in text else "is not host:port"
    return None if 0 < int(found["port"]) < 65536 else "has a port that is no number from 1 to 65535"


def _check_unix(_: TransportType, endpoint: str, problems: Problems) -> None:
    if not endpoint or endpoint == "@":
        fix = "write the socket's path, or @name for an abstract socket"
        return problems.add(MissingSocketPathError, "names no socket", fix)
    if endpoint.startswith("unix:") or "\x00" in endpoint:
        fix = "write the bare path, such as /run/plugin.sock; @name for an abstract socket"
        return problems.add(InvalidEndpointFormatError, "is not a socket's path", fix)
    if _URL.match(endpoint):
        fix = "write the bare path, such as /run/plugin.sock, or another transport"
        return problems.add(InvalidEndpointFormatError, "is a URL, not a socket's path", fix)
    length = len(os.fsencode(endpoint))
    if length > _MAX_SOCKET_PATH:
        message = f"has {length} bytes; a socket's path may have {_MAX_SOCKET_PATH}"
        return problems.add(
            InvalidEndpointFormatError, message, "use a shorter path, or a symbolic link to the directory"
        )
    return None


def _check_python(_: TransportType, endpoint: str, problems: Problems) -> None:
    fix = 'write "package.module:callable", or the name of an entry point'
    if not endpoint:
        problems.add(MissingEndpointError, "missing", fix)
    elif not (_PYTHON_TARGET if ":" in endpoint else _ENTRY_POINT).fullmatch(endpoint):
        message = f"{mask_url(endpoint)!r} names no callable"
        problems.add(InvalidEndpointFormatError, message, fix)


_Check = Callable[[TransportType, str, Problems], None]
_CHECKS: Mapping[TransportType, _Check] = {
    TransportType.HTTP: _check_http,
    TransportType.HTTPS: _check_http,
    TransportType.GRPC: _check_grpc,
    TransportType.GRPC_TLS: _check_grpc,
    TransportType.UNIX: _check_unix,
    TransportType.PYTHON: _check_python,
}
