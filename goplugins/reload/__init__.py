"""Changing a manager's configuration while calls go on."""

from __future__ import annotations

from goplugins.reload._diff import Change, PluginDiff, PluginUpdate
from goplugins.reload._report import PluginOutcome, ReloadAction, ReloadReport
from goplugins.reload.reloader import PluginReloader

__all__ = [
    "Change",
    "PluginDiff",
    "PluginOutcome",
    "PluginReloader",
    "PluginUpdate",
    "ReloadAction",
    "ReloadReport",
]
