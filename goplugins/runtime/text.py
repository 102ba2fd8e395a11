"""Text from outside, such as a plugin's error message, made safe for log lines and terminals."""

from __future__ import annotations


def one_line(text: str) -> str:
    r"""The text with line breaks, control characters and other unprintable characters escaped.

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
