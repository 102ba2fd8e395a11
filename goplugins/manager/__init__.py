"""The manager: configuration, lifecycle and calls of plugins."""

from goplugins.manager.manager import Manager as Manager
