"""The application for ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed

from goplugins.contrib.django._project import setting_was_changed
from goplugins.contrib.django.checks import check_configuration, check_middleware

__all__ = ["GoPluginsConfig"]


class GoPluginsConfig(AppConfig):
    """Registers the system checks; creates and opens nothing."""

    name = "goplugins.contrib.django"
    label = "goplugins"
    verbose_name = "goplugins"

    def ready(self) -> None:
        """Called by Django once its settings are loaded."""
        checks.register(check_configuration, "goplugins")
        checks.register(check_middleware, "goplugins", deploy=True)
        setting_changed.connect(setting_was_changed, dispatch_uid="goplugins")
