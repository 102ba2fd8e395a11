"""A file in a request."""

from __future__ import annotations

import mimetypes
from os import PathLike, path
from typing import Any, Self

import attrs

from goplugins.errors import InvalidArgumentError
from goplugins.headers import check_headers, check_latin_1

__all__ = ["File"]

_ANY = "application/octet-stream"


def _bytes(content: Any) -> bytes:
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise InvalidArgumentError(f"File: its content is bytes, and this is a {type(content).__name__}")


def _check_type(_: Any, __: Any, value: str) -> None:
    check_headers({"content_type": value}, "File")
    check_latin_1({"content_type": value}, "File")


@attrs.frozen
class File:
    """A file that a REST operation with ``body: multipart`` or ``body: raw`` uploads.

    Attributes:
        content: its bytes; a text must be encoded first.
        name: its name, for multipart.
        content_type: its media type.

    Raises:
        InvalidArgumentError: the content is not bytes, or the type has a line break.

    >>> File(b"a,b", name="table.csv", content_type="text/csv")
    File(3 bytes, name='table.csv', content_type='text/csv')
    """

    content: bytes = attrs.field(repr=False, converter=_bytes)
    name: str = "file"
    content_type: str = attrs.field(default=_ANY, validator=_check_type)

    @classmethod
    def read(cls, source: str | PathLike[str], content_type: str | None = None) -> Self:
        """The file at a path, whole; its type follows from its name if it is not given.

        Raises:
            OSError: it can't be read.
        """
        with open(source, "rb") as stream:
            content = stream.read()
        name = path.basename(source)
        return cls(content, name, content_type or mimetypes.guess_type(name)[0] or _ANY)

    def __repr__(self) -> str:
        return f"File({len(self.content)} bytes, name={self.name!r}, content_type={self.content_type!r})"
