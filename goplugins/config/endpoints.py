"""Endpoints: the address of a plugin, parsed and checked for its transport.

No message repeats user info or a query: either may hold a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import SplitResult, urlsplit

import attrs

from goplugins.config.field_types import NO_SURROGATE, surrogate_fault
from goplugins.config.masking import MASK, mask_url
from goplugins.config.problems import Problems
from goplugins.enums import TransportType
from goplugins.errors import (
    ConfigError,
    InvalidConfigError,
    InvalidEndpointFormatError,
    InvalidEndpointURLError,
    MissingEndpointError,
    MissingSocketPathError,
)

DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
"""The port of a URL that names none, by its scheme."""

_BLANK_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f]")
_ZONE = r"(?:%[\w.-]+)?"
_HOST = rf"\[(?P<v6>[0-9A-Fa-f:.]+{_ZONE})\]|(?P<host>[^\s:/?#@\[\]]+)"
_HOST_PORT = re.compile(rf"(?:{_HOST})(?::(?P<port>[0-9]{{1,5}}))?")
_GRPC_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
_PYTHON_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_PYTHON_TARGET = re.compile(rf"{_PYTHON_NAME}:{_PYTHON_NAME}")
_ENTRY_POINT = re.compile(r"\w[\w.-]*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path on Linux: ``sun_path`` has 108, one of them for the closing zero."""

_BAD_PORT = "has a port that is not a number from 1 to 65535"
_GRPC_FIX = "write host:port, [v6]:port, dns:///host:port or unix:/path"


@attrs.frozen
class Endpoint:
    """One endpoint, parsed. Fields that the transport's addresses do not have are empty.

    Attributes:
        text: the endpoint as it was written.
        scheme: scheme of a URL, in lower case; resolver of a gRPC target such as ``dns``. Empty for ``host:port``.
        authority: host and port as they were written; the name server of a gRPC target that has a scheme.
        host: host name in lower case, or IP address without brackets. Empty if there is none, or more than one.
        port: None if the text names none; see :attr:`effective_port`.
        path: path of a URL, as it was written; empty, or starts with ``/``.
        query: what follows the ``?`` of a URL.
        socket_path: path of a Unix socket; on transport unix ``@name`` is an abstract one.
    """

    text: str
    scheme: str = ""
    authority: str = ""
    host: str = ""
    port: int | None = None
    path: str = ""
    query: str = ""
    socket_path: str = ""

    @classmethod
    def parse(cls, transport: TransportType, text: str, *, listen: bool = False) -> Endpoint:
        """Parses an address that ``transport`` can call.

        Args:
            transport: decides which form of address is expected.
            text: the endpoint.
            listen: the address is one to listen at, so that port 0 (any free port) is accepted.

        Raises:
            ConfigError: the text is not such an address; ``path`` is ``endpoint``.

        >>> Endpoint.parse(TransportType.HTTPS, "https://Search.example.com/v1?k=1").host
        'search.example.com'
        >>> Endpoint.parse(TransportType.GRPC, "[::1]:50051").port
        50051
        """
        parse = _PARSERS.get(transport)
        endpoint = cls(text) if parse is None else parse(transport, text, 0 if listen else 1)
        if transport is not TransportType.UNIX and (fault := surrogate_fault(text)):
            is_url = transport in {TransportType.HTTP, TransportType.HTTPS}
            raise _error(fault, NO_SURROGATE, InvalidEndpointURLError if is_url else InvalidEndpointFormatError)
        return endpoint

    @property
    def effective_port(self) -> int | None:
        """The port that connections go to: that of the scheme where the text names none."""
        return DEFAULT_PORTS.get(self.scheme) if self.port is None else self.port

    @property
    def host_to_look_up(self) -> tuple[str, int] | None:
        """Host name and port for a lookup; None if there are none, or gRPC resolves the name (``dns:...``)."""
        port = self.effective_port
        if not self.host or port is None or (self.scheme and self.scheme not in DEFAULT_PORTS):
            return None
        return self.host, port

    @property
    def label(self) -> str:
        """A short name: host, port and path of a URL, else the whole text; without user info and query.

        >>> Endpoint.parse(TransportType.HTTPS, "https://10.0.0.7:8443/v1/").label
        '10.0.0.7:8443/v1'
        """
        if self.scheme and self.authority:
            return self.authority + self.path.rstrip("/")
        return str(mask_url(self.text))


