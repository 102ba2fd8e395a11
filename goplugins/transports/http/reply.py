"""Meaning of an HTTP reply: the status decides first, then the envelope."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from goplugins.enums import PluginStatus
from goplugins.errors import (
    AuthenticationError,
    BadReplyError,
    HTTPTransportError,
    PluginError,
    PluginRequestError,
    PluginThrottledError,
    PluginUnavailableError,
    Replay,
    TruncatedReplyError,
    UnexpectedRedirectError,
    redact_url,
)
from goplugins.models.results import HealthStatus
from goplugins.runtime.call import Call
from goplugins.runtime.text import CUT, from_outside
from goplugins.transports.challenge import add_challenge
from goplugins.transports.envelope import check_request_id, error_text, metadata_of, parse_object
from goplugins.transports.health_status import status_of_word, without_report
from goplugins.transports.http.engine import HTTPReply

_SNIPPET = 200
"""Characters of a text that is not an envelope's."""

_NO_ENDPOINT = (404, 405, 501)
"""Statuses with which a service replies that has no health endpoint."""

_MAX_RETRY_AFTER = 10.0 * 365 * 86400
"""Seconds."""

_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")

_RETRY_AFTER = re.compile(r"(?:[A-Za-z]+, *)?[^\s,][^,]*?(?=\s*(?:,|$))")
"""One value of the header: a date has a comma after its day of the week."""


def read_envelope(reply: HTTPReply, call: Call, connection: Any) -> HTTPReply:
    """Sets ``reply.fields`` while the connection is held: after a broken envelope it must not be used again.

    Args:
        reply: the whole reply.
        call: the call that it answers.
        connection: its ``clean`` becomes False if the reply belongs to another request.

    Raises:
        BadReplyError: a 2xx reply that is not an envelope. Other replies may hold anything.
        ReplyMismatchError: a 2xx reply to another call.
    """
    if not 200 <= reply.status < 300:
        return _read_failure(reply, call, connection)
    try:
        fields = reply.fields = parse_object(reply.body)
    except TruncatedReplyError as exc:
        if reply.framed:  # received whole: a retry would return the same broken text
            exc.replay = Replay.NEVER
        raise
    if not ("data" in fields or "error" in fields or "request_id" in fields):
        raise BadReplyError("the reply is unrelated JSON: it has none of data, error and request_id")
    if fields.get("request_id") != call.request_id:
        check_request_id(fields, call, required=False)
    return reply


def _read_failure(reply: HTTPReply, call: Call, connection: Any) -> HTTPReply:
    reply.fields = fields_of(reply)
    request_id = reply.fields.get("request_id")
    if request_id and request_id != call.request_id:
        connection.clean = False
    return reply


def fields_of(reply: HTTPReply) -> dict[str, Any]:
    """The JSON object in the body, or an empty one: a gateway's error page is not an envelope."""
    try:
        return parse_object(reply.body)
    except BadReplyError:
        return {}


def _metadata_of(fields: dict[str, Any]) -> dict[str, str]:
    return metadata_of(fields) if isinstance(fields.get("metadata"), dict) else {}


def status_error(reply: HTTPReply, now: float, scrub: Callable[[str], str]) -> PluginError:
    """The error for a reply whose status is not 2xx, with the plugin's own text and metadata.

    Args:
        reply: the whole reply, its envelope read.
        now: seconds since the Unix epoch.
        scrub: removes credentials from a text that the plugin sent.
    """
    error = error_of_status(reply, now)
    error.details["status"] = reply.status
    location = location_of(reply)
    if location:
        error.details["location"] = location = scrub(location)
        error.message = f"{error.message}; the plugin refers to {location}: if calls belong there, make it the endpoint"
    text = failure_text(reply)
    if text:
        error.message = f"{error.message}: {scrub(text)}"
    metadata = _metadata_of(reply.fields)
    if metadata:
        error.details["metadata"] = {scrub(key): scrub(value) for key, value in metadata.items()}
    return error


