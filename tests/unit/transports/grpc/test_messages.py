"""The message classes are those of the .proto files, which other languages compile."""

from __future__ import annotations

import base64
import subprocess
import sys
import zlib

import pytest

from goplugins.transports.grpc.descriptors import DESCRIPTORS
from goplugins.transports.grpc.messages import EXECUTE, HEALTH, INFO, messages


def test_descriptors_are_those_of_the_proto_files():
    pytest.importorskip("grpc_tools")
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    from tests.protoc import compiled

    built_in = FileDescriptorSet.FromString(zlib.decompress(base64.b64decode(DESCRIPTORS)))
    assert built_in == FileDescriptorSet.FromString(compiled()), "run `make proto`"


def test_methods_are_those_of_the_proto_file():
    service = messages().ExecuteRequest.DESCRIPTOR.file.services_by_name["PluginService"]
    assert [f"/{service.full_name}/{name}" for name in service.methods_by_name] == [EXECUTE, HEALTH, INFO]
    for name, method in service.methods_by_name.items():
        assert (method.input_type.name, method.output_type.name) == (f"{name}Request", f"{name}Response")


def test_bytes_on_the_wire():
    """Field by field, as any protobuf implementation writes them."""
    message = messages().ExecuteRequest(payload=b"7", request_id="r", timeout_ms=300)
    message.headers["a"] = "b"
    assert message.SerializeToString(deterministic=True) == (
        b"\x0a\x017" + b"\x12\x01r" + b"\x1a\x06\x0a\x01a\x12\x01b" + b"\x28\xac\x02"
    )


def test_messages_are_not_registered_in_the_default_pool():
    script = """
from google.protobuf import descriptor_pool
from goplugins.transports.grpc.messages import messages
messages()
for name in ("ExecuteRequest", "HealthRequest", "grpc.health.v1.HealthCheckRequest"):
    try:
        descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        continue
    raise SystemExit(f"{name} is registered")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
