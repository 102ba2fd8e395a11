"""A gRPC call that another thread may end."""

from __future__ import annotations

from typing import Any

from goplugins.runtime.cancellation import AttemptCancelledError, Cancellation
from goplugins.runtime.clock import Waiter

__all__ = ["call_unless"]

_PATIENCE = 1.0
"""Seconds that the worker of a cancelled call waits for its end, which takes far less than a millisecond."""


def call_unless(
    cancellation: Cancellation, invoke: Any, request: bytes, timeout: float, metadata: Any
) -> tuple[bytes, Any]:
    """The reply and the finished call.

    Whoever cancels only wakes this thread, which then ends the call: grpc's own way to do so takes a lock that an
    interrupt of that other thread, where signal handlers may run, could leave held, for the whole channel.

    Raises:
        grpc.RpcError: as a blocking call does.
        AttemptCancelledError: it was cancelled.
    """
    news, over = Waiter(), Waiter()

    def done(_: object) -> None:
        over.set()
        news.set()

    rpc = invoke.future(request, timeout, metadata)
    rpc.add_done_callback(done)
    try:
        cancellation.guard(news.set, news.wait)
    except AttemptCancelledError:
        rpc.cancel()
        over.wait(_PATIENCE)  # or a fork could take the call for one that has ended
        raise
    return rpc.result(), rpc
