"""An OpenAPI document to the configuration of a plugin."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import attrs

from goplugins.config.openapi.document import Node, open_document, place, printable, refuse
from goplugins.config.openapi.names import variable_name
from goplugins.config.openapi.operations import Operation, Warn, operations_of
from goplugins.config.openapi.security import auth_of
from goplugins.errors import ConfigError, InvalidConfigError

_VARIABLE = re.compile(r"\{([^{}]*)\}")
_PLAIN = re.compile(r"(\$\{[^}:]*:)?http://", re.IGNORECASE)
"""A URL without TLS, or a variable whose default is one."""


@attrs.frozen(eq=False)
class Imported:
    """What was read from a specification.

    Attributes:
        plugin: the plugin's configuration.
        operations: those that it has.
        root: the document.
        warnings: what could not be expressed: an operation (or another part) and the reason.
    """

    plugin: dict[str, Any]
    operations: tuple[Operation, ...]
    root: Node
    warnings: tuple[tuple[str, str], ...]


def import_document(values: Any, name: str, *, source: str, endpoint: str = "", expect_404: bool = False) -> Imported:
    """The configuration of a plugin that calls the service of a specification.

    Args:
        values: of the document, as JSON has them.
        name: of the plugin.
        source: the document's file, for messages.
        endpoint: URL of the service, in place of the first server of the document.
        expect_404: a documented 404 of a GET is the answer null.

    Raises:
        ConfigError: with all problems of the document.
    """
    problems: list[ConfigError] = []
    try:
        imported = _import(values, name, endpoint, problems, expect_404=expect_404)
        if not problems:
            return imported
    except ConfigError as exc:
        problems.extend(exc.problems)
    raise InvalidConfigError.of(problems, source)


def _import(values: Any, name: str, endpoint: str, problems: list[ConfigError], *, expect_404: bool) -> Imported:
    document, newer = open_document(values)
    root = document.root
    warnings: dict[tuple[str, str], None] = {("openapi", text): None for text in newer}

    def warn(where: str, text: str) -> None:
        warnings[where, text] = None

    prefix = variable_name(name)
    url, servers = _server(root, prefix, endpoint, warn)
    operations = tuple(operations_of(root, servers, warn, problems, expect_404=expect_404))
    if not operations and not problems:
        refuse(("paths",), "has no operation to import", "pass a specification with paths")
    if root.get("webhooks") is not None:
        warn("webhooks", "are calls to you, which are not imported")
    auth = auth_of(root, operations, prefix, url, warn)
    transport = "http" if _PLAIN.match(url) else "https"
    plugin: dict[str, Any] = {"name": name, "transport": transport, "endpoint": url}
    if auth:
        plugin["auth"] = auth
    plugin["operations"] = {each.name: each.config() for each in operations}
    return Imported(plugin, operations, root, tuple(warnings))


def _server(root: Node, prefix: str, endpoint: str, warn: Warn) -> tuple[str, tuple[str, ...]]:
    """The endpoint, or else the URL of the first server, and how the document writes this server.

    Raises:
        InvalidConfigError: a variable of the URL has no default.
    """
    servers = root.items("servers")
    if endpoint:
        return endpoint.rstrip("/"), (endpoint.rstrip("/"), *(server.text("url").rstrip("/") for server in servers[:1]))
    if not servers:
        warn("servers", f"there are none: set the variable {prefix}_URL to the URL of the service")
        return f"${{{prefix}_URL}}", ()
    if len(servers) > 1:
        others = ", ".join(printable(server.text("url")) for server in servers[1:])
        warn("servers", f"the first one is the endpoint, not {others}")
    server = servers[0]
    written = server.text("url").rstrip("/")
    variables = server.table("variables")

    def default(match: re.Match[str]) -> str:
        variable = variables.get(match[1])
        value = variable.value.get("default") if variable is not None and isinstance(variable.value, dict) else None
        if not isinstance(value, str | int | float):
            refuse(
                (*server.path, "url"),
                f"its variable {printable(match[1])!r} has no default that is a text or a number",
                "write variables: {NAME: {default: VALUE}}, or use --endpoint URL",
            )
        return str(value)

    url = _VARIABLE.sub(default, written)
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError:
        refuse((*server.path, "url"), f"{printable(url)!r} is not a URL", "correct it, or use --endpoint URL")
    if scheme in {"http", "https"}:
        return url, (written, url)
    if scheme or url.startswith("//"):
        refuse((*server.path, "url"), f"{printable(url)!r} is no URL with http or https", "use --endpoint URL")
    where = place((*server.path, "url"))
    variable = f"{prefix}_URL"
    warn(where, f"{printable(url) or '/'!r} has no host: set the variable {variable} to https://HOST of the service")
    return f"${{{variable}}}{'' if not url or url.startswith('/') else '/'}{url}", (written, url)
