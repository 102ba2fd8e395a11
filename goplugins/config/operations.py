"""Operations of a plugin: what else there is to call behind its name, and how each is written on the wire."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Protocol
from urllib.parse import unquote

import attrs

from goplugins.config.credentials import AuthConfig, is_header, sent_headers
from goplugins.config.field_types import Choice, Seconds, SecretTexts, StatusKey
from goplugins.config.problems import Problems, unknown_fix
from goplugins.config.schema import Section, as_text_table
from goplugins.config.templates import Template
from goplugins.enums import TransportType
from goplugins.errors import ConfigError, InvalidConfigError, OperationNotFoundError
from goplugins.headers import is_of_connection

__all__ = [
    "IDEMPOTENT_METHODS",
    "NAME_FIX",
    "OperationConfig",
    "check_operations",
    "is_operation_name",
    "is_rest",
    "operation_not_found",
    "resolve_operations",
]

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""HTTP methods whose repetition has no further effect (RFC 9110, 9.2.2)."""

CHANGING_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
"""HTTP methods that change something, so that no earlier answer can stand for their call (RFC 9110, 9.2.1)."""

BODILESS_METHODS = frozenset({"GET", "HEAD", "DELETE"})
"""HTTP methods whose remaining fields go into the query."""

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HTTP = frozenset({TransportType.HTTP, TransportType.HTTPS})
_GRPC = frozenset({TransportType.GRPC, TransportType.GRPC_TLS})

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/]{0,127}")
_PATH = re.compile(r"[A-Za-z0-9\-._~/@!$&'()*+,;=:%{}]*")
_GRPC_METHOD = re.compile(r"/[A-Za-z_][\w.]*/[A-Za-z_]\w*")
_POINTER = re.compile(r"(/([^~/]|~[01])*)*")
NAME_FIX = "use letters, digits and _.-/, and begin with a letter"

_OF_CALLS = ("timeout", "idempotent")
"""Fields that an operation has on every wire."""


@attrs.frozen(kw_only=True, repr=False)
class OperationConfig(Section):
    """One operation of a plugin: an HTTP method and path, a gRPC method, or a function of a served plugin.

    What is left out is the plugin's. Templates take fields of the request: ``/repos/{owner}/{name}``.

    Attributes:
        method: an HTTP method (GET when left out, with a body POST), or the full name of a gRPC method.
        path: template of the path, which is appended to that of the endpoint. A field may not be empty, and can't
            leave its place: it is percent-encoded.
        query: query parameters, each a template; ``"{field}"`` alone keeps lists (the parameter is repeated), and is
            left out for None. Of GET, HEAD and DELETE, fields that are used nowhere else are parameters, too.
        headers: request headers, each a template; left out where a field is None.
        body: how the remaining fields are sent: json, form, multipart, raw (the request, or its one remaining field, is
            text or bytes) or none. json for POST, PUT and PATCH when left out.
        result: JSON Pointer of the answer within the reply; the whole reply when left out.
        expect: answers of statuses that are otherwise errors: ``{404: null}``; a list of statuses means null for each.
        timeout: seconds for a whole call, over the plugin's ``connection.request_timeout``.
        idempotent: whether a call can be repeated without further effect. True of GET, HEAD, PUT, DELETE and OPTIONS,
            otherwise the plugin's ``retry.idempotent``, when left out.
        next: JSON Pointer, within the reply, of the next page's cursor or URL; Link headers count when left out.
        cursor: query parameter (or field of a JSON body) that takes the cursor; without it, ``next`` is a URL.
    """

    method: str = ""
    path: str = ""
    query: Mapping[str, str] = attrs.field(factory=dict, converter=as_text_table)
    headers: SecretTexts = attrs.field(factory=dict, converter=as_text_table)
    body: Annotated[str, Choice(("json", "form", "raw", "multipart", "none"))] | None = None
    result: str = ""
    expect: Mapping[Annotated[int, StatusKey()], Any] = attrs.field(factory=dict)
    timeout: Seconds | None = None
    idempotent: bool | None = None
    next: str = ""
    cursor: str = ""

    @staticmethod
    def _read_fields(fields: Mapping[str, Any], *, text: bool) -> tuple[Mapping[str, Any], list[ConfigError]]:
        """Statuses in a list, as TOML needs them, mean null for each."""
        expect = fields.get("expect")
        if isinstance(expect, list | tuple):
            return {**fields, "expect": dict.fromkeys(expect)}, []
        return fields, []

    @staticmethod
    def _write_fields(fields: dict[str, Any]) -> dict[str, Any]:
        """Statuses are texts, as JSON needs them."""
        if "expect" in fields:
            fields["expect"] = {str(status): answer for status, answer in fields["expect"].items()}
        return fields


