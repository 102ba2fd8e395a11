"""Plugins in a Flask application.

>>> from flask import Flask
>>> from goplugins import serve
>>> @serve.plugin(name="shout")
... def shout(request: str) -> str:
...     return request.upper()
>>> app = Flask("shop")
>>> extension = GoPlugins(app, setup=lambda manager: manager.register(shout))
>>> @app.get("/shout/<text>")
... def view(text):
...     return current_plugins.execute("shout", text)
>>> app.test_client().get("/shout/hello").text
'HELLO'

See docs/howto/flask.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import click
from flask import Blueprint, Flask, current_app, jsonify
from flask.cli import AppGroup
from flask.typing import ResponseReturnValue

from goplugins.contrib import _commands as commands
from goplugins.contrib._manager_proxy import AnyManager, Hosted, manager_proxy
from goplugins.contrib._settings import HostSettings
from goplugins.contrib.health import readiness
from goplugins.contrib.wsgi import PluginCalls
from goplugins.errors import ConfigError, PluginError
from goplugins.runtime.request_ids import current_request_id

__all__ = ["GoPlugins", "current_plugins", "current_request_id", "health_blueprint"]

_NAME = "goplugins"
_KEY = "GOPLUGINS"


class GoPlugins:
    """The extension. One extension may serve several applications; each has its own manager.

    Settings are ``app.config["GOPLUGINS"]``, a mapping; ``app.config["GOPLUGINS_CONFIG"]`` and so on take precedence.
    They are read by ``init_app``; the manager is created at its first use.

    Args:
        app: the application; or call :meth:`init_app` later.
        setup: called with each manager before it loads its configuration, to register plugins in code.

    Raises:
        ConfigError: the settings can't be used.
    """

    def __init__(self, app: Flask | None = None, *, setup: Callable[[AnyManager], object] | None = None) -> None:
        self._setup = setup
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Attaches the extension: bounds the calls of requests and adds ``flask plugins``.

        Raises:
            ConfigError: the settings can't be used, or the application has the extension already.
        """
        if _NAME in app.extensions:
            raise ConfigError("the application has this extension already", path="app.extensions['goplugins']")
        app.extensions[_NAME] = state = _State(_settings(app, self._setup))
        app.wsgi_app = PluginCalls.within(app.wsgi_app, state.settings.limits)  # type: ignore[method-assign]
        app.cli.add_command(_group())

    def manager(self, app: Flask) -> AnyManager:
        """The application's manager, for use outside of its requests.

        Raises:
            ConfigError: the configuration can't be used, or the application lacks the extension.
        """
        return _state(app).hosted.get()

    def reset(self, app: Flask) -> None:
        """Shuts the application's manager down and reads its settings again; the next use creates a new manager.

        For tests. ``TIMEOUT`` and the names of headers are not read again.

        Raises:
            ConfigError: the settings can't be used.
        """
        state = _state(app)
        state.hosted.reset()
        state.settings = _settings(app, self._setup)


class _State:
    """The extension's state in one application."""

    def __init__(self, settings: HostSettings) -> None:
        self.settings = settings
        self.hosted = Hosted(lambda: self.settings)


def _settings(app: Flask, setup: Callable[[AnyManager], object] | None) -> HostSettings:
    values: Any = app.config.get(_KEY, {})
    single = app.config.get_namespace(f"{_KEY}_", lowercase=False)
    if isinstance(values, dict):
        values = {**({} if setup is None else {"SETUP": setup}), **values, **single}
    return HostSettings.of(values, f"app.config[{_KEY!r}]")


def _state(app: Flask) -> _State:
    state = app.extensions.get(_NAME)
    if not isinstance(state, _State):
        raise ConfigError(f"the application {app.name!r} has no plugins", fix="call GoPlugins(app), or init_app(app)")
    return state


def _current() -> AnyManager:
    return _state(current_app).hosted.get()


current_plugins = manager_proxy(_current, "the plugins of the current Flask application")
"""The :class:`~goplugins.Manager` of the application whose request or context this is."""


# --- for operators -------------------------------------------------------------------------------------------------


def health_blueprint(url: str = "/health/plugins") -> Blueprint:
    """A page at ``url``: 200, or 503 with the names and states of plugins that are down. No plugin is called.

    ``HEALTH_REQUIRED`` names the plugins that count; without it all do.
    """
    blueprint = Blueprint(f"{_NAME}_health", __name__)

    @blueprint.get(url)
    def health() -> ResponseReturnValue:
        state = _state(current_app)
        code, answer = readiness(state.hosted.get, lambda: state.settings.required)
        return jsonify(answer), code, {"Cache-Control": "no-store"}

    return blueprint


def _group() -> AppGroup:
    group = AppGroup("plugins", help="Show and call the plugins, and have workers load a new configuration.")

    @group.command("status", help=commands.STATUS_HELP)
    def status() -> None:
        with _reporting() as manager:
            if not commands.status(manager, click.echo):
                raise click.exceptions.Exit(1)

    @group.command("call", help=commands.CALL_HELP)
    @click.argument("name")
    @click.argument("request", metavar="JSON")
    @click.option("--timeout", type=float, metavar="SECONDS")
    @click.option("--idempotent", is_flag=True, help="the call may be executed twice")
    @click.option("--operation", metavar="NAME", help=commands.OPERATION_HELP)
    def call(name: str, request: str, timeout: float | None, idempotent: bool, operation: str | None) -> None:
        with _reporting() as manager:
            commands.call(manager, click.echo, name, request, timeout, idempotent, operation=operation)

    @group.command("explain", help=commands.EXPLAIN_HELP)
    @click.argument("name")
    def explain(name: str) -> None:
        with _reporting() as manager:
            commands.explain(manager, click.echo, name)

    @group.command("reload", help=commands.RELOAD_HELP)
    @click.option("--pid", metavar="PID|FILE", help="the server's main process, or its pid file: gets SIGHUP")
    def reload(pid: str | None) -> None:
        with _reporting() as manager:
            commands.reload(manager, _state(current_app).settings, click.echo, pid)

    return group


@contextlib.contextmanager
def _reporting() -> Iterator[AnyManager]:
    """The application's manager for a command; errors become click's."""
    try:
        yield _current()
    except PluginError as error:
        raise click.ClickException(str(error)) from error
