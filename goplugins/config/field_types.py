"""Values that a field accepts: rules in the annotations of the configuration classes.

A rule reads a value of a file, checks a value set in code, and has the message and the fix for a wrong one. Messages do
not repeat texts, which may be secrets in the wrong field, with one exception: short texts in fields for numbers,
switches and choices, unless they came from a variable.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NoReturn, Protocol, Self

import attrs

from goplugins.config.durations import parse_duration
from goplugins.config.masking import Masked, mask_environment, mask_options, mask_text, mask_url, mask_urls, mask_values
from goplugins.enums import AuthMethod, TransportType
from goplugins.errors import ConfigError, InvalidConfigError, UnsupportedAuthMethodError, UnsupportedTransportError

MAX_SECONDS = 366 * 86400.0
"""The longest duration in a configuration, a year. A larger number is probably a Go duration in nanoseconds."""

_NANOSECONDS = 1_000_000_000


class ExpandedText(str):
    """The value of a text that was one ``${VAR}``: unlike other texts, it may be read as a number or a switch."""

    __slots__ = ("template",)
    template: str

    def __new__(cls, text: str, template: str) -> Self:
        self = super().__new__(cls, text)
        self.template = template
        return self


class Rule(Protocol):
    """Reads one value."""

    def read(self, value: object, *, text: bool) -> Any:
        """The value for the field.

        Args:
            value: a plain value.
            text: the value comes from a file, where a text such as "30s" is a duration.

        Raises:
            ConfigError: the value is not accepted. The error has no path; the caller adds it.
        """
        ...


def describe(value: object) -> str:
    """A wrong value as text for a message: short scalars as they are, others as the name of their kind."""
    if isinstance(value, ExpandedText):
        return f"the value of {value.template}" if value else f"the empty value of {value.template}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        text = repr(value) if not isinstance(value, int) or value.bit_length() < 128 else "a huge integer"
        return text.replace("inf", "infinity").replace("nan", "NaN")
    if isinstance(value, str):
        return repr(str(value)) if len(value) <= 24 else f"a text of {len(value)} characters"
    return kind_of(value)


_KINDS: dict[type[Any], str] = {
    bool: "a boolean",
    str: "a string",
    int: "a number",
    float: "a number",
    list: "a list",
    tuple: "a list",
    Mapping: "a table",
}


def kind_of(value: object) -> str:
    """The kind of a value, in the terms of configuration files."""
    if value is None:
        return "null"
    for kind, name in _KINDS.items():  # bool before int, its base
        if isinstance(value, kind):
            return name
    return f"a value of type {type(value).__name__}"


def near_name(name: object, known: Iterable[str]) -> str | None:
    """The known name that is most similar to ``name``; None if none is similar."""
    folded = {item.casefold(): item for item in known}
    found = difflib.get_close_matches(str(name).casefold().replace("-", "_"), folded, n=1, cutoff=0.6)
    found = found or difflib.get_close_matches(str(name).casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def _refuse(expected: str, value: object, fix: str, error: type[ConfigError] = InvalidConfigError) -> NoReturn:
    raise error(f"expected {expected}, got {describe(value)}", fix=fix)


def _unquoted(value: object, fix: str) -> str:
    return f"{fix}, without quotes" if isinstance(value, str) and not isinstance(value, ExpandedText) else fix


@attrs.frozen
class Flag:
    """true or false; no other value, such as 1 or "yes"."""

    def read(self, value: object, *, text: bool) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, ExpandedText) and (word := value.strip().casefold()):
            if word in {"true", "1", "yes", "on"}:
                return True
            if word in {"false", "0", "no", "off"}:
                return False
        _refuse("true or false", value, _unquoted(value, "write true or false"))


@attrs.frozen
class Whole:
    """An integer from ``low`` to ``high``; a boolean is not accepted."""

    low: int | None = None
    high: int | None = None

    def read(self, value: object, *, text: bool) -> int:
        number = value
        if isinstance(value, ExpandedText) and re.fullmatch(r"[-+]?[0-9]{1,30}", value.strip()):
            number = int(value)
        if not isinstance(number, int) or isinstance(number, bool):
            _refuse("an integer", value, _unquoted(value, f"write an integer{self._range()}"))
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            _refuse(f"an integer{self._range()}", value, f"write an integer{self._range()}")
        return int(number)

    def _range(self) -> str:
        if self.high is not None:
            return f" from {self.low or 0} to {self.high}"
        return "" if self.low is None else f" of {self.low} or more"


@attrs.frozen
class Real:
    """A finite number; an integer is accepted, a boolean is not."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # ``low`` itself is not accepted

    def read(self, value: object, *, text: bool) -> float:
        number = value
        if isinstance(value, ExpandedText):
            try:
                number = float(value)
            except ValueError:
                number = value
        if not isinstance(number, int | float) or isinstance(number, bool):
            _refuse("a number", value, _unquoted(value, f"write a number{self._range()}"))
        if not self._admits(number):
            _refuse(f"a number{self._range()}", value, f"write a number{self._range()}")
        return float(number)

    def _admits(self, number: float) -> bool:
        # float() fails for integers above 1.8e308: 1e300 is the limit for all numbers.
        enough = number > self.low if self.above else number >= self.low
        return enough and number <= self.high and abs(number) < 1e300

    def _range(self) -> str:
        if self.high != math.inf:
            low = f"above {self.low:g} and at most" if self.above else f"from {self.low:g} to"
            return f" {low} {self.high:g}"
        if self.low == -math.inf:
            return " that is finite"
        return f" {'greater than' if self.above else 'of at least'} {self.low:g}"


