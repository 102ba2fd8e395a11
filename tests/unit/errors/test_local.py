"""Failures of this process or machine: recognised behind every wrapper, and never counted against a plugin."""

from __future__ import annotations

import errno
import os
import pickle
import socket

import pytest

from goplugins.errors import (
    ConnectionLostError,
    LocalResourceError,
    NameResolutionError,
    PluginConnectionError,
    PluginInternalError,
    PluginTimeoutError,
    Replay,
    Verdict,
    local_failure,
    missing_resource,
)

LOCAL = [
    *(OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)),
    OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)),
    MemoryError(),
    RuntimeError("can't start new thread"),
    socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"),
    ImportError("libz.so.1: cannot open shared object file: Too many open files"),
]
NOT_LOCAL = [
    ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    OSError(errno.ECONNRESET, "Connection reset by peer"),
    OSError(errno.EHOSTUNREACH, "No route to host"),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    TimeoutError("timed out"),
    RuntimeError("anything else"),
    ImportError("No module named grpc"),
    OSError("no number"),
    ValueError("wrong"),
]


@pytest.mark.parametrize("cause", LOCAL, ids=repr)
def test_it_is_found_by_itself_and_as_a_cause_of_a_cause(cause: Exception) -> None:
    inner = ConnectionError("wrapped")
    inner.__cause__ = cause
    for error in (cause, inner):
        failure = local_failure(error)
        assert type(failure) is LocalResourceError
        assert failure.verdict is Verdict.IGNORED
        assert failure.__cause__ is error
        assert missing_resource(cause) in failure.message


@pytest.mark.parametrize("cause", NOT_LOCAL, ids=repr)
def test_other_failures_stay_as_they_are(cause: Exception) -> None:
    error = PluginConnectionError("no connection")
    error.__cause__ = cause
    assert local_failure(cause) is None
    assert local_failure(error) is None


@pytest.mark.parametrize(
    ("wrapper", "unsent", "replay"),
    [
        (PluginConnectionError, True, Replay.ALWAYS),
        (NameResolutionError, True, Replay.ALWAYS),
        (ConnectionLostError, False, Replay.IF_IDEMPOTENT),
        (PluginTimeoutError, False, Replay.IF_IDEMPOTENT),
        (PluginInternalError, False, Replay.IF_IDEMPOTENT),
    ],
)
def test_what_may_have_been_sent_is_repeated_for_idempotent_calls_only(wrapper, unsent, replay) -> None:
    error = wrapper("failed", endpoint="http://127.0.0.1/", details={"member": "a"})
    error.__cause__ = LOCAL[0]
    failure = local_failure(error)
    assert failure is not None
    assert (failure.unsent, failure.replay) == (unsent, replay)
    assert (failure.endpoint, failure.details) == ("http://127.0.0.1/", {"member": "a"})
    again = pickle.loads(pickle.dumps(failure))
    assert (again.unsent, again.replay, str(again)) == (unsent, replay, str(failure))
    assert local_failure(failure) is failure


def test_an_exception_without_a_known_state_is_repeated_for_idempotent_calls_only() -> None:
    failure = local_failure(MemoryError())
    assert failure is not None
    assert not failure.unsent
    failure = local_failure(MemoryError(), unsent=True)
    assert failure is not None
    assert failure.replay is Replay.ALWAYS
