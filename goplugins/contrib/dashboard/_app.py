"""The dashboard as a WSGI application: the page, its files, its data, and the actions of operators."""

from __future__ import annotations

import html
import json
import logging
import secrets
from collections.abc import Callable, Collection, Iterable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from goplugins.contrib.dashboard._actions import RefusalError, perform
from goplugins.contrib.dashboard._assets import asset
from goplugins.contrib.dashboard._board import Board
from goplugins.errors import InvalidArgumentError, PluginNotFoundError, belongs_to_host
from goplugins.manager.control import configuration

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from goplugins.manager.manager import Manager

__all__ = ["Dashboard", "wsgi"]

logger = logging.getLogger("goplugins.dashboard")

COOKIE = "goplugins_dashboard"

_FIRST_SNAPSHOT = 2.0
"""Seconds that a request waits for the first snapshot."""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        *(f"{what} 'none'" for what in ("base-uri", "form-action", "frame-ancestors", "trusted-types")),
        "require-trusted-types-for 'script'",
    )
)

_SECURITY = (
    ("Content-Security-Policy", _POLICY),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

Allow = Callable[["WSGIEnvironment"], bool]
"""Decides whether a request is allowed; its WSGI environment has what the application's own login left there."""


class Dashboard:
    """A manager's dashboard, as a WSGI application. Made by :func:`wsgi`."""

    def __init__(
        self,
        board: Board,
        *,
        authorize: Allow | None = None,
        may_view: Allow | None = None,
        actor: Callable[[WSGIEnvironment], str] | None = None,
        title: str = "goplugins",
        hosts: Collection[str] | None = None,
    ) -> None:
        self.board = board
        self._authorize = authorize
        self._may_view = may_view
        self._actor = actor or _remote
        self._title = title
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        reply = _Reply(environ, start_response)
        try:
            self._check(environ)
            return self._answer(environ, reply)
        except RefusalError as exc:
            return reply.error(exc.status, exc.message)
        except (PluginNotFoundError, InvalidArgumentError) as exc:
            return reply.error(404 if isinstance(exc, LookupError) else 400, exc.message)

    def _check(self, environ: WSGIEnvironment) -> None:
        if self._hosts is not None and _host(environ) not in self._hosts:
            raise RefusalError(403, "the Host header names no host of this dashboard: add it to `hosts`")
        if self._may_view is not None and not _allows(self._may_view, environ):
            raise RefusalError(403, "not allowed to view this dashboard")

    def _answer(self, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if path == "":
            # Relative, so that no name of a prefix leads to another host.
            last = quote(environ.get("SCRIPT_NAME", "").rpartition("/")[2])
            return reply.send(308, b"", "text/plain", ("Location", f"./{last}/" if last else "/"))
        acts = path.startswith("/actions/")
        if method not in ({"POST"} if acts else {"GET", "HEAD"}):
            allowed = "POST" if acts else "GET, HEAD"
            return reply.error(405, f"only {allowed}", ("Allow", allowed))
        if acts:
            return self._act(environ, reply, path.removeprefix("/actions/"))
        if path.startswith("/static/"):
            return _file(path.removeprefix("/static/"), environ, reply)
        show = {"/": self._page, "/state": self._state, "/config": self._config}.get(path)
        if show is None:
            raise RefusalError(404, "not found")
        return show(environ, reply)

    # --- what is shown -------------------------------------------------------------------------------------------

    def _page(self, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
        self.board.request()  # the first snapshot is then ready when the page fetches it
        token, headers = "", []
        if self._may_act(environ):
            token = _token(environ)
            if not token:
                token = secrets.token_urlsafe(32)
                headers.append(("Set-Cookie", _cookie(environ, token)))
        page = asset("index.html")
        text = page.data.decode()
        for mark, value in {"{{title}}": self._title, "{{token}}": token}.items():
            text = text.replace(mark, html.escape(value))
        return reply.send(
            200, text.encode("utf-8", "backslashreplace"), page.type, ("Cache-Control", "no-store"), *headers
        )

    def _state(self, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
        self.board.request()
        snapshot = self.board.wait(_FIRST_SNAPSHOT)
        if snapshot.tag and environ.get("HTTP_IF_NONE_MATCH") == snapshot.tag:
            return reply.send(304, b"", "", ("Cache-Control", "no-cache"), ("ETag", snapshot.tag))
        return reply.json(200, snapshot.message(), ("Cache-Control", "no-cache"), ("ETag", snapshot.tag or '""'))

    def _config(self, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
        values = configuration(self.board.manager, _query(environ, "plugin"))
        # Values that only code can hold, such as functions, are shown as their class.
        return reply.json(200, _json(values, default=lambda value: f"<{type(value).__name__}>"))

    # --- what is done --------------------------------------------------------------------------------------------

    def _may_act(self, environ: WSGIEnvironment) -> bool:
        return self._authorize is not None and _allows(self._authorize, environ)

    def _act(self, environ: WSGIEnvironment, reply: _Reply, action: str) -> Iterable[bytes]:
        if not self._may_act(environ):
            raise RefusalError(403, "not allowed to act: `authorize` refused")
        _check_same_origin(environ)
        return reply.json(200, _json(perform(self.board.manager, action, environ, self._actor(environ))))


def wsgi(
    manager: Manager[Any, Any],
    *,
    authorize: Allow | None = None,
    may_view: Allow | None = None,
    actor: Callable[[WSGIEnvironment], str] | None = None,
    title: str = "goplugins",
    hosts: Collection[str] | None = None,
) -> Dashboard:
    """A page that shows the state of a manager's plugins, as a WSGI application for any prefix.

    It costs nothing while it is not viewed: no thread, and no work in a call.

    Args:
        manager: the manager to show.
        authorize: decides by a request's environment whether it may reset breakers, disable plugins and drain
            members. Without it the page is read-only.
        may_view: decides the same for viewing. Without it every request that reaches the application may view: put
            it behind the application's login.
        actor: names the operator for log and audit trail; by default ``REMOTE_USER`` and the address.
        title: the page's title.
        hosts: accepted names in the ``Host`` header; any when None.

    >>> from goplugins import Manager
    >>> from wsgiref.util import setup_testing_defaults
    >>> dashboard = wsgi(Manager())
    >>> environ = {"PATH_INFO": "/static/app.css"}
    >>> setup_testing_defaults(environ)
    >>> css = dashboard(environ, lambda status, headers: print(status))
    200 OK
    """
    return Dashboard(Board(manager), authorize=authorize, may_view=may_view, actor=actor, title=title, hosts=hosts)


# --- requests ------------------------------------------------------------------------------------------------------


def _allows(allow: Allow, environ: WSGIEnvironment) -> bool:
    """The result of the application's function; False if it raises."""
    try:
        return bool(allow(environ))
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        logger.exception("the request is refused: %r raised an exception", allow)
        return False


def _remote(environ: WSGIEnvironment) -> str:
    return f"{environ.get('REMOTE_USER') or 'unknown user'} at {environ.get('REMOTE_ADDR') or 'unknown address'}"


def _query(environ: WSGIEnvironment, name: str) -> str:
    values = parse_qs(environ.get("QUERY_STRING", "")).get(name)
    return values[0] if values else ""


def _host(environ: WSGIEnvironment) -> str:
    """The name in the Host header, without the port."""
    host = str(environ.get("HTTP_HOST", "")).lower()
    head, colon, port = host.rpartition(":")
    return head if colon and port.isdigit() else host


def _token(environ: WSGIEnvironment) -> str:
    """The token in the request's cookie; empty without one."""
    try:
        found = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(COOKIE)
    except CookieError:
        return ""
    value = "" if found is None else found.value
    return value if len(value) == 43 and value.isascii() and value.replace("-", "").replace("_", "").isalnum() else ""


def _cookie(environ: WSGIEnvironment, token: str) -> str:
    path = quote(environ.get("SCRIPT_NAME", "").rstrip("/")) + "/"
    secure = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
    return f"{COOKIE}={token}; Path={path}; HttpOnly; SameSite=Strict{secure}"


def _check_same_origin(environ: WSGIEnvironment) -> None:
    """Refuses cross-site requests: the origin must be the page's own, and the token must match its cookie."""
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), str(environ.get("HTTP_ORIGIN", ""))
    same = origin.rpartition("//")[2].lower() == str(environ.get("HTTP_HOST", "")).lower() != ""
    # Pages can't forge Sec-Fetch-Site. Browsers omit it over plain HTTP; behind a proxy Host may differ from Origin.
    if not (site == "same-origin" if site is not None else same):
        raise RefusalError(403, "cross-site request refused")
    sent, kept = str(environ.get("HTTP_X_GOPLUGINS_TOKEN", "")), _token(environ)
    if not kept or not secrets.compare_digest(sent.encode("latin-1", "replace"), kept.encode()):
        raise RefusalError(403, "the page's token has expired: reload the page")


# --- replies -------------------------------------------------------------------------------------------------------


class _Reply:
    """The answer to one request."""

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._silent = environ["REQUEST_METHOD"] == "HEAD"
        self._start_response = start_response

    def start(self, status: int, *headers: tuple[str, str]) -> None:
        self._start_response(f"{status} {HTTPStatus(status).phrase}", [*headers, *_SECURITY])

    def send(self, status: int, body: bytes, kind: str, *headers: tuple[str, str]) -> Iterable[bytes]:
        described = [("Content-Type", kind), ("Content-Length", str(len(body)))] if kind else []
        self.start(status, *described, *headers)
        return [] if self._silent else [body]

    def json(self, status: int, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
        headers = headers or (("Cache-Control", "no-store"),)
        # Lone surrogates become the escapes that JSON has for them.
        return self.send(status, text.encode("utf-8", "backslashreplace"), "application/json; charset=utf-8", *headers)

    def error(self, status: int, message: str, *headers: tuple[str, str]) -> Iterable[bytes]:
        return self.json(status, _json({"error": message}), ("Cache-Control", "no-store"), *headers)


def _json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, default=default)


def _file(name: str, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
    try:
        found = asset(name)
    except KeyError:
        return reply.error(404, "no such file")
    caching = (("Cache-Control", "no-cache"), ("ETag", found.tag))
    if environ.get("HTTP_IF_NONE_MATCH") == found.tag:
        return reply.send(304, b"", "", *caching)
    return reply.send(200, found.data, found.type, *caching)
