"""Changing a manager's configuration while calls go on."""

from __future__ import annotations

from goplugins.reload.diff import Change, PluginDiff, PluginUpdate
from goplugins.reload.reloader import PluginReloader
from goplugins.reload.report import PluginOutcome, ReloadAction, ReloadReport

__all__ = [
    "Change",
    "PluginDiff",
    "PluginOutcome",
    "PluginReloader",
    "PluginUpdate",
    "ReloadAction",
    "ReloadReport",
]
