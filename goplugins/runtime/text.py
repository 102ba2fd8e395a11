"""Text from outside (plugins, proxies, programs, callers), made safe for errors, log lines and terminals."""

from __future__ import annotations


def one_line(text: str) -> str:
    r"""The text with line breaks, control characters, lone surrogates and other unprintable characters escaped.

    >>> one_line("refused\nWARNING all is well")
    'refused\\nWARNING all is well'
    """
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def printable(text: object) -> str:
    r"""As :func:`one_line`, with a single space for each sequence of spaces, tabs and line breaks.

    >>> printable("red \x1b[31malert\nnext")
    'red \\x1b[31malert next'
    """
    return one_line(" ".join(str(text).split()))


def from_outside(text: str | bytes, limit: int) -> str:
    r"""A remote text where it becomes an error, a health status or a log line: one line of bounded length.

    Credentials are masked where they are known, before this.

    Args:
        text: bytes are read as UTF-8, and bytes that are not are escaped.
        limit: characters of the result at most.

    >>> from_outside("busy\n", 100), from_outside(b"caf\xc3\xa9 \xff\tnext", 100), from_outside("x" * 9, 4)
    ('busy', 'café \\xff\tnext', 'xxxx')
    """
    cut = text[:limit]
    found = (cut.decode("utf-8", "backslashreplace") if isinstance(cut, bytes) else cut).rstrip()
    return found[:limit] if found.isprintable() else "\t".join(map(one_line, found.split("\t")))[:limit]