@attrs.frozen
class Duration:
    """Seconds as a number, in files also text such as ``"1m30s"``; more than 0 unless ``zero`` is allowed."""

    zero: bool = False

    def read(self, value: object, *, text: bool) -> float:
        number = value
        if isinstance(value, str) and (text or isinstance(value, ExpandedText)):
            number = self._parse(value)
        if not isinstance(number, int | float) or isinstance(number, bool):
            how = 'seconds as a number, or text such as "30s" or "100ms"' if text else "seconds as a number"
            _refuse("a duration", value, f"write {how}")
        if number > MAX_SECONDS:
            _refuse("a duration of a year at most", value, self._shorter(number))
        enough = number >= 0 if self.zero else number > 0
        if not enough:  # also for NaN
            limit = "of 0 or more" if self.zero else "longer than 0"
            _refuse(f"a duration {limit}", value, f"write seconds {limit}")
        return float(number)

    @staticmethod
    def _shorter(number: float) -> str:
        """The fix for a number that is too large, and probably the Go library's nanoseconds."""
        if not isinstance(number, int) or number > MAX_SECONDS * _NANOSECONDS:
            return f"write at most {MAX_SECONDS:.0f} seconds"
        return (
            f"write {number / _NANOSECONDS:g} if these are nanoseconds of the Go library; "
            "ManagerConfig.from_go_json and `goplugins config import-go` read a whole file of them"
        )

    @staticmethod
    def _parse(value: str) -> float:
        if isinstance(value, ExpandedText):
            try:
                return float(value)  # the value of a variable is always a text
            except ValueError:
                pass
        try:
            return parse_duration(value.strip())
        except ValueError as exc:
            digits = re.fullmatch(r"[-+]?[0-9.]+", value.strip())
            unit = f'write "{value.strip()}s" for seconds, or {value.strip()} without quotes'
            fix = (
                unit
                if digits and not isinstance(value, ExpandedText)
                else 'write one such as "30s", "1m30s" or "100ms"'
            )
            expected = "a duration with a unit" if digits else "a duration"
            raise InvalidConfigError(f"expected {expected}, got {describe(value)}", fix=fix) from exc


