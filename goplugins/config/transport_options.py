"""The built-in transports: which factory builds them, and what their ``options`` may hold.

A new option is one line in :data:`OPTIONS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goplugins.config.field_types import Choice, Duration, Flag, Rule, Text, Texts, Whole
from goplugins.config.problems import Problems, unknown_fix
from goplugins.config.sizes import Size
from goplugins.enums import TransportType
from goplugins.errors import ConfigError, InvalidConfigError

BUILT_IN_KINDS: Mapping[TransportType, str] = {
    TransportType.HTTP: "http",
    TransportType.HTTPS: "http",
    TransportType.GRPC: "grpc",
    TransportType.GRPC_TLS: "grpc",
    TransportType.UNIX: "unix",
    TransportType.EXECUTABLE: "exec",
    TransportType.PYTHON: "python",
}
"""The factory for plugins of each transport that have no ``type``."""

DEFAULT_RESOLVE_INTERVAL = 30.0
"""Seconds between two lookups of a host name, where ``options.resolve_interval`` is left out."""

OPTIONS: Mapping[str, Mapping[str, Rule]] = {
    "http": {
        "encoded_slashes": Flag(),
        "engine": Choice(("fast", "requests")),
        # Unlike in endpoints, credentials are accepted: a proxy's URL is where they belong.
        "protocol": Choice(("envelope", "rest")),
        "proxy": Text(r"http://[^\s/?#]+/?", "the http:// URL of a proxy", "http://proxy.example.com:3128"),
        "resolve": Flag(),
        "resolve_interval": Duration(),
        "response_headers": Texts(Text(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", "a name of a header", "ETag")),
        "trust_env": Flag(),
    },
    "grpc": {
        "method": Text(r"/[A-Za-z_][\w.]*/[A-Za-z_]\w*", "a method's full name", "/pkg.Service/Method"),
        "resolve": Flag(),
        "resolve_interval": Duration(),
        "trust_env": Flag(),
    },
    "unix": {},
    "exec": {
        "inherit_env": Flag(),
        "sha256": Text(r"[0-9a-fA-F]{64}", "a SHA-256 of 64 hexadecimal digits"),
        "max_memory": Size(),
        "max_cpu_seconds": Whole(low=1),
        "max_open_files": Whole(low=1),
    },
    "python": {"isolate": Flag()},
}
"""Factory -> option -> accepted values. Options of other factories are not checked."""


def kind_of_plugin(type_name: str | None, transport: TransportType | None) -> str | None:
    """The factory's name: ``type``, else the built-in one of the transport."""
    return type_name or (BUILT_IN_KINDS.get(transport) if transport is not None else None)


def read_options(fields: Mapping[str, Any], *, text: bool) -> tuple[Mapping[str, Any], list[ConfigError]]:
    """Reads the known options among a plugin's raw fields; returns the fields and errors below ``options``.

    Unknown options stay as they are: a custom factory may use them. :func:`check_options` reports the others.
    """
    options = fields.get("options")
    if not isinstance(options, Mapping):
        return fields, []
    known = OPTIONS.get(_kind_of_fields(fields) or "", {})
    read: dict[str, Any] = {}
    errors: list[ConfigError] = []
    for name, value in options.items():
        rule = known.get(name)
        try:
            if rule is None:
                read[name] = value
            elif value is not None:
                read[name] = rule.read(value, text=text)
        except ConfigError as exc:
            errors.append(type(exc)(exc.message, path=f"options.{name}", fix=exc.fix))
    return {**fields, "options": read}, errors


def check_options(kind: str | None, options: Mapping[str, Any], problems: Problems) -> None:
    """Adds options that the built-in factory ``kind`` does not know; ``problems`` are those of ``options``."""
    known = OPTIONS.get(kind or "")
    if known is None:
        return
    for name in options:
        if name not in known:
            problems.add(InvalidConfigError, "unknown option", unknown_fix(str(name), known, "options"), name)


def _kind_of_fields(fields: Mapping[str, Any]) -> str | None:
    name = fields.get("type")
    try:
        transport = TransportType(fields["transport"])
    except (KeyError, ValueError):
        transport = None
    return kind_of_plugin(name if isinstance(name, str) and name else None, transport)
