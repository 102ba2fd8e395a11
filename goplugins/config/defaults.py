"""Configuration objects with their defaults filled in, so that a policy also stands on its own."""

from __future__ import annotations

from typing import Any

__all__ = ["setting"]


def setting(config: object, defaults: object, name: str) -> Any:
    """The field's value; that of ``defaults`` if it is None or missing."""
    value = getattr(config, name, None)
    return getattr(defaults, name) if value is None else value