class Encoding(enum.Enum):
    """How a text has to be encoded where it is used. A lone surrogate has no encoding in UTF-8."""

    UTF_8 = "UTF-8"
    FILE_SYSTEM = "file system"
    """UTF-8, or the surrogates by which Python writes bytes of a path, an argument or a variable that are not UTF-8."""
    CHECKED_LATER = "checked later"
    """By a check of the field's own, with an error of its own."""


_ERRORS = {Encoding.UTF_8: "strict", Encoding.FILE_SYSTEM: "surrogateescape", Encoding.CHECKED_LATER: "surrogatepass"}
NO_SURROGATE = "write the character itself, not half of a surrogate pair"


def surrogate_fault(text: str, encoding: Encoding = Encoding.UTF_8) -> str:
    r"""What is wrong with a text that can't be encoded; empty if it can be.

    >>> surrogate_fault("caf\xe9"), surrogate_fault("x\udc80")
    ('', "contains the lone surrogate '\\udc80', which can't be encoded as UTF-8")
    """
    try:
        text.encode("utf-8", _ERRORS[encoding])
    except UnicodeEncodeError as exc:
        return f"contains the lone surrogate {text[exc.start]!r}, which can't be encoded as UTF-8"
    return ""


@attrs.frozen
class Text:
    """A string; with ``pattern``, one that matches it completely, named ``what`` in messages."""

    pattern: str = ""
    what: str = "a string"
    example: str = ""
    encoding: Encoding = Encoding.UTF_8

    def read(self, value: object, *, text: bool) -> str:
        fix = f"write {self.what}" + (f", such as {self.example}" if self.example else "")
        if not isinstance(value, str):
            if isinstance(value, int | float) and not self.pattern:
                fix = "put the value in quotes"
            raise InvalidConfigError(f"expected a string, got {kind_of(value)}", fix=fix)
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise InvalidConfigError(f"expected {self.what}, got a string that is not one", fix=fix)
        if not value.isascii() and (fault := surrogate_fault(value, self.encoding)):
            raise InvalidConfigError(fault, fix=NO_SURROGATE)
        return str(value)


@attrs.frozen
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, value: object, *, text: bool) -> str:
        if isinstance(value, str) and value in self.words:
            return str(value)
        words = ", ".join(self.words)
        near = near_name(value, self.words) if isinstance(value, str) else None
        _refuse("one of " + words, value, f"did you mean {near!r}?" if near else f"write one of {words}")


@attrs.frozen
class Member:
    """A member of an enum, by its value or by the integer of the Go library."""

    kind: type[enum.Enum]
    error: type[ConfigError] = InvalidConfigError

    def read(self, value: object, *, text: bool) -> enum.Enum:
        try:
            return self.kind(int(value) if isinstance(value, int) and not isinstance(value, bool) else value)
        except ValueError:
            words = [str(member.value) for member in self.kind]
            near = near_name(value, words) if isinstance(value, str) and value else None
            fix = f"did you mean {near!r}?" if near else f"write one of {', '.join(words)}"
            _refuse("one of " + ", ".join(words), value, fix, self.error)


