"""One call over a Unix socket and one to a subprocess, against the raw socket and the raw pipes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.groups.http import OURS, envelope_of, executing
from benchmarks.harness import Call, Group, Ratio
from benchmarks.messages import Question, question_of
from benchmarks.server import Server, running_server

__all__ = ["GROUPS"]

_RAW_SOCKET = "raw Unix socket + json"
_RAW_PIPES = "raw pipes + json"
_ROOT = Path(__file__).resolve().parents[2]


def _unix(name: str, title: str, size: int, target: float | None) -> Group:
    return Group(
        name=name,
        title=title,
        environment=functools.partial(running_server, size),
        ratios=(Ratio(f"{title}: vs raw socket + json, the limit", OURS, _RAW_SOCKET, target),),
    )


def _exec(name: str, title: str, size: int, target: float | None) -> Group:
    return Group(
        name=name,
        title=title,
        environment=lambda: contextlib.nullcontext(size),
        ratios=(Ratio(f"{title}: vs raw pipes + json, the limit", OURS, _RAW_PIPES, target),),
    )


_UNIX = (
    _unix("unix", "Unix socket, 64 bytes", 64, 1.5),
    _unix("unix-64k", "Unix socket, 64 KiB", 65536, None),
)
_EXEC = (
    _exec("exec", "Subprocess, 64 bytes", 64, 1.5),
    _exec("exec-64k", "Subprocess, 64 KiB", 65536, None),
)
GROUPS = (*_UNIX, *_EXEC)


def _program(size: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.program", str(size)]


def _line_of(question: Question) -> bytes:
    envelope = envelope_of(question)
    line = {"type": "execute", "request_id": "r", "data": envelope["data"], "timeout_ms": 30000}
    return json.dumps(line).encode() + b"\n"


def _answered(reply: bytes, read: Any) -> Any:
    while not reply.endswith(b"\n"):
        reply += read(262144)
    return json.loads(reply)


def _unix_plugin(server: Server) -> Iterator[Call]:
    with executing(server.size, transport="unix", endpoint=server.unix) as call:
        yield call


def _raw_socket(server: Server) -> Iterator[Call]:
    question = question_of(server.size)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(server.unix)

        def call() -> Any:
            sock.sendall(_line_of(question))
            return _answered(sock.recv(262144), sock.recv)

        yield call


def _exec_plugin(size: int) -> Iterator[Call]:
    executable, *args = _program(size)
    with executing(size, transport="exec", executable=executable, args=args, work_dir=str(_ROOT)) as call:
        yield call


def _raw_pipes(size: int) -> Iterator[Call]:
    question = question_of(size)
    command = _program(size)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin.fileno(), process.stdout.fileno()

        def read(most: int) -> bytes:
            return os.read(stdout, most)

        def call() -> Any:
            line = _line_of(question)
            sent = os.write(stdin, line)
            while sent < len(line):
                sent += os.write(stdin, line[sent:])
            return _answered(read(262144), read)

        yield call


for _group in _UNIX:
    _group.row(OURS)(_unix_plugin)
    _group.row(_RAW_SOCKET)(_raw_socket)
for _group in _EXEC:
    _group.row(OURS)(_exec_plugin)
    _group.row(_RAW_PIPES)(_raw_pipes)
