"""The messages of ``plugin.proto``, and the two of the standard health service.

Built when first used, in a descriptor pool of their own. Generated code would bind the package to the protobuf that
generated it, and would claim names such as ``HealthRequest`` in the pool that all of a process's messages share.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import DescriptorProto

__all__ = ["CHECK", "EXECUTE", "FIELDS", "HEALTH", "INFO", "SERVING", "Messages", "messages"]

EXECUTE = "/PluginService/Execute"
HEALTH = "/PluginService/Health"
INFO = "/PluginService/Info"
CHECK = "/grpc.health.v1.Health/Check"

SERVING = {"unknown": 0, "serving": 1, "not_serving": 2, "service_unknown": 3}
"""``grpc.health.v1.HealthCheckResponse.ServingStatus``. On the wire an enum is the integer that it stands for."""

FIELDS: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "ExecuteRequest": {
        "payload": ("bytes", 1),
        "request_id": ("string", 2),
        "headers": ("map", 3),
        "metadata": ("map", 4),
        "timeout_ms": ("int64", 5),
    },
    "ExecuteResponse": {
        "payload": ("bytes", 1),
        "request_id": ("string", 2),
        "error": ("string", 3),
        "error_kind": ("string", 4),
        "metadata": ("map", 5),
    },
    "HealthRequest": {},
    "HealthResponse": {"status": ("string", 1), "message": ("string", 2), "metadata": ("map", 3)},
    "InfoRequest": {},
    "InfoResponse": {
        "name": ("string", 1),
        "version": ("string", 2),
        "description": ("string", 3),
        "author": ("string", 4),
        "capabilities": ("strings", 5),
        "metadata": ("map", 6),
    },
}
"""Message -> field -> type and number, as in ``plugin.proto``; a test compares the two."""

_HEALTH_FIELDS: Mapping[str, Mapping[str, tuple[str, int]]] = {
    "HealthCheckRequest": {"service": ("string", 1)},
    "HealthCheckResponse": {"status": ("int32", 1)},
}


@attrs.frozen
class Messages:
    """The message classes."""

    ExecuteRequest: Any
    ExecuteResponse: Any
    HealthRequest: Any
    HealthResponse: Any
    InfoRequest: Any
    InfoResponse: Any
    HealthCheckRequest: Any
    HealthCheckResponse: Any


@functools.cache
def messages() -> Messages:
    """The classes, made once a process."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    pool = DescriptorPool()
    classes: dict[str, Any] = {}
    for package, table in (("", FIELDS), ("grpc.health.v1", _HEALTH_FIELDS)):
        prefix = f"{package}." if package else ""
        file = FileDescriptorProto(name=f"goplugins/{package or 'plugin'}.proto", package=package, syntax="proto3")
        for name, fields in table.items():
            _describe(file.message_type.add(name=name), fields, prefix)
        pool.AddSerializedFile(file.SerializeToString())
        for name in table:
            classes[name] = GetMessageClass(pool.FindMessageTypeByName(prefix + name))
    return Messages(**classes)


def _describe(message: DescriptorProto, fields: Mapping[str, tuple[str, int]], prefix: str) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

    plain = {
        "bytes": Field.TYPE_BYTES,
        "string": Field.TYPE_STRING,
        "strings": Field.TYPE_STRING,
        "int32": Field.TYPE_INT32,
        "int64": Field.TYPE_INT64,
    }
    for name, (kind, number) in fields.items():
        label = Field.LABEL_REPEATED if kind in {"strings", "map"} else Field.LABEL_OPTIONAL
        if kind != "map":
            message.field.add(name=name, number=number, label=label, type=plain[kind])
            continue
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        for number_in_entry, key in enumerate(("key", "value"), start=1):
            entry.field.add(name=key, number=number_in_entry, label=Field.LABEL_OPTIONAL, type=Field.TYPE_STRING)
        message.field.add(
            name=name,
            number=number,
            label=label,
            type=Field.TYPE_MESSAGE,
            type_name=f".{prefix}{message.name}.{entry.name}",
        )
