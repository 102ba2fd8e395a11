"""The settings and the manager of the Django project that runs in this process."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from goplugins.contrib._manager_proxy import Hosted
from goplugins.contrib._settings import HostSettings

__all__ = ["NAME", "hosted", "project_settings", "reset", "setting_was_changed"]

NAME = "GOPLUGINS"

_NONE: dict[str, Any] = {}
_checked: tuple[object, HostSettings] | None = None


def project_settings() -> HostSettings:
    """The checked ``GOPLUGINS`` of the project; cheap when repeated.

    Raises:
        ConfigError: with all problems.
    """
    global _checked  # noqa: PLW0603 - one tuple, replaced whole
    values = getattr(settings, NAME, _NONE)
    if _checked is None or _checked[0] is not values:
        _checked = (values, HostSettings.of(values, f"settings.{NAME}"))
    return _checked[1]


hosted = Hosted(project_settings)
"""The project's manager."""


def reset() -> None:
    """Shuts the manager down; the next use creates a new one from the settings of that moment."""
    hosted.reset()


def setting_was_changed(*, setting: str, **_: Any) -> None:
    """Makes ``override_settings`` in tests take effect at once."""
    if setting == NAME:
        reset()
