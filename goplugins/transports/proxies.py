"""Proxies: from the options of a plugin, or from the environment if the plugin trusts it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from goplugins.errors import InvalidConfigError, PluginError

_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>[0-9]+)")
"""Host and port; the host of an IPv6 address with a port is in brackets."""


def parse_proxy(url: str, path: str, origin: str = "") -> SplitResult:
    """A proxy's URL.

    Args:
        url: may leave out ``http://``.
        path: the configuration field that decides.
        origin: the environment variable that names the proxy; empty for none.

    Raises:
        InvalidConfigError: it is no ``http://`` URL. The message does not repeat it: it may hold a password.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme == "http" and parts.hostname and parts.port != 0:
            return parts
    except (ValueError, TypeError):
        pass
    name = f"{origin} " if origin else ""
    raise InvalidConfigError(
        f"{name}is not an http:// URL of a proxy", path=path, fix="write a URL such as http://host:3128"
    )


def proxy_of_environment(
    host: str, port: int, schemes: Sequence[str], exceptions: Sequence[str] = ("no",)
) -> SplitResult | None:
    """The proxy that the environment names for a host, or None.

    Args:
        host: name or IP address, without brackets.
        port: to connect to.
        schemes: of the variables, such as ``https`` for HTTPS_PROXY, the first of which counts that is set.
        exceptions: of the variables that list hosts without a proxy, such as ``no`` for NO_PROXY.

    Raises:
        InvalidConfigError: the variable holds something else than an ``http://`` URL.
    """
    excluded = next((value for scheme in exceptions if (value := _variable(scheme)[1])), "")
    if any(_matches(entry, host.lower().rstrip("."), port) for entry in re.split(r"[\s,]+", excluded) if entry):
        return None
    for scheme in schemes:
        name, url = _variable(scheme)
        if url:
            return parse_proxy(url, "options.trust_env", name)
    return None


def mention_proxy(error: PluginError, proxy: str) -> None:
    """Adds to an error of an exchange that a proxy, of this URL without credentials, was between."""
    if "proxy" not in error.details:
        error.details["proxy"] = proxy
        error.message = f"{error.message} (through the proxy {proxy})"


def _variable(scheme: str) -> tuple[str, str]:
    """Name and value of a variable; the lower-case name wins."""
    name = f"{scheme}_proxy"
    if name not in os.environ:
        # A CGI server makes HTTP_PROXY of a request's header "Proxy".
        name = name.upper()
        if name == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ:
            return name, ""
    return name, os.environ.get(name, "").strip()


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY covers the host: ``*``, a domain, an address or a network, perhaps with a port.

    >>> [_matches(entry, "api.example.com", 443) for entry in ("*", "example.com", ".example.com", "*.example.com:443")]
    [True, True, True, True]
    >>> [_matches(entry, "api.example.com", 443) for entry in ("ample.com", "example.com:80", "api", "10.0.0.0/8")]
    [False, False, False, False]
    >>> [_matches(entry, "10.1.2.3", 80) for entry in ("10.0.0.0/8", "10.1.2.3:80", "10.1.2", "::ffff:10.1.2.3")]
    [True, True, False, True]
    """
    found = _PORT.fullmatch(entry)
    if found is not None:
        if int(found["port"]) != port:
            return False
        entry = found["host"]
    entry = entry.strip("[]").lower().rstrip(".")
    if entry == "*":
        return True
    address = _address(host)
    if address is None:
        domain = entry.removeprefix("*").lstrip(".")
        return bool(domain) and (host == domain or host.endswith(f".{domain}"))
    try:
        network = ipaddress.ip_network(entry.replace("]", ""), strict=False)
    except ValueError:
        return False
    single = _address(entry)
    return address == single if single is not None else address in network


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
