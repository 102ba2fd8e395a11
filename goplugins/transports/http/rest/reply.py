"""The meaning of a REST reply: an answer, or one error that names the request."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin
from urllib.parse import quote, urljoin, urlsplit

from goplugins.errors import BadReplyError, PluginError, ReplyTypeError
from goplugins.models.results import Page
from goplugins.runtime.call import Call
from goplugins.runtime.text import cut, from_outside
from goplugins.transports.envelope import parse_value
from goplugins.transports.http.engine import HTTPReply
from goplugins.transports.http.reply import error_of_status, failure_text, fields_of, location_of
from goplugins.transports.http.rest.operation import RestRequest

_THROTTLES = frozenset({403, 429})
"""With Retry-After a 403 is a limit, as of GitHub, and not a refusal of the credentials."""

_MAX_BODY = 2048
"""Bytes of an error's body in its details."""

_SNIPPET = 200
"""Characters of a body in a message."""

_MOST_MEMBERS = 20
"""Members of problem details (RFC 9457) that an error's details keep."""

_URL_CHARACTERS = "%/?:@-._~!$&'()*+,;=[]"
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")
_CHARSET = re.compile(r'charset="?([^\s;"]+)', re.IGNORECASE)
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_PARAMETER = re.compile(rf';\s*([^\s;,="<>]+)(?:\s*=\s*(?:{_QUOTED}|([^\s;,"<>]*)))?')
_LINK = re.compile(rf'<([^<>]*)>((?:\s*;\s*[^\s;,="<>]+(?:\s*=\s*(?:{_QUOTED}|[^\s;,"<>]*))?)*)')


def answer_of(reply: HTTPReply, call: Call, keep: tuple[str, ...], now: float, scrub: Callable[[str], str]) -> Any:
    """The typed answer in a reply. Sets ``call.reply_metadata``.

    Args:
        reply: the whole reply.
        call: the call that it answers.
        keep: names of headers that become metadata.
        now: seconds since the Unix epoch.
        scrub: removes credentials from a text that the service sent.

    Raises:
        PluginError: an error by its status; a ReplyTypeError or BadReplyError for a reply that is no such answer.
    """
    request: RestRequest = call.prepared
    operation = request.operation
    if keep:
        headers = reply.headers
        call.reply_metadata = {name: headers[name] for name in keep if name in headers}
    expect = operation.config.expect
    try:
        if reply.status in expect:
            return call.codec.decode(copy.deepcopy(expect[reply.status]), call.deadline)
        if 200 <= reply.status < 300:
            return _value_of(reply, call, request)
    except (ReplyTypeError, BadReplyError) as error:
        error.message = f"{error.message} (HTTP {reply.status} from {operation.label})"
        raise
    raise _error_of(reply, call, request, now, scrub)


def _value_of(reply: HTTPReply, call: Call, request: RestRequest) -> Any:
    texts = texts_in(call.codec.response_type)
    result = request.operation.config.result
    if bytes in texts and not result:
        return reply.body if reply.body or type(None) not in texts else None
    media = _media_of(reply.headers.get("content-type", ""))
    if str in texts and not result and not (media.is_json and reply.body):
        return _text_of(reply, media) if reply.body or type(None) not in texts else None
    whole = _json_of(reply, media)
    value = pointed(whole, result, "result") if result and reply.body else whole
    found = call.codec.decode(value, call.deadline)
    return found if call.page is None else Page(found, _next_page(reply, whole, request))


@functools.lru_cache(maxsize=256)
def texts_in(kind: Any) -> frozenset[type]:
    """str, bytes and NoneType, as far as a response type consists of them.

    >>> sorted(each.__name__ for each in texts_in(bytes | None))
    ['NoneType', 'bytes']
    """
    parts = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    return frozenset(type(None) if part is None else part for part in parts if part in {str, bytes, None, type(None)})


class _Media(NamedTuple):
    """A content type, parsed."""

    type: str
    charset: str
    is_json: bool


@functools.lru_cache(maxsize=64)
def _media_of(content_type: str) -> _Media:
    """The parsed header; a reply without one is taken for JSON.

    >>> _media_of("Application/Problem+JSON; charset=UTF-8")
    _Media(type='application/problem+json', charset='utf-8', is_json=True)
    """
    kind = content_type.partition(";")[0].strip().lower()
    charset = _CHARSET.search(content_type)
    return _Media(kind, charset[1].lower() if charset else "", not kind or kind.endswith(("/json", "+json")))


def _json_of(reply: HTTPReply, media: _Media) -> Any:
    body = reply.body
    if not body:
        return None
    if media.charset not in {"", "utf-8", "utf8", "us-ascii"}:
        body = _decoded(body, media.charset).encode()
    try:
        return parse_value(body, whole=reply.framed)
    except BadReplyError:
        if media.is_json:
            raise
        shown = from_outside(" ".join(body[: 4 * _SNIPPET].decode("utf-8", "replace").split()), _SNIPPET)
        as_it_is = "str and bytes as the answer's type take it as it is"
        raise BadReplyError(f"the reply is {media.type}, expected JSON ({as_it_is}): {shown}") from None


def _text_of(reply: HTTPReply, media: _Media) -> str:
    return _decoded(reply.body, media.charset or "utf-8").removeprefix("\ufeff")


def _decoded(body: bytes, charset: str) -> str:
    try:
        return body.decode(charset)
    except LookupError:
        raise BadReplyError(f"the reply's charset {cut(charset, 40)!r} is not known") from None
    except UnicodeDecodeError as exc:
        raise BadReplyError(f"the reply is not {cut(charset, 40)}: byte {exc.start} can't be read") from None


