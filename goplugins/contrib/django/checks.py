"""Checks of ``manage.py check``: every problem of settings and configuration, with its path and the fix.

| Id | |
|---|---|
| goplugins.E001 | a setting in ``GOPLUGINS`` |
| goplugins.E002 | the configuration's file can't be read |
| goplugins.E003 | a problem in the configuration |
| goplugins.W001 | with ``--deploy``: the middleware is missing |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning as CheckWarning
from django.utils.module_loading import import_string

from goplugins.contrib.django import NAME, project_settings
from goplugins.contrib.django.middleware import PluginCallsMiddleware
from goplugins.errors import ConfigError, ConfigFileError, ConfigSyntaxError
from goplugins.manager.factories import check_by_built_in_factories

__all__ = ["check_configuration", "check_middleware"]

_MIDDLEWARE = f"{PluginCallsMiddleware.__module__}.{PluginCallsMiddleware.__qualname__}"


def check_configuration(
    app_configs: Sequence[AppConfig] | None = None, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Errors of the settings, else of the configuration that they name. No plugin is created or called."""
    from goplugins.discovery.origins import load_with_origins

    try:
        config = project_settings().config
    except ConfigError as error:
        return [_message(problem, "goplugins.E001") for problem in error.problems]
    if config is None:
        return []
    try:
        load_with_origins(config, check=check_by_built_in_factories())
    except (ConfigFileError, ConfigSyntaxError) as error:
        return [_message(error, "goplugins.E002")]
    except ConfigError as error:
        return [_message(problem, "goplugins.E003", error.source) for problem in error.problems]
    return []


def check_middleware(
    app_configs: Sequence[AppConfig] | None = None, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """A warning if the middleware is missing."""
    if not getattr(settings, NAME, {}) or any(map(_bounds_calls, settings.MIDDLEWARE)):
        return []
    text = "Plugin calls may outlive the requests that they are made for."
    return [CheckWarning(text, hint=f"Add {_MIDDLEWARE!r} to MIDDLEWARE.", id="goplugins.W001")]


def _bounds_calls(path: str) -> bool:
    """Whether the middleware is :class:`PluginCallsMiddleware` or a subclass of it."""
    try:
        middleware = import_string(path)
    except ImportError:
        return False  # Django reports it
    return isinstance(middleware, type) and issubclass(middleware, PluginCallsMiddleware)


def _message(problem: ConfigError, number: str, source: str = "") -> CheckMessage:
    places = dict.fromkeys((source or problem.source, problem.path))
    where = ": ".join(place for place in places if place not in {"", "configuration"})
    text = f"{where}: {problem.message} [{problem.code}]" if where else f"{problem.message} [{problem.code}]"
    return Error(text, hint=problem.fix or None, id=number)
