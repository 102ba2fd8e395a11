"""Plugins in a Django project.

``"goplugins.contrib.django"`` in ``INSTALLED_APPS``, ``GOPLUGINS = {"CONFIG": BASE_DIR / "plugins.yaml"}`` in the
settings, and then, in any view::

    from goplugins.contrib.django import plugins

    quote = plugins.bind("quotes", QuoteRequest, QuoteResponse)

:class:`goplugins.contrib.django.middleware.PluginCallsMiddleware` bounds the calls of each request, and
:func:`goplugins.contrib.django.views.health` is a readiness view. See docs/howto/django.md.
"""

from __future__ import annotations

from goplugins.contrib._manager_proxy import manager_proxy
from goplugins.contrib.django._project import hosted, project_settings, reset
from goplugins.runtime.request_ids import current_request_id

__all__ = ["current_request_id", "plugins", "project_settings", "reset"]

plugins = manager_proxy(hosted.get, "the plugins of the Django project")
"""The project's :class:`~goplugins.Manager`: created and configured at its first use, once per process."""
