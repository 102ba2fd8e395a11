"""A page for operators: which plugin is ill, and why. A WSGI application for any host, or alone.

>>> from goplugins import Manager
>>> from goplugins.contrib import dashboard
>>> application = dashboard.wsgi(Manager())
"""

from __future__ import annotations

from goplugins.contrib.dashboard._app import Dashboard, wsgi

__all__ = ["Dashboard", "wsgi"]
