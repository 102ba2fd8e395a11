"""Plugins behind HTTP and HTTPS. `requests` and `urllib3` are loaded when the first one is made."""

from __future__ import annotations

from goplugins.transports.http.plugin import HTTPPlugin, HTTPPluginFactory

__all__ = ["HTTPPlugin", "HTTPPluginFactory"]