def is_operation_name(name: object) -> bool:
    """Whether a value can name an operation, on every wire.

    >>> is_operation_name("orders.get"), is_operation_name("get order"), is_operation_name(None)
    (True, False, False)
    """
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def operation_not_found(name: str, known: Collection[str], plugin: str | None = None) -> OperationNotFoundError:
    """The error for an operation that is none of those configured; of an empty name for a call that lacks one.

    >>> operation_not_found("lst", ["get", "list"]).message
    "operation 'lst' is not configured: did you mean 'list'?"
    """
    if not name:
        text = f"the call names no operation: pass operation=, one of {', '.join(known)}"
    else:
        text = f"operation {name!r} is not configured: {unknown_fix(name, known, 'operations')}"
    return OperationNotFoundError(text, plugin=plugin)


class _Plugin(Protocol):
    """The part of a plugin's configuration that decides about its operations.

    What its class converts is Any here: pyright takes the attribute of an attrs class for the converter's descriptor.
    """

    @property
    def type(self) -> str | None: ...
    @property
    def transport(self) -> Any: ...
    @property
    def options(self) -> Any: ...
    @property
    def auth(self) -> AuthConfig | None: ...
    @property
    def operations(self) -> Any: ...


def is_rest(plugin: _Plugin) -> bool:
    """Whether calls of the plugin are plain HTTP requests, without the envelope.

    >>> from goplugins import PluginConfig
    >>> is_rest(PluginConfig(transport="http", operations={"get": OperationConfig(path="/items/{id}")}))
    True
    """
    if plugin.transport not in _HTTP or plugin.type not in {None, "http"}:
        return False  # a factory of the application decides by itself
    protocol = plugin.options.get("protocol")
    return protocol == "rest" or (protocol is None and any(each.path for each in plugin.operations.values()))


def resolve_operations(plugin: _Plugin) -> Mapping[str, OperationConfig]:
    """The operations with the defaults of REST; what they inherit from the plugin stays None."""
    operations: Mapping[str, OperationConfig] = plugin.operations
    if not is_rest(plugin):
        return operations
    return {name: _resolved(each) for name, each in operations.items()}


def _resolved(operation: OperationConfig) -> OperationConfig:
    method, body, idempotent = operation.method, operation.body, operation.idempotent
    method = method or ("GET" if body in {None, "none"} else "POST")
    if idempotent is None and method in IDEMPOTENT_METHODS:
        idempotent = True
    body = body or ("json" if method in {"POST", "PUT", "PATCH"} else "none")
    return attrs.evolve(operation, method=method, body=body, idempotent=idempotent)


# --- checks --------------------------------------------------------------------------------------------------------


def check_operations(plugin: _Plugin, problems: Problems) -> None:
    """Adds what is wrong with the operations of a plugin on a built-in transport.

    Args:
        plugin: as it was written.
        problems: of the plugin.
    """
    rest = is_rest(plugin)
    for name, operation in plugin.operations.items():
        here = problems.below("operations", name)
        if not is_operation_name(name):
            here.add(InvalidConfigError, "is not a name for an operation", NAME_FIX)
        if rest:
            _check_rest(operation, here)
            _check_headers(operation, plugin.auth, here)
        else:
            _check_other(operation, plugin, here)
    if plugin.options.get("protocol") == "rest":
        return
    if "response_headers" in plugin.options and plugin.transport in _HTTP and not rest:
        fix = "remove it, or write options.protocol: rest"
        problems.add(InvalidConfigError, "is for REST only", fix, "options", "response_headers")


