"""Log lines: of calls that failed, few and with their facts; and a formatter that writes lines of JSON."""

from __future__ import annotations

import datetime
import json
import logging
import threading
from typing import Any

from goplugins.errors import PluginError
from goplugins.observability.error_kinds import CAUSED_BY_CALLER, code_of_error, kind_of_error
from goplugins.observability.events import CallFinished, Event
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.fork import register_forkable

__all__ = ["CallLog", "JSONFormatter", "one_line"]

logger = logging.getLogger("goplugins.calls")

_INTERVAL = 10.0
"""Seconds between two lines about the same failure of the same plugin."""

_MOST_KINDS = 1000
"""Failures that are told apart; then all are forgotten, and told anew."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def one_line(text: str) -> str:
    r"""A text that can't pass for more lines than one: plugins' words stand in logs.

    >>> one_line("refused\nWARNING all is well")
    'refused\\nWARNING all is well'
    """
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class CallLog:
    """Logs failed calls to ``goplugins.calls``: of the same failure of one plugin a line every 10 seconds at most.

    A call that failed raised as well, so this is for who reads the log without the traceback. No payload is logged.

    Args:
        fields: whether lines carry their facts as fields (``extra``), for formatters and structlog.
        clock: measures.
    """

    def __init__(self, *, fields: bool = True, clock: Clock = SYSTEM_CLOCK) -> None:
        self._fields = fields
        self._now = clock.monotonic
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], tuple[float, int]] = {}
        register_forkable(self)

    def __call__(self, event: Event) -> None:
        """Takes an event."""
        if not isinstance(event, CallFinished) or event.error is None or event.as_member:
            return
        error = event.error
        kind = kind_of_error(error)
        level = logging.DEBUG if kind in CAUSED_BY_CALLER else logging.WARNING
        if not logger.isEnabledFor(level):
            return
        code = code_of_error(error)
        more = self._more(event.plugin, code)
        if more is None:
            return
        text = error.message if isinstance(error, PluginError) else type(error).__name__
        fields: dict[str, Any] = {
            "event": "call_failed",
            "plugin": event.plugin,
            "request_id": event.request_id,
            "code": code,
            "kind": kind,
            "attempts": event.attempts,
            "elapsed": round(event.elapsed, 6),
            "more": more,
        }
        logger.log(
            level,
            "call of %r failed: [%s] %s (attempts %d, %.3f s, request %s)%s",
            event.plugin,
            code,
            one_line(text),
            event.attempts,
            event.elapsed,
            event.request_id,
            f"; {more} more since the last such line" if more else "",
            extra=fields if self._fields else None,
        )

    def _more(self, plugin: str, code: str) -> int | None:
        """How many failures of this kind were not told of since the last line; None if this one isn't either."""
        now = self._now()
        key = (plugin, code)
        with self._lock:
            when, more = self._told.get(key, (-_INTERVAL, 0))
            if now - when < _INTERVAL:
                self._told[key] = (when, more + 1)
                return None
            if len(self._told) >= _MOST_KINDS:
                self._told.clear()
            self._told[key] = (now, 0)
            return more

    def after_fork_in_child(self) -> None:
        """A fresh lock."""
        self._lock = threading.Lock()


class JSONFormatter(logging.Formatter):
    """Writes each record as one line of JSON: time, level, logger, message, and the fields of its ``extra``.

    >>> record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "hi", "created": 0.0, "plugin": "a"})
    >>> JSONFormatter().format(record)
    '{"time": "1970-01-01T00:00:00.000000Z", "level": "info", "logger": "x", "message": "hi", "plugin": "a"}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": when.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        try:
            text = json.dumps(line, default=str, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (TypeError, ValueError):  # NaN, keys that are no text, cycles, halves of characters
            text = json.dumps({name: value if isinstance(value, str) else str(value) for name, value in line.items()})
        return text
