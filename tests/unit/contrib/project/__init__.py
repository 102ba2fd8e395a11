"""A small Django project."""

from __future__ import annotations

import django
from django.conf import settings

__all__ = ["start"]


def start() -> None:
    """Sets up Django, once per process."""
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["testserver", "127.0.0.1"],
            DEBUG=False,
            INSTALLED_APPS=["goplugins.contrib.django"],
            LOGGING_CONFIG=None,
            MIDDLEWARE=["goplugins.contrib.django.middleware.PluginCallsMiddleware"],
            ROOT_URLCONF="tests.unit.contrib.project.urls",
            SECRET_KEY="of a test",
            USE_TZ=True,
        )
        django.setup()
