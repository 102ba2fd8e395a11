"""Deadline and id of a request, for the plugin calls that it makes."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase

from goplugins.contrib._request_limits import Scope
from goplugins.contrib.django import project_settings
from goplugins.doctor import bounded_here

__all__ = ["PluginCallsMiddleware"]

_Answer = HttpResponseBase | Awaitable[HttpResponseBase]


class PluginCallsMiddleware:
    """Bounds the calls of each request, and gives them its id; for ``MIDDLEWARE``, near the top.

    Calls of a request end before ``GOPLUGINS["TIMEOUT"]``, before the timeout in its headers, and before the server
    ends the worker, whichever comes first. While a streamed response is sent, only the latter two apply. Works in
    synchronous and in asynchronous stacks.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], _Answer]) -> None:
        self._get_response = get_response
        project_settings()  # wrong settings are reported when the server starts, not to the first user
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        bounded_here()

    def __call__(self, request: HttpRequest) -> _Answer:
        """Answers a request; returns a coroutine in an asynchronous stack."""
        scope = project_settings().limits.scope(request.headers.get)
        if self._is_async:
            return self._answer_async(request, scope)
        with scope.answering():
            response = cast(HttpResponseBase, self._get_response(request))
        return self._finish(response, scope)

    async def _answer_async(self, request: HttpRequest, scope: Scope) -> HttpResponseBase:
        with scope.answering():
            response = await cast(Awaitable[HttpResponseBase], self._get_response(request))
        return self._finish(response, scope)

    def _finish(self, response: HttpResponseBase, scope: Scope) -> HttpResponseBase:
        if scope.request_id is not None:
            response.headers.setdefault(project_settings().limits.request_id_header, scope.request_id)
        # The server sends the file of a FileResponse itself; without a file it streams as any other response.
        if isinstance(response, StreamingHttpResponse) and getattr(response, "file_to_stream", None) is None:
            if response.is_async:
                response.streaming_content = _steps_async(cast(AsyncIterable[bytes], response.streaming_content), scope)
            else:
                response.streaming_content = _steps(cast(Iterable[bytes], response.streaming_content), scope)
        return response


def _steps(parts: Iterable[bytes], scope: Scope) -> Iterator[bytes]:
    steps = iter(parts)
    while True:
        with scope.streaming():  # not while a part is being sent: other code may run on this thread meanwhile
            try:
                part = next(steps)
            except StopIteration:
                return
        yield part


async def _steps_async(parts: AsyncIterable[bytes], scope: Scope) -> AsyncIterator[bytes]:
    steps = aiter(parts)
    while True:
        with scope.streaming():
            try:
                part = await anext(steps)
            except StopAsyncIteration:
                return
        yield part