def health_result(reply: HTTPReply, *, expected: bool) -> HealthStatus:
    """What a reply to a health request says.

    Args:
        reply: the whole reply.
        expected: whether the configuration says that there is a health endpoint: its absence is a failure then.
    """
    if reply.status in _NO_ENDPOINT and not expected:
        return without_report(f"health endpoint (HTTP {reply.status})")
    fields = reply.fields = fields_of(reply)
    text = failure_text(reply)
    metadata = _metadata_of(fields)
    status = status_of_word(fields.get("status"), PluginStatus.HEALTHY)
    if 200 <= reply.status < 300:
        return HealthStatus(status, text, metadata=metadata)
    reported = reply.status == 503 or status is not PluginStatus.HEALTHY
    text = text or location_of(reply)
    text = f"HTTP {reply.status}: {text}" if text else f"HTTP {reply.status}"
    return HealthStatus(PluginStatus.UNHEALTHY, text, metadata=metadata, reported=reported)


def location_of(reply: HTTPReply) -> str:
    """Where a redirect leads; empty for none."""
    redirects = 300 <= reply.status < 400
    return from_outside(redact_url(reply.headers.get("location", "")), _SNIPPET) if redirects else ""


def failure_text(reply: HTTPReply) -> str:
    """The text in a reply that is not 2xx: the envelope's error, another service's message, or plain text."""
    fields = reply.fields
    text = error_text(fields)
    for field in ("message", "detail", "title"):
        value = fields.get(field)
        if not text and isinstance(value, str):
            text = from_outside(value, _SNIPPET)
    if not text and "text/plain" in reply.headers.get("content-type", ""):  # nothing of an HTML page
        start = reply.body[: 4 * _SNIPPET]
        words = (start.decode("utf-8", "replace") + CUT * (len(reply.body) > len(start))).split()
        text = from_outside(" ".join(words), _SNIPPET)
    return text


def error_of_status(reply: HTTPReply, now: float, *, throttles: frozenset[int] = frozenset({429})) -> PluginError:
    """The error for a status that is not 2xx, without a text of the service.

    Args:
        reply: the whole reply.
        now: seconds since the Unix epoch.
        throttles: statuses that mean too many calls, all but 429 only with a Retry-After.
    """
    status = reply.status
    headers = reply.headers
    # A date is one of the plugin's clock, which may differ from this machine's.
    retry_after = parse_retry_after(headers.get("retry-after"), _moment(headers.get("date", "")) or now)
    if status == 429 or (status in throttles and retry_after is not None):
        return PluginThrottledError(f"HTTP {status}: too many calls", retry_after=retry_after)
    if status == 503:
        replay = None if retry_after is None else Replay.ALWAYS
        return PluginUnavailableError(f"HTTP {status}: unavailable", retry_after=retry_after, replay=replay)
    if status in (401, 403, 407):
        who = "a proxy rejected the credentials for it" if status == 407 else "the plugin rejected the credentials"
        error = AuthenticationError(f"HTTP {status}: {who}")
        add_challenge(error, headers.get("www-authenticate"))
        return error
    if status < 400:
        return UnexpectedRedirectError(f"HTTP {status}: redirects are not followed")
    if status < 500:
        return PluginRequestError(f"HTTP {status}: the request was refused")
    replay = None if status in (500, 502, 504) else Replay.NEVER
    return HTTPTransportError(f"HTTP {status}: the plugin failed", retryable=replay is None, replay=replay)


def parse_retry_after(text: str | None, now: float) -> float | None:
    """Seconds to wait, from a Retry-After header: seconds or a date (RFC 9110, 10.2.3), also with decimals or repeated.

    Args:
        text: the header's value; the values of several headers, separated by commas.
        now: seconds since the Unix epoch, by the clock of the reply.

    Returns:
        The longest wait, 0 for a date in the past; None if the header is missing or can't be parsed.

    >>> parse_retry_after("120", 0.0), parse_retry_after("0.5, 2", 0.0)
    (120.0, 2.0)
    >>> parse_retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 15.0)
    45.0
    >>> parse_retry_after("soon", 0.0) is None
    True
    """
    found = [_wait_of(each, now) for each in _RETRY_AFTER.findall((text or "")[:512])]
    return max((min(each, _MAX_RETRY_AFTER) for each in found if each is not None), default=None)


def _wait_of(text: str, now: float) -> float | None:
    if _SECONDS.fullmatch(text):
        return float(text)
    moment = _moment(text)
    return None if moment is None else max(moment - now, 0.0)


def _moment(text: str) -> float | None:
    """A date as seconds since the Unix epoch."""
    try:
        moment = parsedate_to_datetime(text)
        # HTTP dates are UTC; "-0000", which some servers send, would be read as local time.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
