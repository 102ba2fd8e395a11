"""Text from outside (plugins, proxies, programs, callers), made safe for errors, log lines and terminals."""

from __future__ import annotations

CUT = "…"
"""Ends a text that was cut: masking recognises by it the beginning of a credential whose end is gone."""


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


def cut(text: str, limit: int) -> str:
    """The text with ``limit`` characters at most; one that was longer ends with :data:`CUT`.

    >>> cut("four", 4), cut("longer", 4)
    ('four', 'lon…')
    """
    return text if len(text) <= limit else text[: limit - 1] + CUT


def counted(count: float, noun: str) -> str:
    """The count with the noun, in the singular for one.

    >>> counted(1, "failed check"), counted(2, "failed check"), counted(2.50, "call")
    ('1 failed check', '2 failed checks', '2.5 calls')
    """
    return f"{count:{'' if isinstance(count, int) else 'g'}} {noun}{'' if count == 1 else 's'}"


def from_outside(text: str | bytes, limit: int) -> str:
    r"""A remote text where it becomes an error, a health status or a log line: one line of bounded length.

    Credentials are masked where they are known: before this, or after it, by means of :data:`CUT`.

    Args:
        text: bytes are read as UTF-8, and bytes that are not are escaped.
        limit: characters of the result at most; a text that was longer ends with :data:`CUT`.

    >>> from_outside("busy\n", 100), from_outside(b"caf\xc3\xa9 \xff\tnext", 100), from_outside("x" * 9, 4)
    ('busy', 'café \\xff\tnext', 'xxx…')
    """
    found = text.rstrip()
    if isinstance(found, bytes):
        end = 4 * limit  # a character has 4 bytes at most, so that one which this divides is beyond the limit
        found = found[:end].decode("utf-8", "backslashreplace") + CUT * (len(found) > end)
    found = cut(found, limit)
    return found if found.isprintable() else cut("\t".join(map(one_line, found.split("\t"))), limit)
