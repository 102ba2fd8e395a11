"""One call over gRPC, against grpcio without goplugins with the same messages and the same server."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Generator, Iterator
from typing import Any

import attrs

from benchmarks.groups.http import OURS, envelope_of, executing
from benchmarks.harness import Call, Group, Ratio
from benchmarks.messages import question_of

__all__ = ["GROUPS"]

_GRPCIO = "bare grpcio + json"


@attrs.frozen
class _Server:
    target: str
    size: int


@contextlib.contextmanager
def _running(size: int) -> Generator[_Server, None, None]:
    """Starts a server process; it inherits the CPU affinity of this process."""
    command = [sys.executable, "-m", "benchmarks.grpc_server", str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield _Server(f"127.0.0.1:{int(process.stdout.readline())}", size)
        finally:
            process.kill()


def _group(name: str, title: str, size: int, target: float | None) -> Group:
    return Group(
        name=name,
        title=title,
        environment=functools.partial(_running, size),
        ratios=(Ratio(f"{title}: vs bare grpcio + json", OURS, _GRPCIO, target),),
    )


GROUPS = (_group("grpc", "gRPC, 64 bytes", 64, 1.1), _group("grpc-64k", "gRPC, 64 KiB", 65536, None))


def _ours(server: _Server) -> Iterator[Call]:
    with executing(server.size, transport="grpc", endpoint=server.target) as call:
        yield call


def _grpcio(server: _Server) -> Iterator[Call]:
    import grpc

    from goplugins.transports.grpc.messages import EXECUTE, messages

    question, kinds = question_of(server.size), messages()
    with grpc.insecure_channel(server.target) as channel:
        execute = channel.unary_unary(
            EXECUTE,
            request_serializer=kinds.ExecuteRequest.SerializeToString,
            response_deserializer=kinds.ExecuteResponse.FromString,
        )

        def call() -> Any:
            payload = json.dumps(envelope_of(question)["data"]).encode()
            request = kinds.ExecuteRequest(payload=payload, request_id="r", timeout_ms=30000)
            return json.loads(execute(request, timeout=30).payload)

        yield call


for _one in GROUPS:
    _one.row(OURS)(_ours)
    _one.row(_GRPCIO)(_grpcio)
