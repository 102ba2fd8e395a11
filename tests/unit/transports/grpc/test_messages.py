"""The messages that are built at run time are those of plugin.proto, which is for everybody else."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files

import pytest

from goplugins.transports.grpc.messages import EXECUTE, FIELDS, HEALTH, INFO, messages

PROTO = re.sub(r"//.*", "", files("goplugins.transports.grpc").joinpath("plugin.proto").read_text())
_KINDS = {"map<string, string>": "map", "repeated string": "strings"}


def test_fields_are_those_of_the_proto_file():
    found = {}
    for name, body in re.findall(r"message (\w+) \{(.*?)\}", PROTO, re.DOTALL):
        fields = re.findall(r"([\w<>, ]+?) (\w+) = (\d+);", body)
        found[name] = {field: (_KINDS.get(kind.strip(), kind.strip()), int(number)) for kind, field, number in fields}
    assert found == FIELDS


def test_methods_are_those_of_the_proto_file():
    methods = re.findall(r"rpc (\w+)\((\w+)\) returns \((\w+)\)", PROTO)
    assert [f"/PluginService/{name}" for name, _, _ in methods] == [EXECUTE, HEALTH, INFO]
    assert all((request, response) == (f"{name}Request", f"{name}Response") for name, request, response in methods)
    assert "package" not in PROTO.split("service")[0]


def test_bytes_on_the_wire():
    """Field by field, as any protobuf implementation writes it."""
    message = messages().ExecuteRequest(payload=b"7", request_id="r", timeout_ms=300)
    message.headers["a"] = "b"
    assert message.SerializeToString(deterministic=True) == (
        b"\x0a\x017" + b"\x12\x01r" + b"\x1a\x06\x0a\x01a\x12\x01b" + b"\x28\xac\x02"
    )


def test_messages_stay_out_of_the_pool_that_everybody_shares():
    script = """
from google.protobuf import descriptor_pool
from goplugins.transports.grpc.messages import messages
messages()
for name in ("ExecuteRequest", "HealthRequest", "grpc.health.v1.HealthCheckRequest"):
    try:
        descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        continue
    raise SystemExit(f"{name} is there")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_compiled_by_protoc_it_is_the_same(tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    source = files("goplugins.transports.grpc").joinpath("plugin.proto")
    out = tmp_path / "set.pb"
    code = protoc.main(["protoc", f"-I{source.parent}", f"--descriptor_set_out={out}", str(source)])
    assert code == 0
    compiled = FileDescriptorSet.FromString(out.read_bytes()).file[0]
    for message in compiled.message_type:
        ours = type(compiled.message_type[0])()
        getattr(messages(), message.name).DESCRIPTOR.CopyToProto(ours)
        for field in (field for kind in (message, *message.nested_type) for field in kind.field):
            field.ClearField("json_name")
        for field in (field for kind in (ours, *ours.nested_type) for field in kind.field):
            field.ClearField("json_name")
        assert ours == message
