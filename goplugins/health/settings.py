"""A health check's settings as the checker goes by them."""

from __future__ import annotations

from typing import Self

import attrs

from goplugins.config.defaults import setting
from goplugins.config.plugin_sections import DEFAULT_HEALTH_CHECK
from goplugins.errors import InvalidArgumentError

__all__ = ["Settings"]


@attrs.frozen
class Settings:
    """A :class:`~goplugins.config.HealthCheckConfig` with nothing left out."""

    enabled: bool
    interval: float
    timeout: float
    failure_limit: int

    @classmethod
    def of(cls, config: object) -> Self:
        settings = cls(*(setting(config, DEFAULT_HEALTH_CHECK, field.name) for field in attrs.fields(cls)))
        for name in ("interval", "timeout", "failure_limit"):
            value = getattr(settings, name)
            if not value > 0:
                raise InvalidArgumentError(f"health_check.{name}: expected more than 0, got {value!r}")
        return settings
