"""The plugin that is served over all transports, and its types."""

from __future__ import annotations

import os
import time

import attrs

from goplugins import serve

__all__ = ["PLUGINS", "Answer", "Ask", "twice"]

PLUGINS = ("http", "https", "grpc", "grpc-tls", "unix", "exec", "python", "group")
"""Names of the plugins in the configuration."""


@attrs.frozen
class Ask:
    """``seconds``: duration of the call; ``refuse``: the plugin rejects it."""

    value: int
    seconds: float = 0.0
    refuse: bool = False


@attrs.frozen
class Answer:
    value: int
    pid: int


@serve.plugin(name="twice", version="1.0.0")
def twice(ask: Ask) -> Answer:
    if ask.seconds:
        time.sleep(ask.seconds)
    if ask.refuse:
        raise serve.Rejected("no", code="REFUSED")
    return Answer(ask.value * 2, os.getpid())
