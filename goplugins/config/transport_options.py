"""The ``options`` of the built-in transports: a new option is one line in the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goplugins.config.field_types import Choice, Duration, Flag, Rule, Text, Whole
from goplugins.config.plugin import PluginConfig, kind_of_plugin
from goplugins.config.problems import Problems, unknown_fix
from goplugins.config.sizes import Size
from goplugins.enums import TransportType
from goplugins.errors import ConfigError, InvalidConfigError

__all__ = ["OPTIONS", "check_options", "read_options"]

OPTIONS: Mapping[str, Mapping[str, Rule]] = {
    "http": {
        "engine": Choice(("fast", "requests")),
        # Credentials in a proxy's URL are the proxy's own way to take them, so user info is allowed here.
        "proxy": Text(r"http://[^\s/?#]+/?", "the http:// URL of a proxy", "http://proxy.example.com:3128"),
        "resolve": Flag(),
        "resolve_interval": Duration(),
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
"""Kind of factory -> option -> what it may hold. The options of other kinds are their factories' own."""


def read_options(fields: Mapping[str, Any], *, text: bool) -> tuple[dict[str, Any], list[ConfigError]]:
    """A plugin's raw fields with its known options read, and what is wrong with them; paths start at ``options``.

    All other options stay as they are: some are a factory's own, and :func:`check_options` names the rest.
    """
    result = dict(fields)
    options = fields.get("options")
    known = OPTIONS.get(_kind(fields) or "", {})
    if not isinstance(options, Mapping):
        return result, []
    kept: dict[str, Any] = {}
    errors: list[ConfigError] = []
    for name, value in options.items():
        rule = known.get(name)
        try:
            if rule is None:
                kept[name] = value
            elif value is not None:
                kept[name] = rule.read(value, text=text)
        except ConfigError as exc:
            errors.append(type(exc)(exc.message, path=f"options.{name}", fix=exc.fix))
    result["options"] = kept
    return result, errors


def check_options(plugin: PluginConfig, problems: Problems) -> None:
    """Notes options that the built-in transport of ``plugin`` does not know, and so would ignore."""
    known = OPTIONS.get(kind_of_plugin(plugin.type, plugin.transport) or "")
    if known is None:
        return
    for name in plugin.options:
        if name not in known:
            problems.add(InvalidConfigError, "unknown option", unknown_fix(str(name), known, "options"), name)


def _kind(fields: Mapping[str, Any]) -> str | None:
    name = fields.get("type")
    try:
        transport = TransportType(fields["transport"])
    except (KeyError, ValueError):
        transport = None
    return kind_of_plugin(name if isinstance(name, str) and name else None, transport)
