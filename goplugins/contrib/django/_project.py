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
    """The project's ``GOPLUGINS``, checked; cheap when repeated.

    Raises:
        ConfigError: all that is wrong with it.
    """
    global _checked  # noqa: PLW0603 - one tuple, replaced whole
    values = getattr(settings, NAME, _NONE)
    if _checked is None or _checked[0] is not values:
        _checked = (values, HostSettings.of(values, f"settings.{NAME}"))
    return _checked[1]


hosted = Hosted(project_settings)
"""The project's manager."""


def reset() -> None:
    """Shuts the manager down; the next use makes another one, by the settings of that time."""
    hosted.reset()


def setting_was_changed(*, setting: str, **_: Any) -> None:
    """For ``override_settings`` in tests: takes effect at once."""
    if setting == NAME:
        reset()
