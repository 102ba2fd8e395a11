"""Bodies of REST requests: JSON, forms, files, and raw text or bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from goplugins.errors import InvalidArgumentError
from goplugins.models.file import File
from goplugins.transports.http.rest.request_fields import scalar_text, value_texts
from goplugins.transports.json_codec import codec_for

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
_BYTES = "application/octet-stream"
_TEXT = "text/plain; charset=utf-8"


def form_body(fields: Mapping[str, Any], where: str) -> bytes:
    """A form; lists repeat the name, and None is left out.

    Raises:
        InvalidArgumentError: a value is a table.

    >>> form_body({"q": "a b", "tag": ["x", "y"], "none": None}, "")
    b'q=a+b&tag=x&tag=y'
    """
    pairs = [(name, text) for name, value in fields.items() for text in value_texts(value, where, name)]
    return urlencode(pairs).encode("ascii")


def raw_body(value: Any, where: str) -> tuple[bytes, str]:
    """Bytes or text as they are, and their content type.

    Raises:
        InvalidArgumentError: the value is something else.
    """
    if isinstance(value, str):
        return value.encode(), _TEXT
    if isinstance(value, File):
        return value.content, value.content_type
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), _BYTES
    raise InvalidArgumentError(f"{where}: a raw body is bytes, a text or a File, and this is a {type(value).__name__}")


def single_value(fields: Mapping[str, Any], where: str) -> Any:
    """The one field that a raw body is.

    Raises:
        InvalidArgumentError: there is none, or more than one.
    """
    if len(fields) == 1:
        return next(iter(fields.values()))
    found = f"has {', '.join(fields)}" if fields else "has no field left"
    raise InvalidArgumentError(f"{where}: a raw body is one field of the request, and it {found}")


def multipart_body(fields: Mapping[str, Any], where: str) -> tuple[bytes, str]:
    """A form with files (RFC 7578), and its content type with the boundary.

    Raises:
        InvalidArgumentError: a value that no part can be.
    """
    from urllib3.filepost import encode_multipart_formdata

    return encode_multipart_formdata(list(_parts(fields, where)))


def _parts(fields: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, File):
                yield name, (each.name, each.content, each.content_type)
            elif isinstance(each, bytes | bytearray | memoryview):
                yield name, (name, bytes(each), _BYTES)
            elif each is not None:
                yield name, _text_part(each)


def _text_part(value: Any) -> Any:
    text = scalar_text(value)
    return text if text is not None else (None, codec_for().encode(value), JSON)
