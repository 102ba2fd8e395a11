"""The application for ``INSTALLED_APPS``."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed

from goplugins.contrib.django import NAME, reset
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
        setting_changed.connect(_setting_was_changed, dispatch_uid="goplugins")


def _setting_was_changed(*, setting: str, **_: Any) -> None:
    """Makes ``override_settings`` in tests take effect at once."""
    if setting == NAME:
        reset()
