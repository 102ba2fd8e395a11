"""Plugins that are subprocesses, spoken to in lines over stdin and stdout."""

from __future__ import annotations

from goplugins.transports.exec.plugin import ExecPlugin, ExecPluginFactory

__all__ = ["ExecPlugin", "ExecPluginFactory"]
