"""The URLs of the project."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from goplugins.contrib.django import current_request_id, plugins
from goplugins.contrib.django.views import health

probe = plugins.bind("probe", str, dict)  # at import, before there is a manager


def view(request: HttpRequest) -> JsonResponse:
    return JsonResponse(probe(""))


async def async_view(request: HttpRequest) -> JsonResponse:
    return JsonResponse(await sync_to_async(probe)(""))


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("of a view")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for _ in range(2):
            yield json.dumps(probe("")) + "\n"

    return StreamingHttpResponse(parts())


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for _ in range(2):
            yield json.dumps(await sync_to_async(probe)("")) + "\n"

    return StreamingHttpResponse(parts())


def own_id(request: HttpRequest) -> HttpResponse:
    return HttpResponse(current_request_id(), headers={"X-Request-ID": "mine"})


urlpatterns = [
    path("view", view),
    path("async", async_view),
    path("broken", broken),
    path("stream", stream),
    path("async-stream", async_stream),
    path("own-id", own_id),
    path("health", health),
]
