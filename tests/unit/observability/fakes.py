"""Plugins of the tests of observability."""

from __future__ import annotations

import pytest


def echo(request: str) -> str:
    return request


ECHO = {"name": "echo", "transport": "python", "endpoint": f"{__name__}:echo"}


class Raiser:
    """A plugin that raises the class of error that is its request."""

    def info(self):
        raise NotImplementedError

    def health(self, timeout):
        raise NotImplementedError

    def close(self):
        pass

    def execute(self, request, context):
        if request is not None:
            raise request("s3cret-free text")


def fail(manager, error, times=1):
    for _ in range(times):
        with pytest.raises(error):
            manager.execute("moody", error)