def pointed(value: Any, pointer: str, field: str) -> Any:
    """What a JSON Pointer (RFC 6901) names.

    Raises:
        ReplyTypeError: it names nothing.

    >>> pointed({"data": [{"a/b": 1}]}, "/data/0/a~1b", "result")
    1
    """
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
            value = value[int(name)]
        else:
            kind = type(value).__name__
            known = from_outside(", ".join(list(value)[:10]), _SNIPPET) if isinstance(value, dict) else ""
            found = f"an object with {known or 'no names'}" if isinstance(value, dict) else f"a JSON {kind}"
            raise ReplyTypeError(f"{field} {pointer} finds nothing in the reply: at {name!r} it is {found}")
    return value


# --- pages ---------------------------------------------------------------------------------------------------------


def _next_page(reply: HTTPReply, whole: Any, request: RestRequest) -> str:
    """Where the next page begins: a cursor, or path and query; empty if there is none."""
    config = request.operation.config
    if not config.next:
        return _own_path(_next_link(reply.headers.get("link", "")), request)
    try:
        found = pointed(whole, config.next, "next")
    except ReplyTypeError:
        return ""
    if found in (None, "", False):
        return ""
    if not isinstance(found, str | int) or isinstance(found, bool):
        raise ReplyTypeError(f"next {config.next} is a JSON {type(found).__name__}, expected a text or a number")
    return str(found) if config.cursor else _own_path(str(found), request)


def _next_link(header: str) -> str:
    """The URL of the link whose relation is "next" (RFC 8288); empty for none.

    >>> _next_link('<https://h/a?page=1>; rel="prev", </a?page=3>; rel="next"; title="x, y"')
    '/a?page=3'
    """
    for link in _LINK.finditer(header):
        for name, quoted, unquoted in _PARAMETER.findall(link[2]):
            if name.lower() == "rel":
                if "next" in (quoted or unquoted).lower().split():
                    return link[1].strip()
                break  # the first one counts
    return ""


def _own_path(url: str, request: RestRequest) -> str:
    """Path and query of a URL that a reply names; credentials never follow it to another host.

    Raises:
        BadReplyError: it is no URL, or one of another host.
    """
    if not url:
        return ""
    operation = request.operation
    try:
        target = urlsplit(urljoin(operation.origin + request.path, url))
        own = urlsplit(operation.origin)
        same = (target.hostname or "").lower() == (own.hostname or "").lower()
    except ValueError:
        raise BadReplyError("the link to the next page is not a URL") from None
    if not same:
        host = from_outside(target.hostname or "", 100)
        raise BadReplyError(f"the next page is on another host ({host!r}), where credentials must not be sent")
    # A credential in the query is added to each request, and is not for the caller, who gets the page's place.
    query = "&".join(part for part in target.query.split("&") if not operation.is_key(part.partition("=")[0]))
    try:
        return quote((target.path or "/") + (f"?{query}" if query else ""), safe=_URL_CHARACTERS)
    except UnicodeEncodeError:
        raise BadReplyError("the link to the next page has characters that a URL can't contain") from None


# --- errors --------------------------------------------------------------------------------------------------------


def _error_of(
    reply: HTTPReply, call: Call, request: RestRequest, now: float, scrub: Callable[[str], str]
) -> PluginError:
    """The error by the status, with the service's own text, whatever the body is."""
    operation, status = request.operation, reply.status
    error = error_of_status(reply, now, throttles=_THROTTLES)
    error.message = error.message.replace(f"HTTP {status}", f"HTTP {status} from {operation.label}", 1)
    details = error.details
    details.update(status=status, method=operation.method, path=operation.template)
    location = location_of(reply)
    if location:
        details["location"] = location = scrub(location)
        error.message = f"{error.message}; it refers to {location}: if calls belong there, change the endpoint"
    fields = reply.fields = fields_of(reply)
    if "problem+json" in reply.headers.get("content-type", ""):
        details["problem"] = _problem_of(fields)
        texts = [fields[name] for name in ("title", "detail") if isinstance(fields.get(name), str)]
        text = from_outside(": ".join(texts), 2 * _SNIPPET)
    else:
        text = failure_text(reply)
    if not text and reply.body and _is_json(reply):  # such as the errors of each field
        text = from_outside(" ".join(reply.body[: 4 * _SNIPPET].decode("utf-8", "replace").split()), _SNIPPET)
    if text:
        error.message = f"{error.message}: {scrub(text)}"
    if reply.body:
        details["body"] = scrub(from_outside(reply.body[: 2 * _MAX_BODY], 2 * _MAX_BODY))[:_MAX_BODY]
    if call.reply_metadata:
        details["headers"] = {name: scrub(value) for name, value in call.reply_metadata.items()}
    return error


def _is_json(reply: HTTPReply) -> bool:
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower().endswith(("/json", "+json"))


def _problem_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Problem details (RFC 9457): texts are cut, and of a large problem only those and numbers are left."""
    small = len(json.dumps(fields)) <= _MAX_BODY
    kept = {name: value for name, value in fields.items() if small or not isinstance(value, list | dict)}
    members = list(kept.items())[:_MOST_MEMBERS]
    return {
        name[:_SNIPPET]: from_outside(value, 2 * _SNIPPET) if isinstance(value, str) else value
        for name, value in members
    }
