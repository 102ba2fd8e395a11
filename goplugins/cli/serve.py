"""Serves a function with @goplugins.serve.plugin, or a goplugins.serve.Plugin, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from goplugins.cli._common import import_from_current_directory
from goplugins.errors import ConfigError, InvalidArgumentError
from goplugins.transports.import_object import named_object

if TYPE_CHECKING:
    from goplugins.config.credentials import AuthConfig
    from goplugins.serve import ServerTLS

_LOCALHOST = "127.0.0.1"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``serve``. Secrets are passed in the environment: all users of the machine can see arguments."""
    parser = commands.add_parser("serve", help="serve a plugin", description=__doc__)
    parser.set_defaults(execute=_execute)
    parser.add_argument("target", metavar="module:plugin", help="the function or plugin, such as app.plugins:greet")
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        action="append",
        default=[],
        help=f"address to listen at; without a host {_LOCALHOST} (0.0.0.0: all interfaces); port 0: any free one",
    )
    parser.add_argument("--path", default="", help="only path at which HTTP calls are answered (default: any)")
    parser.add_argument("--grpc", metavar="HOST:PORT", action="append", default=[], help="as --http, for gRPC")
    parser.add_argument(
        "--unix",
        metavar="PATH",
        action="append",
        default=[],
        help="path of a socket to listen at; @name for an abstract one",
    )
    parser.add_argument("--stdio", action="store_true", help="answer on stdin and stdout, for transport exec")
    parser.add_argument("--tls-cert", metavar="FILE", default="", help="PEM certificate for --grpc")
    parser.add_argument("--tls-key", metavar="FILE", default="", help="private key of --tls-cert")
    parser.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        default="",
        help="authorities that must have signed the certificates of callers",
    )
    parser.add_argument("--threads", type=int, default=8, metavar="N", help="concurrent calls (default: 8)")
    parser.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="time for calls in flight when the server stops (default: 30)",
    )
    parser.add_argument("--quiet", action="store_true", help="do not write the address to stdout")
    auth = parser.add_mutually_exclusive_group()
    auth.add_argument(
        "--auth-bearer-env", metavar="VAR", help="environment variable with the bearer token that callers must send"
    )
    auth.add_argument(
        "--auth-api-key-env", metavar="VAR", help="environment variable with the API key that callers must send"
    )


def _execute(arguments: argparse.Namespace) -> int:
    """Serves until SIGTERM or SIGINT."""
    from goplugins.serve import run

    tls = _tls(arguments)
    urls = [_url("--http", address, arguments.path) for address in arguments.http]
    urls += [_url("--grpc", address, scheme="grpc" if tls is None else "grpcs") for address in arguments.grpc]
    urls += [f"unix:{path}" if path.startswith("@") else f"unix://{path}" for path in arguments.unix]
    urls += ["stdio:"] if arguments.stdio else []
    if not urls:
        raise InvalidArgumentError("expected an address to listen at: --http, --grpc, --unix or --stdio")
    run(
        _load(arguments.target),
        *urls,
        auth=_auth(arguments),
        threads=arguments.threads,
        grace=arguments.grace,
        tls=tls,
        quiet=arguments.quiet,
    )
    return 0


def _tls(arguments: argparse.Namespace) -> ServerTLS | None:
    if not (arguments.tls_cert or arguments.tls_key or arguments.tls_client_ca):
        return None
    if not (arguments.tls_cert and arguments.tls_key and arguments.grpc):
        raise InvalidArgumentError("TLS needs --tls-cert, --tls-key and --grpc; for --http, terminate TLS in a proxy")
    from goplugins.serve import ServerTLS

    return ServerTLS(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca)


def _url(option: str, address: str, path: str = "", *, scheme: str = "http") -> str:
    """The URL of HOST:PORT or :PORT.

    >>> _url("--http", ":8000"), _url("--http", "[::1]:0", "/api")
    ('http://127.0.0.1:8000', 'http://[::1]:0/api')
    """
    if "/" in address:
        raise InvalidArgumentError(f"{option} {address}: expected HOST:PORT or :PORT")
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536) or (":" in host and host[0] != "["):
        raise InvalidArgumentError(f"{option} {address}: expected HOST:PORT or :PORT")
    return f"{scheme}://{host or _LOCALHOST}:{port}" + (f"/{path.strip('/')}" if path.strip("/") else "")


def _auth(arguments: argparse.Namespace) -> AuthConfig | None:
    from goplugins.config.credentials import AuthConfig
    from goplugins.enums import AuthMethod

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
    """The plugin at ``module:name``; the module may be in the current directory."""
    from goplugins.serve._served import Served

    import_from_current_directory()
    try:
        found = named_object(target)
    except ConfigError as exc:
        raise InvalidArgumentError(exc.message) from exc
    if not isinstance(found, Served):
        fix = "decorate the function with @serve.plugin, or name the serve.Plugin of several"
        raise InvalidArgumentError(f"{target} is not a plugin to serve: {fix}")
    return found
