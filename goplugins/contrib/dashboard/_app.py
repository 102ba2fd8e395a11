"""The dashboard as a WSGI application: the page, its files, what it shows, and what an operator may do."""

from __future__ import annotations

import html
import json
import logging
import secrets
from collections.abc import Callable, Collection, Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from goplugins.contrib.dashboard._actions import RefusalError, perform
from goplugins.contrib.dashboard._assets import asset
from goplugins.contrib.dashboard._board import Board
from goplugins.contrib.dashboard._streams import Streams
from goplugins.errors import InvalidArgumentError, PluginNotFoundError, belongs_to_host
from goplugins.manager.control import configuration

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from goplugins.manager.manager import Manager

__all__ = ["Dashboard", "wsgi"]

logger = logging.getLogger("goplugins.dashboard")

COOKIE = "goplugins_dashboard"

_FIRST = 2.0
"""Seconds that the first viewer waits for the first snapshot."""

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
"""Says of a request whether it may; the host's own login is in its environment."""


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
        streams: int = 2,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.board = board
        self._authorize = authorize
        self._may_view = may_view
        self._actor = actor or _remote
        self._title = title
        self._streams = Streams(board, streams)
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
            raise RefusalError(403, "this dashboard does not answer to that host name")
        if self._may_view is not None and not _allows(self._may_view, environ):
            raise RefusalError(403, "not allowed")

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
        show = {"/": self._page, "/state": self._state, "/events": self._events, "/config": self._config}.get(path)
        if show is None:
            raise RefusalError(404, "there is nothing here")
        return show(environ, reply)

    # --- what is shown -------------------------------------------------------------------------------------------

    def _page(self, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
        self.board.look()  # by the time the page asks, there is something to show
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
        return reply.send(200, text.encode(), page.type, ("Cache-Control", "no-store"), *headers)

    def _state(self, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
        snapshot = self.board.snapshot
        self.board.look()
        if not snapshot.tick:
            snapshot = self.board.wait(snapshot, _FIRST)
        since = _query(environ, "since")
        return reply.json(200, snapshot.message(since))

    def _events(self, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
        """A stream, where the host has a thread to spare for it; else nothing, and the page asks each second."""
        stream = None
        if environ.get("wsgi.multithread") and environ["REQUEST_METHOD"] == "GET":
            stream = self._streams.admit(environ.get("HTTP_LAST_EVENT_ID", "") or _query(environ, "since"))
        if stream is None:
            return reply.send(204, b"", "", ("Cache-Control", "no-store"))
        no_buffers = (("Cache-Control", "no-store, no-transform"), ("X-Accel-Buffering", "no"))
        reply.start(200, ("Content-Type", "text/event-stream; charset=utf-8"), *no_buffers)
        return stream

    def _config(self, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
        values = configuration(self.board.manager, _query(environ, "plugin"))
        # What only code can hold is named by its class.
        return reply.json(200, _json(values, default=lambda value: f"<{type(value).__name__}>"))

    # --- what is done --------------------------------------------------------------------------------------------

    def _may_act(self, environ: WSGIEnvironment) -> bool:
        return self._authorize is not None and _allows(self._authorize, environ)

    def _act(self, environ: WSGIEnvironment, reply: _Reply, action: str) -> Iterable[bytes]:
        if not self._may_act(environ):
            raise RefusalError(403, "this dashboard is read-only for you")
        _check_same_origin(environ)
        return reply.json(200, _json({"message": perform(self.board.manager, action, environ, self._actor(environ))}))


def wsgi(
    manager: Manager[Any, Any],
    *,
    authorize: Allow | None = None,
    may_view: Allow | None = None,
    actor: Callable[[WSGIEnvironment], str] | None = None,
    title: str = "goplugins",
    streams: int = 2,
    hosts: Collection[str] | None = None,
) -> Dashboard:
    """A page that shows how a manager's plugins are doing, as a WSGI application for any prefix.

    It costs nothing while nobody looks: no thread, and no more work for a call.

    Args:
        manager: whose plugins.
        authorize: given a request's environment, says whether it may reset breakers, disable plugins and drain
            members. Without it the page is read-only.
        may_view: says the same of looking at all. Without it, whoever reaches the application may look: put it
            behind the host's login.
        actor: says who it is, for log and audit trail; by default ``REMOTE_USER`` and the address.
        title: the page's.
        streams: viewers that may each hold one of the host's threads to be told at once; others ask each second.
        hosts: names in the ``Host`` header that are answered; any when None.

    Raises:
        InvalidArgumentError: ``streams`` is no count.

    >>> from goplugins import Manager
    >>> from wsgiref.util import setup_testing_defaults
    >>> dashboard = wsgi(Manager())
    >>> environ = {"PATH_INFO": "/static/app.css"}
    >>> setup_testing_defaults(environ)
    >>> css = dashboard(environ, lambda status, headers: print(status))
    200 OK
    """
    if isinstance(streams, bool) or not isinstance(streams, int) or streams < 0:
        raise InvalidArgumentError(f"streams: expected a count, got {streams!r}")
    return Dashboard(
        Board(manager), authorize=authorize, may_view=may_view, actor=actor, title=title, streams=streams, hosts=hosts
    )


# --- requests ------------------------------------------------------------------------------------------------------


def _allows(allow: Allow, environ: WSGIEnvironment) -> bool:
    """What the host's function says; no if it fails."""
    try:
        return bool(allow(environ))
    except Exception as exc:
        if belongs_to_host(exc):
            raise
        logger.exception("refused, since %r failed", allow)
        return False


def _remote(environ: WSGIEnvironment) -> str:
    return f"{environ.get('REMOTE_USER') or 'somebody'} at {environ.get('REMOTE_ADDR') or 'an unknown address'}"


def _query(environ: WSGIEnvironment, name: str) -> str:
    values = parse_qs(environ.get("QUERY_STRING", "")).get(name)
    return values[0] if values else ""


def _host(environ: WSGIEnvironment) -> str:
    """The name that the request was made to, without the port."""
    host = str(environ.get("HTTP_HOST", "")).lower()
    head, colon, port = host.rpartition(":")
    return head if colon and port.isdigit() else host


def _token(environ: WSGIEnvironment) -> str:
    """The token that the browser keeps; empty without one."""
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
    """Refuses what another site's page makes a browser send. Two independent proofs are needed."""
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), str(environ.get("HTTP_ORIGIN", ""))
    same = origin.rpartition("//")[2].lower() == str(environ.get("HTTP_HOST", "")).lower() != ""
    # No page can forge the first. It is left out over plain HTTP; behind a proxy the host may be another.
    if not (site == "same-origin" if site is not None else same):
        raise RefusalError(403, "the request comes from another site")
    sent, kept = str(environ.get("HTTP_X_GOPLUGINS_TOKEN", "")), _token(environ)
    if not kept or not secrets.compare_digest(sent.encode("latin-1", "replace"), kept.encode()):
        raise RefusalError(403, "the page is too old: reload it")


# --- replies -------------------------------------------------------------------------------------------------------

_REASONS = {
    200: "OK",
    204: "No Content",
    304: "Not Modified",
    308: "Permanent Redirect",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
}


class _Reply:
    """The answer to one request."""

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._silent = environ["REQUEST_METHOD"] == "HEAD"
        self._start_response = start_response

    def start(self, status: int, *headers: tuple[str, str]) -> None:
        self._start_response(f"{status} {_REASONS[status]}", [*headers, *_SECURITY])

    def send(self, status: int, body: bytes, kind: str, *headers: tuple[str, str]) -> Iterable[bytes]:
        described = [("Content-Type", kind), ("Content-Length", str(len(body)))] if kind else []
        self.start(status, *described, *headers)
        return [] if self._silent else [body]

    def json(self, status: int, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
        no_store = ("Cache-Control", "no-store")
        return self.send(status, text.encode(), "application/json; charset=utf-8", no_store, *headers)

    def error(self, status: int, message: str, *headers: tuple[str, str]) -> Iterable[bytes]:
        return self.json(status, _json({"error": message}), *headers)


def _json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, default=default)


def _file(name: str, environ: WSGIEnvironment, reply: _Reply) -> Iterable[bytes]:
    try:
        found = asset(name)
    except KeyError:
        return reply.error(404, "there is no such file")
    caching = (("Cache-Control", "no-cache"), ("ETag", found.tag))
    if environ.get("HTTP_IF_NONE_MATCH") == found.tag:
        return reply.send(304, b"", "", *caching)
    return reply.send(200, found.data, found.type, *caching)