def _check_other(operation: OperationConfig, plugin: _Plugin, problems: Problems) -> None:
    """Of an operation without REST: a gRPC method, or a function of a served plugin."""
    native = plugin.transport in _GRPC
    if native and operation.method and not _GRPC_METHOD.fullmatch(operation.method):
        fix = "write it as /pkg.Service/Method"
        problems.add(InvalidConfigError, "is not the full name of a gRPC method", fix, "method")
    allowed = {*_OF_CALLS, "method"} if native else set(_OF_CALLS)
    for field in attrs.fields(OperationConfig):
        if field.name not in allowed and getattr(operation, field.name) not in (None, "", {}):
            where = f"transport {plugin.transport}"
            fix = "remove it"
            if plugin.transport in _HTTP:
                where, fix = "the envelope of goplugins", "write a path, or options.protocol: rest, for a REST service"
            problems.add(InvalidConfigError, f"is not used by {where}", fix, field.name)


def _check_rest(operation: OperationConfig, problems: Problems) -> None:
    method, body = operation.method, operation.body
    if method and method not in _METHODS:
        near = method.upper()
        fix = f"write {near}" if near in _METHODS else f"write one of {', '.join(_METHODS)}"
        problems.add(InvalidConfigError, "is not an HTTP method", fix, "method")
    if body not in {None, "none"} and method in {"GET", "HEAD"}:
        fix = "remove it: the fields go into the query; or write another method"
        problems.add(InvalidConfigError, f"{method} has no body", fix, "body")
    _check_path(operation.path, problems)
    for table in ("query", "headers"):
        for name, template in getattr(operation, table).items():
            _check_template(template, problems.below(table, name))
    for field in ("result", "next"):
        if not _POINTER.fullmatch(getattr(operation, field)):
            fix = "write a JSON Pointer, such as /data/items"
            problems.add(InvalidConfigError, "is not a JSON Pointer (RFC 6901)", fix, field)
    if operation.cursor and not operation.next:
        fix = "write next: the JSON Pointer of the next page's cursor"
        problems.add(InvalidConfigError, "has no effect without next", fix, "cursor")


def _check_headers(operation: OperationConfig, auth: AuthConfig | None, problems: Problems) -> None:
    credentials = frozenset() if auth is None else sent_headers(auth)
    for name in operation.headers:
        if not is_header(name):
            fix = "use letters, digits and dashes"
            problems.add(InvalidConfigError, "is not a name of a header", fix, "headers", name)
        elif is_of_connection(name):
            problems.add(InvalidConfigError, "is set by the connection", "remove it", "headers", name)
        elif name.lower() in credentials:
            problems.add(InvalidConfigError, "is set by auth", "remove it here, or there", "headers", name)


def _check_path(path: str, problems: Problems) -> None:
    if not path:
        return
    if not path.startswith("/"):
        problems.add(InvalidConfigError, "does not begin with /", f"write /{path}", "path")
    if "?" in path or "#" in path:
        problems.add(InvalidConfigError, "has a query or fragment", "write query: {name: value}", "path")
    elif not _PATH.fullmatch(path):
        problems.add(InvalidConfigError, "has characters that a path can't contain", "percent-encode them", "path")
    if any(unquote(segment) in {".", ".."} for segment in path.split("/")):
        problems.add(InvalidConfigError, "has a segment . or ..", "write the path that is meant", "path")
    _check_template(path, problems.below("path"))


def _check_template(text: str, problems: Problems) -> None:
    try:
        Template.parse(text)
    except ValueError as exc:
        problems.add(InvalidConfigError, str(exc), "write {name} for a field of the request")
