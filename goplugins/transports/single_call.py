"""A single attempt over a sender, outside the policies."""

from __future__ import annotations

import uuid
from typing import Any

from goplugins.errors import local_failure
from goplugins.models.context import ExecutionContext
from goplugins.runtime.call import Call, Codec
from goplugins.runtime.clock import Clock
from goplugins.runtime.deadline import Deadline
from goplugins.runtime.fork import FORK_MARK, renew_after_fork
from goplugins.transports.interface import Sender
from goplugins.transports.json_codec import codec_for


def single_call(
    sender: Sender,
    request: Any,
    context: ExecutionContext,
    *,
    timeout: float,
    idempotent: bool,
    clock: Clock,
    codec: Codec | None = None,
) -> Any:
    """One attempt over ``sender``; ``timeout`` (seconds) and ``idempotent`` hold where the context says nothing.

    Without a ``codec``, requests and answers are plain JSON values.

    Raises:
        PluginError: the attempt failed.
    """
    if not FORK_MARK[0]:
        renew_after_fork()
    call = Call(
        request,
        codec or codec_for(),
        Deadline.after(timeout if context.timeout is None else context.timeout, clock),
        context.request_id or uuid.uuid4().hex,
        headers=context.headers,
        metadata=context.metadata,
        idempotent=idempotent if context.idempotent is None else context.idempotent,
        key=context.key,
        priority=context.priority,
        preferences=context.preferences,
        operation=context.operation,
    )
    sender.prepare(call)
    call.attempts = 1
    try:
        return sender.send(call)
    except Exception as exc:
        local = local_failure(exc)
        if local is None or local is exc:
            raise
        try:
            raise local from local.__cause__
        finally:
            del local, exc  # their tracebacks hold this frame: no work for the collector
