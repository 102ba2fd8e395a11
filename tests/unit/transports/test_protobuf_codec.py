"""Protobuf messages over wires that carry JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import Int64Value

from goplugins.errors import ReplyTypeError, UnserializableRequestError
from goplugins.transports.json_codec import codec_for
from goplugins.transports.protobuf_codec import is_message_type


def test_message_types():
    assert is_message_type(FieldDescriptorProto)
    for other in (int, Any, list[int], None, FieldDescriptorProto(), object):
        assert not is_message_type(other)


def test_is_message_type_imports_nothing():
    script = (
        "import sys; from goplugins.transports.protobuf_codec import is_message_type;"
        "assert not is_message_type(int) and 'google.protobuf' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0


def test_round_trip_on_one_line():
    codec = codec_for(FileDescriptorProto, FileDescriptorProto)
    message = FileDescriptorProto(name="a\nü", public_dependency=[1, 2])
    text = codec.encode(message)
    assert b"\n" not in text
    assert text.isascii()
    assert json.loads(text) == {"name": "a\nü", "publicDependency": [1, 2]}
    assert codec.decode(json.loads(text)) == message


def test_field_names_are_read_and_unknown_ones_ignored():
    codec = codec_for(FileDescriptorProto, FileDescriptorProto)
    assert codec.decode({"public_dependency": [3], "brand_new": 1}).public_dependency == [3]


def test_a_message_class_on_one_side_only():
    assert codec_for(FileDescriptorProto, dict[str, int]).decode({"a": 1}) == {"a": 1}
    assert codec_for(list[int], FileDescriptorProto).encode([1]) == b"[1]"


def test_64_bit_integers_and_well_known_types():
    codec = codec_for(Int64Value, Int64Value)
    assert codec.decode(json.loads(codec.encode(Int64Value(value=2**63 - 1)))).value == 2**63 - 1
    assert codec_for(Struct, Struct).decode({"a": [1]})["a"][0] == 1


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"messageType": [{"field": [{"number": "x"}]}]}, "number"),
        (None, "null"),
        ([], "list"),
        ({"name": 7}, "name"),
    ],
    ids=repr,
)
def test_replies_that_do_not_fit_name_the_field(data, named):
    with pytest.raises(ReplyTypeError, match=named):
        codec_for(FileDescriptorProto, FileDescriptorProto).decode(data)


def test_requests_of_another_type():
    codec = codec_for(FileDescriptorProto, FileDescriptorProto)
    for request in (None, {}, EnumDescriptorProto()):
        with pytest.raises(UnserializableRequestError, match="expected a FileDescriptorProto"):
            codec.encode(request)
