"""Compiles the .proto files of the gRPC transport: ``python -m tests.protoc`` prints ``descriptors.py`` beside them."""

from __future__ import annotations

import base64
import tempfile
import zlib
from pathlib import Path
from textwrap import wrap

import grpc_tools.protoc

import goplugins

FOLDER = Path(goplugins.__file__).parent / "transports" / "grpc"

_MODULE = '''"""The FileDescriptorSet of plugin.proto and health.proto in base64(zlib). Written by ``make proto``."""

from __future__ import annotations

DESCRIPTORS = (
{lines}
)
'''


def compiled() -> bytes:
    """The serialized FileDescriptorSet."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "set")
        names = sorted(path.name for path in FOLDER.glob("*.proto"))
        if grpc_tools.protoc.main(["protoc", f"-I{FOLDER}", f"--descriptor_set_out={out}", *names]):
            raise SystemExit(1)
        return out.read_bytes()


if __name__ == "__main__":
    text = base64.b64encode(zlib.compress(compiled(), 9)).decode()
    print(_MODULE.format(lines="\n".join(f'    "{line}"' for line in wrap(text, 110))), end="")
