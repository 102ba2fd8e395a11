"""Plugins in a Django project.

``"goplugins.contrib.django"`` in ``INSTALLED_APPS``, ``GOPLUGINS = {"CONFIG": BASE_DIR / "plugins.yaml"}`` in the
settings, and then, in any view::

    from goplugins.contrib.django import plugins

    quote = plugins.bind("quotes", QuoteRequest, QuoteResponse)

:class:`goplugins.contrib.django.middleware.PluginCallsMiddleware` bounds the calls of each request, and
:func:`goplugins.contrib.django.views.health` is a readiness view. See docs/howto/django.md.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings

from goplugins.contrib._manager_proxy import Hosted, manager_proxy
from goplugins.contrib._settings import HostSettings
from goplugins.runtime.request_ids import current_request_id

__all__ = ["current_request_id", "plugins", "project_settings", "reset"]

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

plugins = manager_proxy(hosted.get, "the plugins of the Django project")
"""The project's :class:`~goplugins.Manager`: created and configured at its first use, once per process."""


def reset() -> None:
    """Shuts the manager down; the next use creates a new one from the settings of that moment."""
    hosted.reset()