def check_endpoint(transport: TransportType, endpoint: str, problems: Problems) -> None:
    """Adds what is wrong with ``endpoint`` as an address of ``transport``; ``problems`` are those of its field."""
    try:
        Endpoint.parse(transport, endpoint)
    except ConfigError as exc:
        for problem in exc.problems:
            problems.add(type(problem), problem.message, problem.fix)


def check_health_endpoint(transport: TransportType, endpoint: str, problems: Problems) -> None:
    """Adds what is wrong with ``health_check.endpoint``: on http and https a path or a URL, else a service's name."""
    if transport not in {TransportType.HTTP, TransportType.HTTPS} or endpoint.startswith("/"):
        if _BLANK_OR_CONTROL.search(endpoint):
            fix = "percent-encode it: a space is %20"
            problems.add(InvalidEndpointURLError, "contains a space or a control character", fix)
        return
    if "://" in endpoint:
        check_endpoint(transport, endpoint, problems)
    else:
        fix = "write a path that starts with /, or a whole URL"
        problems.add(InvalidEndpointURLError, "is neither a path nor a URL", fix)


def _error(message: str, fix: str, kind: type[ConfigError] = InvalidEndpointFormatError) -> ConfigError:
    return kind(message, path="endpoint", fix=fix)


# --- URLs --------------------------------------------------------------------------------------------------------


def _parse_url(transport: TransportType, text: str, lowest_port: int) -> Endpoint:
    if not text:
        raise _error("missing", f"write the plugin's URL, such as {transport}://host/path", MissingEndpointError)
    if _BLANK_OR_CONTROL.search(text):
        raise _url_error("contains a space or a control character", "remove it, or percent-encode it: a space is %20")
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError:
        raise _url_error("is not a URL", f"write a URL such as {transport}://host:port/path") from None
    if not parts.scheme or "://" not in text:
        raise _error("is not a complete URL", f"start it with {transport}://host")
    if not host:
        raise _url_error("has no host", f"start it with {transport}://host")
    if parts.scheme != transport:
        raise _url_error(*_scheme_fault(transport, parts))
    port = _port_of(parts)
    faults = list(_url_faults(text, parts))
    if port is not None and port < lowest_port:
        faults.append(_url_error(_BAD_PORT, "correct the port, or leave it out"))
    if faults:
        raise InvalidConfigError.of(faults)
    return Endpoint(text, parts.scheme, parts.netloc, host, port, parts.path, parts.query)


def _url_error(message: str, fix: str) -> ConfigError:
    return _error(message, fix, InvalidEndpointURLError)


def _url_faults(text: str, parts: SplitResult) -> Iterator[ConfigError]:
    """What a URL must not contain."""
    if "@" in parts.netloc:
        fix = "remove them from the URL and set auth: method basic, username and password"
        yield _url_error("contains credentials", fix)
    elif MASK in text:
        fix = "write the secret itself, or export the configuration by to_json(include_secrets=True)"
        yield _url_error(f"contains {MASK}, the placeholder of a secret that was masked", fix)
    if "#" in text:
        yield _url_error("has a fragment, which is never sent", "remove the # and what follows it")


def _port_of(parts: SplitResult) -> int | None:
    """The port of a URL; -1 for one that is not a number or too large."""
    try:
        return parts.port
    except ValueError:
        return -1


def _scheme_fault(transport: TransportType, parts: SplitResult) -> tuple[str, str]:
    """What is wrong with the scheme of a URL, and the fix."""
    if parts.scheme == "http":
        return "is a plaintext URL on transport https", "write https:// here, or transport: http"
    if parts.scheme == "https":
        return "is an https:// URL on transport http", "write transport: https, or http:// here"
    return f"has the scheme {parts.scheme!r}, which transport {transport} can't call", f"start it with {transport}://"


# --- gRPC --------------------------------------------------------------------------------------------------------


