"""What was probably meant by an unknown field, or by a single value in place of a table.

The tables are by class name: this module is imported by the one that reads the classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from goplugins.config.field_types import kind_of
from goplugins.config.problems import unknown_fix
from goplugins.config.schema import fields_of
from goplugins.enums import LoadBalancingStrategy
from goplugins.json_text import shown_key

_OTHER_NAMES: Mapping[str, Mapping[str, str]] = {
    "PluginConfig": {
        "address": "endpoint",
        "command": "executable",
        "cwd": "work_dir",
        "environment": "env",
        "retries": "retry.max_retries",
        "strategy": "balancing.strategy",
        "timeout": "connection.request_timeout",
        "uri": "endpoint",
        "url": "endpoint",
        "urls": "endpoints",
    },
    "LoadBalancerConfig": {"plugins": "members", "retries": "retry.max_retries", "timeout": "request_timeout"},
    "ManagerConfig": {"groups": "load_balancers", "timeout": "default_connection.request_timeout"},
    "ConnectionConfig": {"timeout": "request_timeout"},
}
"""Field names of other libraries."""

_NEAR = 0.75


def unknown_field_fix(key: str, cls: type[Any]) -> str:
    """What to write instead of an unknown field of ``cls``: its path in one of the sections, or a similar name."""
    own = [field.name for field in fields_of(cls)]
    name = shown_key(key).removesuffix("...")
    elsewhere = {name: paths for name, paths in _below(cls).items() if name not in own}
    word = name.casefold().replace("-", "_")
    found = _OTHER_NAMES.get(cls.__name__, {}).get(word)
    if found is None and f"default_{word}" in own:
        found = f"default_{word}"
    if found is None and word not in own and (near := _nearest(word, [*own, *elsewhere])) in elsewhere:
        found = " or ".join(elsewhere[near])
    return f"write it as {found}" if found and key == name else unknown_fix(key, own, "fields")


def _below(cls: type[Any]) -> dict[str, list[str]]:
    """The fields of the sections of ``cls``, by name, with their paths."""
    paths: dict[str, list[str]] = {}
    for section in fields_of(cls):
        inner = section.section
        if inner is not None and inner.__name__ != "LoadBalancerConfig":
            for field in fields_of(inner):
                paths.setdefault(field.name, []).append(f"{section.name}.{field.name}")
    return paths


def _nearest(word: str, names: list[str]) -> str:
    found = difflib.get_close_matches(word, names, n=1, cutoff=_NEAR)
    return found[0] if found else ""


_TEXTS: Mapping[str, str] = {
    "AuthConfig": "write a table such as {method: bearer, token: ...}",
    "CacheConfig": "write {ttl: 60s}",
    "FallbackConfig": "write {plugin: ...} with another plugin's name, or {value: ...} with a fixed answer",
    "LoadBalancerConfig": "write a table such as {strategy: least-latency}",
}
_NUMBERS: Mapping[str, str] = {
    "BulkheadConfig": "max_concurrent",
    "CacheConfig": "ttl",
    "CircuitBreakerConfig": "failure_threshold",
    "RateLimitConfig": "enabled: true, requests_per_second",
    "RetryConfig": "max_retries",
}


def not_a_table(value: object, cls: type[Any]) -> tuple[str, str]:
    """Message and fix for a value in place of a table of ``cls``; repeats no text but a known word."""
    names = [field.name for field in fields_of(cls)]
    if value is None and "plugins" in names:
        return "is empty", "write plugins: and the list of plugins below it"
    if isinstance(value, list | tuple) and "plugins" in names:
        return "expected a table, got a list", "put it under plugins:"
    return f"expected a table, got {kind_of(value)}", _short_form_fix(value, cls.__name__, names)


def _short_form_fix(value: object, cls: str, names: list[str]) -> str:
    if isinstance(value, bool) and "enabled" in names:
        return f"write {{enabled: {str(value).lower()}}}"
    if isinstance(value, str) and cls == "LoadBalancerConfig" and value in list(LoadBalancingStrategy):
        return f"write {{strategy: {value}}}"
    if isinstance(value, str) and cls in _TEXTS:
        return _TEXTS[cls]
    if isinstance(value, int | float) and not isinstance(value, bool) and cls in _NUMBERS:
        return f"write {{{_NUMBERS[cls]}: {value}}}"
    return f"write a table of fields such as {', '.join(names[:3])}"
