"""A file in a request."""

from __future__ import annotations

import mimetypes
from os import PathLike, path
from typing import Self

import attrs

__all__ = ["File"]

_ANY = "application/octet-stream"


@attrs.frozen
class File:
    """A file that a REST operation with ``body: multipart`` or ``body: raw`` uploads.

    Attributes:
        content: its bytes.
        name: its name, for multipart.
        content_type: its media type.

    >>> File(b"a,b", name="table.csv", content_type="text/csv")
    File(3 bytes, name='table.csv', content_type='text/csv')
    """

    content: bytes = attrs.field(repr=False)
    name: str = "file"
    content_type: str = _ANY

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
