"""A page for operators: the state of all plugins and its reasons. A WSGI application, or alone.

>>> from goplugins import Manager
>>> from goplugins.contrib import dashboard
>>> application = dashboard.wsgi(Manager())
"""

from __future__ import annotations

from goplugins.contrib.dashboard._app import Dashboard, wsgi

__all__ = ["Dashboard", "wsgi"]
