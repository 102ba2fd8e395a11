"""Serves a function that @goplugins.serve.plugin made a plugin, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from goplugins.errors import ConfigError, InvalidArgumentError

if TYPE_CHECKING:
    from goplugins.config.sections import AuthConfig

__all__ = ["add_command"]

_LOCALHOST = "127.0.0.1"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``serve``. Secrets come by the environment: everybody on the machine sees arguments."""
    parser = commands.add_parser("serve", help="serve a plugin", description=__doc__)
    parser.set_defaults(execute=_execute)
    parser.add_argument("target", metavar="module:plugin", help="where the plugin is, such as app.plugins:greet")
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        required=True,
        help=f"listen here; without a host on {_LOCALHOST} only (0.0.0.0: all interfaces); port 0 finds a free one",
    )
    parser.add_argument("--path", default="", help="answer calls at this path alone (default: at any)")
    parser.add_argument("--threads", type=int, default=8, metavar="N", help="calls at once (default: 8)")
    parser.add_argument(
        "--grace", type=float, default=30.0, metavar="SECONDS", help="for calls in flight at the end (default: 30)"
    )
    parser.add_argument("--quiet", action="store_true", help="do not write the address to stdout")
    auth = parser.add_mutually_exclusive_group()
    auth.add_argument("--auth-bearer-env", metavar="VAR", help="expect the bearer token that this variable holds")
    auth.add_argument("--auth-api-key-env", metavar="VAR", help="expect the API key that this variable holds")


def _execute(arguments: argparse.Namespace) -> int:
    """Serves until told to stop."""
    from goplugins.serve import run

    auth = _auth(arguments)
    url = _url(arguments.http, arguments.path)
    run(
        _load(arguments.target),
        url,
        auth=auth,
        threads=arguments.threads,
        grace=arguments.grace,
        quiet=arguments.quiet,
    )
    return 0


def _url(address: str, path: str) -> str:
    """The URL of HOST:PORT or :PORT.

    >>> _url(":8000", ""), _url("[::1]:0", "/api")
    ('http://127.0.0.1:8000', 'http://[::1]:0/api')
    """
    if "/" in address:
        raise InvalidArgumentError(f"--http {address}: expected HOST:PORT or :PORT")
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or (":" in host and host[0] != "["):
        raise InvalidArgumentError(f"--http {address}: expected HOST:PORT or :PORT")
    return f"http://{host or _LOCALHOST}:{port}" + (f"/{path.strip('/')}" if path.strip("/") else "")


def _auth(arguments: argparse.Namespace) -> AuthConfig | None:
    from goplugins.config.sections import AuthConfig
    from goplugins.models import AuthMethod

    if arguments.auth_bearer_env is not None:
        return AuthConfig(method=AuthMethod.BEARER, token=_secret(arguments.auth_bearer_env))
    if arguments.auth_api_key_env is not None:
        return AuthConfig(method=AuthMethod.API_KEY, api_key=_secret(arguments.auth_api_key_env))
    return None


def _secret(variable: str) -> str:
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise ConfigError(f"the environment variable {variable} is not set, or empty")
    return secret


def _load(target: str) -> Any:
    """The plugin at ``module:name``; the current directory counts, as with ``python -m``."""
    from goplugins.serve import ServedPlugin

    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise InvalidArgumentError(f"{target}: expected module:plugin, such as app.plugins:greet")
    if not sys.flags.safe_path and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _import(module_name)
    try:
        found = functools.reduce(getattr, name.split("."), module)
    except AttributeError as exc:
        raise InvalidArgumentError(f"{target}: {exc}") from exc
    if not isinstance(found, ServedPlugin):
        raise InvalidArgumentError(f"{target} is no served plugin: put @serve.plugin on the function")
    return found


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            raise InvalidArgumentError(f"there is no module {exc.name!r} (looked in {os.getcwd()} first)") from exc
        raise InvalidArgumentError(f"can't import {name}: {_where(exc)}") from exc
    except Exception as exc:
        raise InvalidArgumentError(f"can't import {name}: {_where(exc)}") from exc


def _where(exc: Exception) -> str:
    """The error of somebody's module with the place in it: one line that leads there."""
    frames = traceback.extract_tb(exc.__traceback__)
    text = f"{type(exc).__name__}: {exc}"
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text
