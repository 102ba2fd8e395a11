"""A request that is about to be sent, for functions that sign it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["OutgoingRequest"]


@attrs.frozen(kw_only=True)
class OutgoingRequest:
    """What a function of ``auth.provider`` gets: one attempt, as it will be sent.

    Attributes:
        plugin: the plugin's name.
        operation: of the call; empty for none, and for a health check.
        method: the HTTP method; POST for gRPC; ``execute`` or the type of another line on unix and exec.
        url: with path and query, as they are sent.
        headers: all that are set so far, ``Host`` included, as they are sent. Those that the function returns replace
            them.
        body: as it is sent; on unix and exec the request's JSON, without its line.
    """

    plugin: str
    operation: str
    method: str
    url: str = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
