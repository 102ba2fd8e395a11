"""What was probably meant: by a field that is not there, and by a single value where a table belongs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from goplugins.config.credentials import AuthConfig
from goplugins.config.manager import ManagerConfig
from goplugins.config.manager_sections import LoadBalancerConfig
from goplugins.config.plugin import PluginConfig
from goplugins.config.plugin_sections import (
    BulkheadConfig,
    CacheConfig,
    CircuitBreakerConfig,
    ConnectionConfig,
    FallbackConfig,
    RateLimitConfig,
    RetryConfig,
)
from goplugins.config.problems import shown_key, unknown_fix
from goplugins.config.schema import fields_of
from goplugins.enums import LoadBalancingStrategy

__all__ = ["short_form_fix", "unknown_field_fix"]

_OTHER_WORDS: Mapping[type[Any], Mapping[str, str]] = {
    PluginConfig: {
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
    LoadBalancerConfig: {"plugins": "members", "retries": "retry.max_retries", "timeout": "request_timeout"},
    ManagerConfig: {"groups": "load_balancers", "timeout": "default_connection.request_timeout"},
    ConnectionConfig: {"timeout": "request_timeout"},
}
"""What others call our fields."""

_NEAR = 0.75


def unknown_field_fix(key: str, cls: type[Any]) -> str:
    """What to write instead of a field that ``cls`` has not: its name in one of the sections, or one that is near."""
    own = [field.name for field in fields_of(cls)]
    name = shown_key(key).removesuffix("...")
    elsewhere = {name: paths for name, paths in _below(cls).items() if name not in own}
    word = name.casefold().replace("-", "_")
    found = _OTHER_WORDS.get(cls, {}).get(word)
    if found is None and f"default_{word}" in own:
        found = f"default_{word}"
    if found is None and word not in own and (near := _nearest(word, [*own, *elsewhere])) in elsewhere:
        found = " or ".join(elsewhere[near])
    return f"write it as {found}" if found and key == name else unknown_fix(key, own, "fields")


def _below(cls: type[Any]) -> dict[str, list[str]]:
    """The fields of the sections of ``cls``, by their own names, with their paths."""
    paths: dict[str, list[str]] = {}
    for section in fields_of(cls):
        inner = section.section
        if inner is not None and inner is not LoadBalancerConfig:
            for field in fields_of(inner):
                paths.setdefault(field.name, []).append(f"{section.name}.{field.name}")
    return paths


def _nearest(word: str, names: list[str]) -> str:
    found = difflib.get_close_matches(word, names, n=1, cutoff=_NEAR)
    return found[0] if found else ""


_TEXTS: Mapping[type[Any], str] = {
    AuthConfig: "write a table such as {method: bearer, token: ...}",
    CacheConfig: "write {ttl: 60s}",
    FallbackConfig: "write {plugin: ...} with another plugin's name, or {value: ...} with a fixed answer",
    LoadBalancerConfig: "write a table such as {strategy: least-latency}",
}
_NUMBERS: Mapping[type[Any], str] = {
    BulkheadConfig: "max_concurrent",
    CacheConfig: "ttl",
    CircuitBreakerConfig: "failure_threshold",
    RateLimitConfig: "enabled: true, requests_per_second",
    RetryConfig: "max_retries",
}


def short_form_fix(value: object, cls: type[Any]) -> str:
    """What to write instead of a single value where a table of ``cls`` belongs; repeats no text but a known word."""
    names = [field.name for field in fields_of(cls)]
    if isinstance(value, bool) and "enabled" in names:
        return f"write {{enabled: {str(value).lower()}}}"
    if isinstance(value, str) and cls is LoadBalancerConfig and value in list(LoadBalancingStrategy):
        return f"write {{strategy: {value}}}"
    if isinstance(value, str) and cls in _TEXTS:
        return _TEXTS[cls]
    if isinstance(value, int | float) and not isinstance(value, bool) and cls in _NUMBERS:
        return f"write {{{_NUMBERS[cls]}: {value}}}"
    return f"write a table of fields such as {', '.join(names[:3])}"
