"""One REST operation, compiled from its configuration: requests as values, ready to be written."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_plus, urlencode

from goplugins.config.operations import BODILESS_METHODS, OperationConfig
from goplugins.config.templates import Template
from goplugins.errors import InvalidArgumentError, UnserializableRequestError
from goplugins.headers import check_headers, check_latin_1
from goplugins.models.file import File
from goplugins.runtime.call import Call
from goplugins.transports.http.rest import bodies
from goplugins.transports.http.rest.request_fields import (
    json_fields,
    object_fields,
    path_of,
    texts_of,
    value_texts,
)

_PATH = re.compile(r"/(?!/)[!-~]*")
_JSON_HEADERS = (("Content-Type", bodies.JSON),)
_write_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class RestRequest(NamedTuple):
    """A request that is ready to be sent. Equal for equal requests, so that it can be part of a cache key.

    Attributes:
        operation: what it belongs to.
        path: with its query, as in the request line.
        headers: of the operation and its body.
        body: None for a request without one.
    """

    operation: RestOperation
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None


class RestOperation:
    """An operation of one plugin.

    Args:
        plugin: name of the plugin.
        name: of the operation; empty for a plugin without operations.
        config: with its defaults.
        base: path of the endpoint.
        query: of the endpoint.
        origin: scheme, host and port of the endpoint.
        key: name of the query parameter that holds a credential; empty for none.

    Attributes:
        key: see above.
        origin: of the endpoint.
        name: of the operation.
        config: with its defaults.
        method: HTTP method.
        template: of the path, the endpoint's included.
        sends_key: whether an idempotent call has an Idempotency-Key: of a method that is not idempotent by itself.
    """

    def __init__(
        self,
        name: str,
        config: OperationConfig,
        base: str,
        query: str,
        origin: str,
        key: str = "",
        *,
        slashes: bool = False,
    ) -> None:
        self._slashes = slashes
        self.origin = origin
        self.key = key
        self.name = name
        self.config = config
        self.method = config.method
        self.template = (base.rstrip("/") + config.path) if config.path else (base or "/")
        self.sends_key = config.method in {"POST", "PATCH"}
        self._where = self.label  # of messages; the name of the operation is added to each error
        self._fixed_query = query
        self._path = Template.parse(self.template)
        self._query = {key: Template.parse(text) for key, text in config.query.items()}
        self._headers = {key: Template.parse(text) for key, text in config.headers.items()}
        templates = (self._path, *self._query.values(), *self._headers.values())
        self._taken = frozenset(field for template in templates for field in template.fields)
        self._rest_in_query = config.body == "none" and config.method in BODILESS_METHODS
        self._plain_path = self._with_query(self.template, [])
        self._plain = config.body == "json" and not (self._taken or self._query or self._headers)
        self._shallow = config.body in {"raw", "multipart"}

    @property
    def label(self) -> str:
        """Method and path template, for messages."""
        return f"{self.method} {self.template}"

    def is_key(self, name: str) -> bool:
        """Whether a query parameter, as it is written in a URL, holds the credential."""
        return bool(self.key) and unquote_plus(name) == unquote_plus(self.key)

    def request(self, call: Call) -> RestRequest:
        """The request of a call.

        Raises:
            InvalidArgumentError: a field that the operation needs is missing or can't be sent where it belongs.
            UnserializableRequestError: the request does not fit its type, or can't be written.
        """
        if self._plain and not call.page and not (self.name and call.request is None):
            return RestRequest(self, self._plain_path, _JSON_HEADERS, call.codec.encode(call.request))
        try:
            return self._filled(call)
        except UnicodeEncodeError:
            reason = f"{self._where}: a text of the request has a lone surrogate, which is no character"
            raise UnserializableRequestError(reason) from None

    def _filled(self, call: Call) -> RestRequest:
        where = self._where
        fields = self._fields_of(call)
        query = [
            (name, text)
            for name, template in self._query.items()
            for text in texts_of(template, fields, where, f"its parameter {name}")
        ]
        path = path_of(self._path, fields, where, slashes=self._slashes) if self._path.fields else self.template
        rest = {name: value for name, value in fields.items() if name not in self._taken}
        if self._rest_in_query:
            query += [(name, text) for name, value in rest.items() for text in value_texts(value, where, name)]
            rest = {}
        if call.page:
            query = self._turn_to(call.page, query, rest)
        body, content_type = self._body(rest)
        turned = call.page and not self.config.cursor  # the page is a path
        if turned and call.page and not _PATH.fullmatch(call.page):
            raise InvalidArgumentError(f"{where}: cursor: expected the cursor of an iteration that ended early")
        return RestRequest(
            self,
            call.page if turned and call.page else self._with_query(path, query),
            self._headers_of(fields, content_type),
            body,
        )

    def _headers_of(self, fields: dict[str, Any], content_type: str) -> tuple[tuple[str, str], ...]:
        if not self._headers:
            if not content_type:
                return ()
            if content_type == bodies.JSON:
                return _JSON_HEADERS
        headers = {
            name: ", ".join(texts)
            for name, template in self._headers.items()
            if (texts := texts_of(template, fields, self._where, f"its header {name}"))
        }
        if content_type and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = content_type
        check_headers(headers, f"{self._where}: headers")
        check_latin_1(headers, f"{self._where}: headers")
        return tuple(headers.items())

    def _fields_of(self, call: Call) -> dict[str, Any]:
        if not self._shallow:
            return json_fields(call, self._where)
        if not self._taken and isinstance(call.request, str | bytes | bytearray | memoryview | File):
            return {"": call.codec.typed.admit_request(call.request)}
        return object_fields(call, self._where)

    def _turn_to(self, page: str, query: list[tuple[str, str]], rest: dict[str, Any]) -> list[tuple[str, str]]:
        """The query of a further page; a cursor in the body is set there."""
        cursor = self.config.cursor
        if not cursor:
            return query
        if self.config.body == "json":
            rest[cursor] = page
            return query
        return [pair for pair in query if pair[0] != cursor] + [(cursor, page)]

    def _with_query(self, path: str, query: list[tuple[str, str]]) -> str:
        if not (query or self._fixed_query):
            return path
        parts = [part for part in (self._fixed_query, urlencode(query, quote_via=quote)) if part]
        return f"{path}?{'&'.join(parts)}" if parts else path

    def _body(self, rest: dict[str, Any]) -> tuple[bytes | None, str]:
        kind = self.config.body
        if kind == "json":
            return _write_json(rest).encode("ascii"), bodies.JSON
        if kind == "form":
            return bodies.form_body(rest, self._where), bodies.FORM
        if kind == "multipart":
            return bodies.multipart_body(rest, self._where)
        if kind == "raw":
            return bodies.raw_body(bodies.single_value(rest, self._where), self._where)
        unused = [name for name, value in rest.items() if value is not None]
        if unused:
            fix = "use it in path, query or headers, or give the operation a body"
            raise InvalidArgumentError(f"{self._where}: field {unused[0]!r} of the request is used nowhere: {fix}")
        # A POST without a body announces that it has none (RFC 9110, 8.6).
        return (None if self.method in {"GET", "HEAD", "DELETE", "OPTIONS"} else b""), ""
