"""The dashboard as a Django view, behind Django's own login, permissions and middleware."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["view"]


def view(dashboard: WSGIApplication) -> Callable[..., HttpResponseBase]:
    """A view of a dashboard, for one route: everything below a prefix.

    ``re_path(r"^ops/plugins(?P<path>.*)$", staff_member_required(view(dashboard)))``; for ``authorize``, the request is
    ``environ["django.request"]``. The dashboard protects its actions itself, without Django's CSRF token.

    Args:
        dashboard: made by :func:`goplugins.contrib.dashboard.wsgi`.
    """

    @csrf_exempt
    def show(request: HttpRequest, path: str = "") -> HttpResponseBase:
        environ = {**request.META, "django.request": request}
        whole = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = whole.removesuffix(path), path
        if request.method == "POST":
            environ["wsgi.input"] = io.BytesIO(request.body)  # middleware may have read it
        started: list[Any] = []
        body = dashboard(environ, lambda *arguments: started.append(arguments))  # type: ignore[arg-type]  # no write() is needed
        status, headers = started[0][0], started[0][1]
        answer = HttpResponse(b"".join(body))
        answer.status_code = int(status.partition(" ")[0])
        del answer.headers["Content-Type"]
        for name, value in headers:
            answer.headers[name] = value
        return answer

    return show
