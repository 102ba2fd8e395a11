"""Sections of a plugin's configuration with their defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from goplugins.config.credentials import AuthConfig
from goplugins.config.field_types import rule_for
from goplugins.config.plugin_sections import (
    DEFAULT_BULKHEAD,
    DEFAULT_CACHE,
    DEFAULT_CIRCUIT_BREAKER,
    DEFAULT_CONNECTION,
    DEFAULT_FALLBACK,
    DEFAULT_HEALTH_CHECK,
    DEFAULT_HEDGE,
    DEFAULT_RATE_LIMIT,
    DEFAULT_RETRY,
    CircuitBreakerConfig,
)
from goplugins.config.problems import Problems, raise_for
from goplugins.config.schema import fields_of, merge
from goplugins.enums import AuthMethod
from goplugins.errors import ConfigError

_MAX_DOUBLINGS = 3
"""How often in a row the open time of a circuit doubles where ``max_recovery_timeout`` is left out."""

INHERITED: Mapping[str, Any] = {
    "retry": DEFAULT_RETRY,
    "circuit_breaker": DEFAULT_CIRCUIT_BREAKER,
    "health_check": DEFAULT_HEALTH_CHECK,
    "connection": DEFAULT_CONNECTION,
    "rate_limit": DEFAULT_RATE_LIMIT,
}
"""Production defaults of the sections that a plugin inherits from the manager's ``default_*`` section, by name."""

OPTIONAL: Mapping[str, Any] = {
    "bulkhead": DEFAULT_BULKHEAD,
    "fallback": DEFAULT_FALLBACK,
    "cache": DEFAULT_CACHE,
    "hedge": DEFAULT_HEDGE,
}
"""Production defaults of the sections that have an effect only where they are written, by name."""

_DEFAULTS = {type(section): section for section in (*INHERITED.values(), *OPTIONAL.values())}


def completed(section: object) -> Any:
    """The section with the production defaults in fields that are None; for policies that are constructed directly.

    Fields without a default stay None, such as ``CacheConfig.ttl``. Typed Any, so that callers can assign fields that
    are never None here to variables that can't be.

    Raises:
        ConfigError: values of the wrong type or out of range, all of them; a :class:`ValueError`, too.

    >>> from goplugins import RetryConfig
    >>> completed(RetryConfig(max_retries=5)).max_interval
    5.0
    >>> completed(RetryConfig(max_retries=-1))
    Traceback (most recent call last):
    goplugins.errors.InvalidConfigError: [PLUGIN_1012] RetryConfig: max_retries: expected an integer of 0 or more, \
got -1 (write an integer of 0 or more)
    """
    cls = type(section)
    problems = Problems()
    for field in fields_of(cls):
        rule, value = rule_for(field.kind), getattr(section, field.name)
        if rule is None or value is None:
            continue
        try:
            rule.read(value, text=False)
        except ConfigError as exc:
            problems.add(type(exc), exc.message, exc.fix, field.name)
    raise_for(problems.found, cls.__name__)
    full: object = merge(section, _DEFAULTS[cls])
    return resolve_breaker(full) if isinstance(full, CircuitBreakerConfig) else full


def merge_sections(config: Any, inherited: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a plugin or group with nothing left to inherit, by name.

    Args:
        config: the plugin or group.
        inherited: defaults of the sections that it inherits. Those of :data:`OPTIONAL` stay None if they are.
    """
    sections = {name: merge(getattr(config, name), default) for name, default in inherited.items()}
    for name, default in OPTIONAL.items():
        section = getattr(config, name)
        sections[name] = None if section is None else merge(section, default)
    return sections


def resolve_breaker(breaker: CircuitBreakerConfig) -> CircuitBreakerConfig:
    """Fills in ``max_recovery_timeout``, which follows from ``recovery_timeout`` and is never less."""
    first = breaker.recovery_timeout
    if first is None:
        return breaker
    longest = breaker.max_recovery_timeout
    return attrs.evolve(
        breaker, max_recovery_timeout=max(first, first * 2**_MAX_DOUBLINGS if longest is None else longest)
    )


def resolve_auth(auth: AuthConfig | None) -> AuthConfig:
    """Method ``none`` where no credential is given; credentials without a method stay, for ``validate`` to refuse."""
    if auth is None:
        return AuthConfig(method=AuthMethod.NONE)
    return auth if auth.method is not None or auth.suggested_method else attrs.evolve(auth, method=AuthMethod.NONE)