_GRPC_STATUSES = (
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


@attrs.frozen
class Status:
    """The status of a reply that is an error: an HTTP status, or the name of a gRPC status."""

    def read(self, value: object, *, text: bool) -> int | str:
        if isinstance(value, str) and value.upper() in _GRPC_STATUSES:
            return value.upper()
        if isinstance(value, str) and not isinstance(value, ExpandedText):
            near = near_name(value, _GRPC_STATUSES)
            fix = f"did you mean {near!r}?" if near else "write an HTTP status such as 503, or a gRPC status"
            _refuse("a status", value, fix)
        return Whole(low=400, high=599).read(value, text=text)


@attrs.frozen
class StatusKey:
    """An HTTP status as the key of a table; in JSON a text."""

    def read(self, value: object, *, text: bool) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        return Whole(low=200, high=599).read(value, text=text)


@attrs.frozen
class Texts:
    """A list of strings, each by ``item``."""

    item: Text

    def read(self, value: object, *, text: bool) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise InvalidConfigError(f"expected a list, got {kind_of(value)}", fix="write a list of strings")
        return tuple(self.item.read(each, text=text) for each in value)


@attrs.frozen
class Instance:
    """An object with certain methods, which only code can set.

    Attributes:
        what: what such an object is, in messages.
        methods: methods that the object must have.
    """

    what: str
    methods: tuple[str, ...]

    def read(self, value: object, *, text: bool) -> Any:
        missing = [name for name in self.methods if not callable(getattr(value, name, None))]
        if not missing:
            return value
        lack = f" without {', '.join(missing)}()" if not isinstance(value, str | int | float | dict | list) else ""
        found = f"expected {self.what}, got {kind_of(value)}{lack}"
        raise InvalidConfigError(found, fix="set it in code, or leave it out")


_BY_ENUM: dict[type, type[ConfigError]] = {
    TransportType: UnsupportedTransportError,
    AuthMethod: UnsupportedAuthMethodError,
}
_BY_TYPE: dict[type, Rule] = {bool: Flag(), int: Whole(), float: Real(), str: Text()}


def rule_for(kind: Any) -> Rule | None:
    """The rule of an annotation: the one in its metadata, else that of its type; None for tables and lists."""
    for extra in getattr(kind, "__metadata__", ()):
        if not isinstance(extra, Masked):
            rule: Rule = extra
            return rule
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            return Member(kind, _BY_ENUM.get(kind, InvalidConfigError))
        return _BY_TYPE.get(kind)
    if getattr(kind, "__origin__", None) is str:
        return _BY_TYPE[str]
    return None


# The annotations of the configuration classes. ``| None`` is added where a field can be left out.
Count = Annotated[int, Whole(low=0)]
Positive = Annotated[int, Whole(low=1)]
Port = Annotated[int, Whole(low=0, high=65535)]
Percent = Annotated[int, Whole(low=0, high=100)]
Share = Annotated[float, Real(low=0, high=1)]
PositiveShare = Annotated[float, Real(low=0, high=1, above=True)]
Factor = Annotated[float, Real(low=1)]
Rate = Annotated[float, Real(low=0, above=True)]
Seconds = Annotated[float, Duration()]
SecondsOrZero = Annotated[float, Duration(zero=True)]
LogLevel = Annotated[str, Choice(("debug", "info", "warn", "warning", "error", "critical"))]
MetricsPrefix = Annotated[str, Text(r"[A-Za-z_:][A-Za-z0-9_:]*", "a prefix of metric names", "goplugins")]
LabelName = Annotated[str, Text(r"[A-Za-z_][A-Za-z0-9_.\-/]*", "a label name", "team")]
ClientAuth = Annotated[str, Choice(("basic", "post"))]
Function = Annotated[Callable[[Any, Exception], Any], Instance("a callable", ("__call__",))]
Collector = Annotated[
    Any,
    Instance("a metrics collector", ("increment_counter", "set_gauge", "record_histogram")),
]
Tracing = Annotated[Any, Instance("a tracing provider", ("start_span", "extract_context", "inject_context"))]
ReplyStatus = Annotated[int | str, Status()]
Name = Annotated[str, Text(encoding=Encoding.CHECKED_LATER)]
FilePath = Annotated[str, Text(encoding=Encoding.FILE_SYSTEM)]
Credential = Annotated[str, Text(encoding=Encoding.CHECKED_LATER)]
Secret = Annotated[str, Masked(mask_text), Text(encoding=Encoding.CHECKED_LATER)]
Address = Annotated[str, Masked(mask_url), Text(encoding=Encoding.FILE_SYSTEM)]
Addresses = Annotated[tuple[FilePath, ...], Masked(mask_urls)]
SecretTexts = Annotated[Mapping[str, Credential], Masked(mask_values)]
Environment = Annotated[tuple[FilePath, ...], Masked(mask_environment)]
Options = Annotated[Mapping[str, Any], Masked(mask_options)]
