"""The dashboard as a Django view, so that Django's own login, permissions and middleware stand before it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["view"]


def view(dashboard: WSGIApplication) -> Callable[..., HttpResponseBase]:
    """A view of a dashboard: the one route of it is everything below a prefix.

    ``re_path(r"^ops/plugins(?P<path>.*)$", staff_member_required(view(dashboard)))``; for ``authorize``, the request is
    ``environ["django.request"]``. The dashboard protects its buttons itself: Django's CSRF token is not asked for.

    Args:
        dashboard: what :func:`goplugins.contrib.dashboard.wsgi` made.
    """

    @csrf_exempt
    def show(request: HttpRequest, path: str = "") -> HttpResponseBase:
        environ = {**request.META, "django.request": request}
        whole = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = whole.removesuffix(path), path
        if request.method == "POST":
            environ["wsgi.input"] = io.BytesIO(request.body)  # middleware may have read it
        started: list[Any] = []
        body = dashboard(environ, lambda *arguments: started.append(arguments))  # type: ignore[arg-type]  # nobody writes
        status, headers = started[0][0], started[0][1]
        whole_body = isinstance(body, list)
        answer = HttpResponse(b"".join(body)) if whole_body else StreamingHttpResponse(_Closing(body))
        answer.status_code = int(status.partition(" ")[0])
        del answer.headers["Content-Type"]
        for name, value in headers:
            answer.headers[name] = value
        return answer

    return show


class _Closing:
    """A stream whose end Django passes on."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        """Called when the answer is closed, however it came."""
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()
