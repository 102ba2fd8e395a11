"""The messages of ``plugin.proto`` and of the standard health service.

Built at first use from the compiled descriptors, in a descriptor pool of their own. Generated code would bind the
package to the protobuf version that generated it, and would register names such as ``HealthRequest`` in the pool that
all messages of a process share.
"""

from __future__ import annotations

import base64
import functools
import zlib
from typing import Any

import attrs

from goplugins.errors import BadReplyError
from goplugins.models.plugin import OperationInfo, PluginInfo
from goplugins.transports.envelope import parse_object
from goplugins.transports.grpc.descriptors import DESCRIPTORS

EXECUTE = "/PluginService/Execute"
HEALTH = "/PluginService/Health"
INFO = "/PluginService/Info"
CHECK = "/grpc.health.v1.Health/Check"


@attrs.frozen
class Messages:
    """The message classes."""

    ExecuteRequest: Any
    ExecuteResponse: Any
    HealthRequest: Any
    HealthResponse: Any
    InfoRequest: Any
    InfoResponse: Any
    OperationInfo: Any
    HealthCheckRequest: Any
    HealthCheckResponse: Any


@functools.cache
def messages() -> Messages:
    """The classes, made once per process."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    pool = DescriptorPool()
    classes: dict[str, Any] = {}
    for file in FileDescriptorSet.FromString(zlib.decompress(base64.b64decode(DESCRIPTORS))).file:
        pool.AddSerializedFile(file.SerializeToString())
        for name, descriptor in pool.FindFileByName(file.name).message_types_by_name.items():
            classes[name] = GetMessageClass(descriptor)
    return Messages(**classes)


def parse(kind: Any, data: bytes) -> Any:
    """A reply as a message.

    Raises:
        BadReplyError: the bytes are no such message.
    """
    try:
        return kind.FromString(data)
    except Exception as exc:
        from google.protobuf.message import DecodeError

        if not isinstance(exc, DecodeError):
            raise
        raise BadReplyError(f"the reply is no {kind.DESCRIPTOR.name}: {exc}") from exc


def read_info(data: bytes, name: str) -> PluginInfo:
    """A plugin's reply to an info request; ``name`` where it states none.

    Raises:
        BadReplyError: the bytes are no such message, or a schema is no JSON object.
    """
    found = parse(messages().InfoResponse, data)
    return PluginInfo(
        name=found.name or name,
        version=found.version,
        description=found.description,
        author=found.author,
        capabilities=tuple(found.capabilities),
        metadata=dict(found.metadata),
        operations={each.name: _operation(each) for each in found.operations},
    )


def _operation(found: Any) -> OperationInfo:
    request, response = (
        parse_object(text.encode()) if text else {} for text in (found.request_schema, found.response_schema)
    )
    return OperationInfo(found.description, found.idempotent, found.is_default, request, response)
