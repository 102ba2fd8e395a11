"""Settings from the environment over those of a file: ``GOPLUGINS__PLUGINS__AUTH__ENDPOINT=https://...``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from goplugins.config.field_types import rule_for
from goplugins.config.manager import ManagerConfig
from goplugins.config.plugin import PluginConfig
from goplugins.config.problems import Path, Problems, unknown_fix
from goplugins.config.schema import Field, fields_of
from goplugins.errors import InvalidConfigError

__all__ = ["PREFIX", "Override", "env_name", "override", "override_plugin", "plugin_variables"]

PREFIX = "GOPLUGINS__"
_PLUGINS = "PLUGINS__"
_BETWEEN = "__"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_IN_VARIABLES = re.compile(r"[^A-Za-z0-9]")
_NAMED = frozenset({"plugins", "load_balancers"})


@attrs.frozen
class Override:
    """One variable and the field that it sets.

    Attributes:
        variable: its name.
        path: the field's, from the top of the configuration.
    """

    variable: str
    path: Path


def env_name(name: str) -> str:
    """A plugin's name as it stands in variables.

    >>> env_name("geo-eu.v2")
    'GEO_EU_V2'
    """
    return _NOT_IN_VARIABLES.sub("_", name).upper()


def override(values: Any, environ: Mapping[str, str], problems: Problems) -> tuple[Any, tuple[Override, ...]]:
    """A file's plain values with the variables' in them, and which those were.

    A single value becomes ``${VARIABLE}``, so that it is read, masked and complained about like any other variable. A
    list or a table is JSON. What names a plugin that the file has not may still be for one that discovery finds.
    """
    variables = _variables(environ)
    if not variables or not isinstance(values, Mapping):
        return values, ()
    done: list[Override] = []
    for variable, rest in variables:
        top, _, tail = rest.partition(_BETWEEN)
        if top.lower() in _NAMED and tail:
            item = _item(values, top.lower(), tail, variable, problems)
            if item is None:
                continue
            base, cls, tail = item
        else:
            base, cls, tail = (), ManagerConfig, rest
        values, path = _applied(values, base, cls, tail, variable, environ[variable], problems)
        if path:
            done.append(Override(variable, path))
    return values, tuple(done)


def override_plugin(
    values: Mapping[str, Any], name: str, environ: Mapping[str, str], problems: Problems
) -> tuple[Mapping[str, Any], tuple[Override, ...]]:
    """The plain values of one plugin from elsewhere with the variables' in them; paths begin at the plugin."""
    start = f"{_PLUGINS}{env_name(name)}{_BETWEEN}"
    done: list[Override] = []
    for variable, rest in _variables(environ):
        if rest.startswith(start):
            text = environ[variable]
            values, path = _applied(values, (), PluginConfig, rest[len(start) :], variable, text, problems)
            if path:
                done.append(Override(variable, path))
    return values, tuple(done)


def plugin_variables(environ: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """The variables for plugins that have none of ``names``."""
    starts = tuple(f"{_PLUGINS}{env_name(name)}{_BETWEEN}" for name in names)
    return [
        variable for variable, rest in _variables(environ) if rest.startswith(_PLUGINS) and not rest.startswith(starts)
    ]


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Name, and the rest behind the prefix in capitals, in the names' order: what is written last wins."""
    found = (name for name in environ if name.upper().startswith(PREFIX) and _VARIABLE.fullmatch(name))
    return [(name, name.upper()[len(PREFIX) :]) for name in sorted(found)]


def _item(
    values: Mapping[Any, Any], top: str, tail: str, variable: str, problems: Problems
) -> tuple[Path, type[Any], str] | None:
    """Where the plugin or group stands that a variable is for, its class, and the rest of the variable's name."""
    listed = values.get(top)
    names = [(index, item["name"]) for index, item in enumerate(_items(listed)) if isinstance(item.get("name"), str)]
    fits = [(len(env_name(name)), index, name) for index, name in names if tail.startswith(env_name(name) + _BETWEEN)]
    if not fits:
        if top != "plugins" or not _may_discover(values):
            known = ", ".join(env_name(name) for _, name in names) or "none"
            fix = f"unset it, or write one of those that there are: {known}"
            _note(problems, variable, f"names none of the {top}", fix)
        return None
    longest = max(fits)[0]
    best = [fit for fit in fits if fit[0] == longest]
    if len(best) > 1:
        both = " and ".join(repr(name) for _, _, name in best)
        fix = "give one of them another name, or write the setting into the file"
        _note(problems, variable, f"may be for {both}", fix)
        return None
    field = next(field for field in fields_of(ManagerConfig) if field.name == top)
    return (top, best[0][1]), field.item, tail[longest + len(_BETWEEN) :]


def _note(problems: Problems, variable: str, message: str, fix: str) -> None:
    """A problem of a variable, which is shown whole: a name is no secret, however long."""
    problems.found.append(((variable,), InvalidConfigError(message, path=variable, fix=fix)))


def _items(listed: Any) -> Iterator[Mapping[Any, Any]]:
    """The items of a list, an empty one for what is no table: each keeps its index."""
    for item in listed if isinstance(listed, list) else ():
        yield item if isinstance(item, Mapping) else {}


def _may_discover(values: Mapping[Any, Any]) -> bool:
    section = values.get("discovery")
    return isinstance(section, Mapping) and bool(section.get("enabled"))


def _applied(
    values: Any, base: Path, cls: type[Any], tail: str, variable: str, text: str, problems: Problems
) -> tuple[Any, Path]:
    """The values with one variable's in its place, and the place; an empty one if there is a problem."""
    found = _field(cls, tail)
    if found is None:
        names = [field.name for field in fields_of(cls)]
        first = tail.partition(_BETWEEN)[0].lower()
        fix = unknown_fix(first, names, "fields") if first not in names else "write the name of one of its fields"
        _note(problems, variable, "names no field", fix)
        return values, ()
    path, kind = found
    value: Any = f"${{{variable}}}"
    if kind is not None and rule_for(kind.kind) is None and kind.kind is not Any:
        try:
            value = json.loads(text)
        except ValueError:
            if kind.section is not None or kind.item is not None or _is_table(kind):
                fix = 'write a list as ["a", "b"], a table as {"name": "value"}'
                _note(problems, variable, "is not the JSON that a list or a table takes", fix)
                return values, ()
    return _set(values, (*base, *path), value), (*base, *path)


def _field(cls: type[Any], tail: str) -> tuple[Path, Field | None] | None:
    """The path that a variable's name says, and its field; no field for a key of a free table."""
    name, _, rest = tail.partition(_BETWEEN)
    field = next((field for field in fields_of(cls) if field.name == name.lower()), None)
    if field is None:
        return None
    if not rest:
        return (field.name,), field
    if field.section is not None:
        below = _field(field.section, rest)
        return None if below is None else ((field.name, *below[0]), below[1])
    return ((field.name, rest.lower()), None) if _is_table(field) else None


def _is_table(field: Field) -> bool:
    return isinstance(field.default, Mapping)


def _set(values: Any, path: Sequence[str | int], value: Any) -> Any:
    """A copy of ``values`` with another value at ``path``. What is no table where one belongs stays, to be named."""
    if not path:
        return value
    first, *rest = path
    if isinstance(first, int):
        return [_set(item, rest, value) if index == first else item for index, item in enumerate(values)]
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        return values
    return {**values, first: _set(values.get(first), rest, value)}