def _parse_grpc(transport: TransportType, text: str, lowest_port: int) -> Endpoint:
    if not text:
        raise _error("missing", _GRPC_FIX, MissingEndpointError)
    scheme, colon, rest = text.partition(":")
    if _BLANK_OR_CONTROL.search(text):
        raise _error("contains a space or a control character", _GRPC_FIX)
    if rest.startswith("//") and scheme.lower() in {"http", "grpc"} and transport is TransportType.GRPC_TLS:
        raise _error("is a plaintext address on transport grpc-tls", _GRPC_FIX)
    if rest.startswith("//") and scheme.lower() not in _GRPC_SCHEMES:
        raise _error("is a URL, not a gRPC address", _GRPC_FIX)
    if colon and scheme in _GRPC_SCHEMES and not rest.isdigit():  # "dns:50051" is a host called dns
        return _parse_grpc_target(text, scheme, rest, lowest_port)
    host, port = _host_and_port(text, lowest_port)
    if port is None:
        raise _error("is not host:port", _GRPC_FIX)
    return Endpoint(text, authority=text, host=host, port=port)


def _parse_grpc_target(text: str, scheme: str, rest: str, lowest_port: int) -> Endpoint:
    """A target with a scheme of https://github.com/grpc/grpc/blob/master/doc/naming.md."""
    authority, path = "", rest
    if rest.startswith("//"):
        authority, _, path = rest[2:].partition("/")
        if "@" in authority:
            raise _error("contains credentials", _GRPC_FIX)
    if not path.strip("/"):
        raise _error(f"has nothing after {scheme}:", _GRPC_FIX)
    if scheme in {"unix", "unix-abstract"}:
        return Endpoint(text, scheme, socket_path=rest.removeprefix("//"))
    host, port = "", None
    if scheme in {"dns", "ipv4", "ipv6"}:
        try:
            host, port = _host_and_port(path, lowest_port)
        except ConfigError:
            if scheme == "dns":  # the others may be lists of addresses
                raise
    return Endpoint(text, scheme, authority, host, port, f"/{path}")


def _host_and_port(text: str, lowest_port: int) -> tuple[str, int | None]:
    found = _HOST_PORT.fullmatch(text)
    if found is None:
        raise _error("contains credentials" if "@" in text else "is not host:port", _GRPC_FIX)
    name, percent, zone = (found["v6"] or found["host"]).partition("%")
    port = None if found["port"] is None else int(found["port"])
    if port is not None and not lowest_port <= port < 65536:
        raise _error(_BAD_PORT, _GRPC_FIX)
    return name.lower() + percent + zone, port


# --- Unix sockets and Python objects -----------------------------------------------------------------------------


def _parse_unix(_: TransportType, text: str, __: int) -> Endpoint:
    path_fix = "write the path alone, such as /run/plugin.sock"
    if not text or text == "@":
        fix = "write the socket's path, or @name for an abstract socket"
        raise _error("names no socket", fix, MissingSocketPathError)
    if text.startswith("unix:") or "\x00" in text:
        raise _error("is not a socket's path", f"{path_fix}; @name for an abstract socket")
    if _URL.match(text):
        raise _error("is a URL, not a socket's path", f"{path_fix}, or another transport")
    length = len(os.fsencode(text))
    if length > _MAX_SOCKET_PATH:
        fix = "use a shorter path, or a symbolic link to the directory"
        raise _error(f"has {length} bytes; a socket's path can have at most {_MAX_SOCKET_PATH}", fix)
    return Endpoint(text, socket_path=text)


def _parse_python(_: TransportType, text: str, __: int) -> Endpoint:
    fix = 'write "package.module:callable", or the name of an entry point'
    if not text:
        raise _error("missing", fix, MissingEndpointError)
    if not (_PYTHON_TARGET if ":" in text else _ENTRY_POINT).fullmatch(text):
        raise _error(f"{mask_url(text)!r} is not the name of a callable", fix)
    return Endpoint(text)


_PARSERS: Mapping[TransportType, Callable[[TransportType, str, int], Endpoint]] = {
    TransportType.HTTP: _parse_url,
    TransportType.HTTPS: _parse_url,
    TransportType.GRPC: _parse_grpc,
    TransportType.GRPC_TLS: _parse_grpc,
    TransportType.UNIX: _parse_unix,
    TransportType.PYTHON: _parse_python,
}
