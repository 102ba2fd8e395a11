"""Log lines about failed calls, at a limited rate, and a formatter that writes JSON lines."""

from __future__ import annotations

import datetime
import json
import logging
from typing import Any

from goplugins.errors import PluginError
from goplugins.observability.error_kinds import CAUSED_BY_CALLER, code_of_error, kind_of_error
from goplugins.observability.events import CallFinished, Event
from goplugins.runtime.clock import SYSTEM_CLOCK, Clock
from goplugins.runtime.log_throttle import LogThrottle
from goplugins.runtime.text import one_line

__all__ = ["CallLog", "JSONFormatter"]

logger = logging.getLogger("goplugins.calls")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class CallLog:
    """Logs failed calls to ``goplugins.calls``: one line per plugin, operation and error code in 10 seconds.

    An event sink.

    The call has raised its error as well; the lines serve operators who have no traceback. No payload is logged.

    Args:
        fields: adds the details as fields (``extra``), for formatters and structlog.
        clock: measures time.
    """

    def __init__(self, *, fields: bool = True, clock: Clock = SYSTEM_CLOCK) -> None:
        self._fields = fields
        self._throttle = LogThrottle(clock=clock)

    def __call__(self, event: Event) -> None:
        """Logs the end of a failed call."""
        if not isinstance(event, CallFinished) or event.error is None or event.as_member:
            return
        error = event.error
        kind = kind_of_error(error)
        level = logging.DEBUG if kind in CAUSED_BY_CALLER else logging.WARNING
        if not logger.isEnabledFor(level):
            return
        code = code_of_error(error)
        count = self._throttle.count((event.plugin, event.operation, code))
        if count is None:
            return
        more = count - 1
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
        if event.operation:
            fields["operation"] = event.operation
        logger.log(
            level,
            "call of %r%s failed: [%s] %s (attempts %d, %.3f s, request %s)%s",
            event.plugin,
            f", operation {event.operation!r}," if event.operation else "",
            code,
            one_line(text),
            event.attempts,
            event.elapsed,
            event.request_id,
            f"; {more} more since the last line" if more else "",
            extra=fields if self._fields else None,
        )


class JSONFormatter(logging.Formatter):
    """Formats each record as one line of JSON: time, level, logger, message, and the fields of its ``extra``.

    >>> record = logging.makeLogRecord({"name": "x", "levelname": "INFO", "msg": "hi", "created": 0.0, "plugin": "a"})
    >>> JSONFormatter().format(record)
    '{"time": "1970-01-01T00:00:00.000000Z", "level": "info", "logger": "x", "message": "hi", "plugin": "a"}'
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
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
        except (TypeError, ValueError):  # NaN, keys that are not strings, cycles, lone surrogates
            text = json.dumps({name: value if isinstance(value, str) else str(value) for name, value in line.items()})
        return text
