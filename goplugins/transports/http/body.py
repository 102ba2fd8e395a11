"""Reply bodies: collected whole, within their cap before and after decompression; of errors, what can be read."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from goplugins.errors import BadReplyError, PluginError, ReplyTooLargeError, TruncatedReplyError
from goplugins.runtime.text import cut

_GZIP, _ZLIB, _RAW = 31, 15, -15
_GZIP_NAMES = ("gzip", "x-gzip")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def check_encoding(encoding: str) -> str:
    """The normalised Content-Encoding; empty for none.

    Raises:
        BadReplyError: an encoding that the request did not accept.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return ""
    if encoding in _GZIP_NAMES:
        return "gzip"
    if encoding == "deflate":
        return encoding
    raise BadReplyError(f"the reply's Content-Encoding is {cut(encoding, 40)!r}, which the request did not accept")


def collect(chunks: Iterable[bytes], encoding: str, limit: int) -> bytes:
    """The body in ``chunks``, decompressed; reads no further once it is too large.

    Raises:
        ReplyTooLargeError: more than ``limit`` bytes, as sent or decompressed.
        BadReplyError: the compressed data is broken.
        TruncatedReplyError: the compressed data ends too early.
    """
    return b"".join(_pieces(chunks, encoding, limit))


def collect_error(
    chunks: Iterable[bytes], encoding: str, limit: int, is_failure: Callable[[Exception], bool]
) -> tuple[bytes, bool]:
    """As much of the body as can be read, and whether that is all of it: of a reply that its status has judged already.

    Args:
        chunks: as received.
        encoding: the Content-Encoding, as received.
        limit: bytes at most.
        is_failure: whether an exception means that the rest can't be read; others are raised.
    """
    found: list[bytes] = []
    try:
        found += _pieces(chunks, check_encoding(encoding), limit)
    except Exception as exc:
        if not isinstance(exc, PluginError) and not is_failure(exc):
            raise
        return b"".join(found), False
    return b"".join(found), True


def _pieces(chunks: Iterable[bytes], encoding: str, limit: int) -> Iterator[bytes]:
    chunks = _capped(chunks, limit)
    return _decompressed(chunks, encoding, limit) if encoding else chunks


def _capped(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise ReplyTooLargeError(f"the reply is larger than {limit} bytes")
        yield chunk


def _decompressed(chunks: Iterable[bytes], encoding: str, limit: int) -> Iterator[bytes]:
    decompressor: _Decompressor | None = None
    total = 0
    for chunk in chunks:
        data = chunk
        while data:
            if decompressor is None or decompressor.eof:
                if decompressor is not None and (encoding != "gzip" or data[:1] != b"\x1f"):
                    raise BadReplyError("the reply has bytes after the end of its compressed data")
                decompressor = _start(encoding, data)
            try:
                piece = decompressor.decompress(data, limit - total + 1)
            except zlib.error as exc:
                raise BadReplyError(f"the reply's {encoding} data is broken: {exc}") from exc
            total += len(piece)
            if total > limit:
                raise ReplyTooLargeError(f"the reply is larger than {limit} bytes once decompressed")
            yield piece
            data = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
    if decompressor is not None and not decompressor.eof:
        raise TruncatedReplyError(f"the reply's {encoding} data ends too early")


def _start(encoding: str, data: bytes) -> _Decompressor:
    if encoding == "gzip":
        return zlib.decompressobj(_GZIP)
    # "deflate" is defined as zlib, but some servers send raw deflate. A zlib stream starts with method 8 and a header
    # divisible by 31; of a single first byte, only the method can be checked.
    is_zlib = data[0] & 0x0F == 8 and (len(data) < 2 or int.from_bytes(data[:2], "big") % 31 == 0)
    return zlib.decompressobj(_ZLIB if is_zlib else _RAW)
