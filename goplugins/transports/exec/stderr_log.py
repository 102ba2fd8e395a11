"""Logs a plugin process's stderr line by line, at a limited rate."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from goplugins.runtime.clock import Clock
from goplugins.runtime.text import CUT, from_outside

_MAX_LINE = 4096
_BURST = 200.0
_PER_SECOND = 100.0
"""Lines that are logged: enough for any traceback, too few to fill a disk."""

_LAST_LINES = 5

_CUT = CUT.encode()


class StderrLog:
    """Splits stderr into lines and logs them. Used by one thread.

    Args:
        name: the plugin's name; lines go to the logger ``goplugins.plugin.<name>``, level INFO.
        clock: source of time for the rate limit.
        scrub: removes credentials: a plugin in debug mode may print its requests.
    """

    def __init__(self, name: str, clock: Clock, scrub: Callable[[str], str] = str) -> None:
        self._scrub = scrub
        self._logger = logging.getLogger(f"goplugins.plugin.{name}")
        self._clock = clock
        self._rest = b""
        self._cut = False  # the beginning of the current line is logged; the rest of it is skipped
        self._tokens = _BURST
        self._refilled = clock.monotonic()
        self._dropped = 0
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

    def feed(self, chunk: bytes) -> None:
        """Logs the lines that are complete now."""
        now = self._clock.monotonic()
        self._tokens = min(_BURST, self._tokens + (now - self._refilled) * _PER_SECOND)
        self._refilled = now
        if self._tokens < 1.0:
            self._skip(chunk)
            return
        *lines, rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._log(line)
        self._rest = rest
        if len(rest) > _MAX_LINE:
            self._log(rest + _CUT)
            self._rest, self._cut = b"", True

    def _skip(self, chunk: bytes) -> None:
        """Counts lines without splitting off each: there may be a million of them."""
        self._dropped += chunk.count(b"\n")
        *lines, rest = (self._rest + chunk).rsplit(b"\n", _LAST_LINES + 1)
        if lines:
            if len(lines) > _LAST_LINES or self._cut:
                del lines[0]  # many lines, or the end of one whose beginning is logged
            self._last.extend(self._scrub(_printable(line)) for line in lines)
            self._cut = False
        if len(rest) > _MAX_LINE:
            if not self._cut:
                self._last.append(self._scrub(_printable(rest + _CUT)))
            rest, self._cut = b"", True
        self._rest = rest

    def _log(self, line: bytes) -> None:
        if self._cut:
            self._cut = False
            return
        text = self._scrub(_printable(line))
        if not text:
            return
        self._last.append(text)
        if self._tokens < 1.0:
            self._dropped += 1
            return
        self._tokens -= 1.0
        self._log_dropped()
        self._logger.info("%s", text)

    def _log_dropped(self) -> None:
        if self._dropped:
            self._logger.warning("%d line(s) of stderr not logged: more than %g per second", self._dropped, _PER_SECOND)
            self._dropped = 0

    def close(self) -> None:
        """Logs a last line without a line break."""
        if self._rest:
            self._log(self._rest)
            self._rest = b""
        self._log_dropped()

    @property
    def last_lines(self) -> str:
        """The last lines, for the log line about the process's end."""
        return " | ".join(self._last)


def _printable(line: bytes) -> str:
    """Text that can't forge other lines of a log."""
    text = from_outside(line, _MAX_LINE)
    return f"{text} (cut)" if len(line) > _MAX_LINE else text
