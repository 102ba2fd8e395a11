"""Environment variables in a configuration: ``${VAR}`` in its texts, and overrides of its fields.

An override is a variable such as ``GOPLUGINS__PLUGINS__AUTH__ENDPOINT=https://...``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import attrs

from goplugins.config.field_types import ExpandedText, rule_for
from goplugins.config.problems import Path, Problems, unknown_fix
from goplugins.config.schema import Field, fields_of
from goplugins.errors import InvalidConfigError, UnresolvedVariableError

PREFIX = "GOPLUGINS__"
_PLUGINS = "PLUGINS__"
_BETWEEN = "__"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_IN_VARIABLES = re.compile(r"[^A-Za-z0-9]")
_NAMED = frozenset({"plugins", "load_balancers"})

# In this order: the escape, a variable with or without a default, and text that is not a valid reference.
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\}|\$\{")
_SHELL_DEFAULT = re.compile(r"[-+](?!\.?[0-9])|[=?]")
"""The start of a default in the syntax of shells, as in ${VAR:-text}; a negative number is not one."""


@attrs.frozen
class Override:
    """A variable that sets a field.

    Attributes:
        variable: name of the variable.
        path: path of the field.
    """

    variable: str
    path: Path


def env_name(name: str) -> str:
    """A plugin's name as it is written in names of variables.

    >>> env_name("geo-eu.v2")
    'GEO_EU_V2'
    """
    return _NOT_IN_VARIABLES.sub("_", name).upper()


def override(
    cls: type[Any], values: Any, environ: Mapping[str, str], problems: Problems
) -> tuple[Any, tuple[Override, ...]]:
    """A file's plain values with overrides applied, and the overrides.

    A single value becomes ``${VARIABLE}``, so that it is read, masked and reported like any other variable. A list or a
    table is JSON. A variable for a plugin that the file does not have is ignored if discovery may find that plugin.

    Args:
        cls: :class:`~goplugins.ManagerConfig`, which is defined above this module.
        values: the file's plain values.
        environ: the variables.
        problems: of the whole configuration.
    """
    variables = _variables(environ)
    if not variables or not isinstance(values, Mapping):
        return values, ()
    done: list[Override] = []
    for variable, rest in variables:
        top, _, tail = rest.partition(_BETWEEN)
        if top.lower() in _NAMED and tail:
            item = _item(cls, values, top.lower(), tail, variable, problems)
            if item is None:
                continue
            base, target, tail = item
        else:
            base, target, tail = (), cls, rest
        values, path = _applied(values, base, target, tail, variable, environ[variable], problems)
        if path:
            done.append(Override(variable, path))
    return values, tuple(done)


def override_plugin(
    cls: type[Any], values: Mapping[str, Any], name: str, environ: Mapping[str, str], problems: Problems
) -> tuple[Mapping[str, Any], tuple[Override, ...]]:
    """:func:`override` for the plain values of one plugin, read as ``cls``; paths begin at the plugin."""
    start = f"{_PLUGINS}{env_name(name)}{_BETWEEN}"
    done: list[Override] = []
    for variable, rest in _variables(environ):
        if rest.startswith(start):
            text = environ[variable]
            values, path = _applied(values, (), cls, rest[len(start) :], variable, text, problems)
            if path:
                done.append(Override(variable, path))
    return values, tuple(done)


def plugin_variables(environ: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """The override variables for plugins that have none of ``names``."""
    starts = tuple(f"{_PLUGINS}{env_name(name)}{_BETWEEN}" for name in names)
    return [
        variable for variable, rest in _variables(environ) if rest.startswith(_PLUGINS) and not rest.startswith(starts)
    ]


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names, and what follows the prefix in capitals, in the names' order: of two for one field, the last one wins."""
    found = (name for name in environ if name.upper().startswith(PREFIX) and _VARIABLE.fullmatch(name))
    return [(name, name.upper()[len(PREFIX) :]) for name in sorted(found)]


def _item(
    cls: type[Any], values: Mapping[Any, Any], top: str, tail: str, variable: str, problems: Problems
) -> tuple[Path, type[Any], str] | None:
    """Path and class of the plugin or group that a variable is for, and the rest of the variable's name."""
    listed = values.get(top)
    names = [(index, item["name"]) for index, item in enumerate(_items(listed)) if isinstance(item.get("name"), str)]
    fits = [(len(env_name(name)), index, name) for index, name in names if tail.startswith(env_name(name) + _BETWEEN)]
    if not fits:
        if top != "plugins" or not _may_discover(values):
            known = ", ".join(env_name(name) for _, name in names) or "none"
            fix = f"unset it, or use one of these names: {known}"
            _add(problems, variable, f"is for none of the {top}", fix)
        return None
    longest = max(fits)[0]
    best = [fit for fit in fits if fit[0] == longest]
    if len(best) > 1:
        both = " and ".join(repr(name) for _, _, name in best)
        fix = "rename one of them, or write the setting into the file"
        _add(problems, variable, f"is for both {both}", fix)
        return None
    field = next(field for field in fields_of(cls) if field.name == top)
    return (top, best[0][1]), field.item, tail[longest + len(_BETWEEN) :]


def _add(problems: Problems, variable: str, message: str, fix: str) -> None:
    """Adds a problem of a variable; its name is never shortened, unlike keys of files, which may contain a secret."""
    problems.found.append(((variable,), InvalidConfigError(message, path=variable, fix=fix)))


def _items(listed: Any) -> Iterator[Mapping[Any, Any]]:
    """The items of a list; an empty one for an item that is not a table, so that indexes stay."""
    for item in listed if isinstance(listed, list) else ():
        yield item if isinstance(item, Mapping) else {}


def _may_discover(values: Mapping[Any, Any]) -> bool:
    section = values.get("discovery")
    return isinstance(section, Mapping) and bool(section.get("enabled"))


def _applied(
    values: Any, base: Path, cls: type[Any], tail: str, variable: str, text: str, problems: Problems
) -> tuple[Any, Path]:
    """The values with a variable's value at its field, and the field's path; an empty path if there is a problem."""
    found = _field(cls, tail)
    if found is None:
        names = [field.name for field in fields_of(cls)]
        first = tail.partition(_BETWEEN)[0].lower()
        fix = unknown_fix(first, names, "fields") if first not in names else "write the name of one of its fields"
        _add(problems, variable, "does not name a field", fix)
        return values, ()
    path, kind = found
    value: Any = f"${{{variable}}}"
    if kind is not None and rule_for(kind.kind) is None and kind.kind is not Any:
        try:
            value = json.loads(text)
        except ValueError:
            if kind.section is not None or kind.item is not None or _is_table(kind):
                fix = 'write JSON: a list as ["a", "b"], a table as {"name": "value"}'
                _add(problems, variable, "is not JSON, and the field is a list or a table", fix)
                return values, ()
    return _set(values, (*base, *path), value), (*base, *path)


def _field(cls: type[Any], tail: str) -> tuple[Path, Field | None] | None:
    """The path that the name of a variable means, and its field; None as field for a key of a free table."""
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
    """A copy of ``values`` with ``value`` at ``path``. Where a table is expected and there is none, nothing changes."""
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


# --- ${VAR} ---------------------------------------------------------------------------------------------------------

_NUMBERS = frozenset({int, float, bool, type(None)})
_SCALARS = _NUMBERS | {str}


def expand(value: Any, environ: Mapping[str, str], problems: Problems) -> Any:
    """A copy of plain values with ``${VAR}`` replaced; adds variables that are not set, with their paths."""
    kind = type(value)
    if isinstance(value, str):
        return _expand_text(value, environ, problems) if "${" in value else value
    if kind in _SCALARS:
        return value
    # problems.below() only for values that need it: most are neither containers nor contain a variable.
    if kind is dict or isinstance(value, Mapping):
        return {
            key: item
            if (type(item) is str and "${" not in item) or type(item) in _NUMBERS
            else expand(item, environ, problems.below(key if isinstance(key, str | int) else str(key)))
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [expand(item, environ, problems.below(index)) for index, item in enumerate(value)]
    return value


def _expand_text(text: str, environ: Mapping[str, str], problems: Problems) -> str:
    def fill(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            fix = "write ${NAME} or ${NAME:default}; $${ for a plain ${"
            problems.add(InvalidConfigError, "contains a ${ that starts no variable", fix)
        elif default is not None and (fault := _default_fault(name, default)):
            problems.add(InvalidConfigError, *fault)
        elif name in environ:
            return environ[name]
        elif default is not None:
            return cast(str, default)
        else:
            fix = f"set {name}, or write ${{{name}:default}}"
            problems.add(UnresolvedVariableError, f"variable {name} is not set", fix)
        return match[0]

    whole = _REFERENCE.fullmatch(text)
    result = _REFERENCE.sub(fill, text)
    return ExpandedText(result, text) if whole and whole["name"] else result


def _default_fault(name: str, default: str) -> tuple[str, str] | None:
    """What is wrong with a default, and the fix; no message repeats the default, which may be a secret."""
    if "${" in default:
        fix = f"set {name} in the environment of the process, or write a plain default"
        return f"the default of {name} contains a variable, which is not replaced", fix
    if _SHELL_DEFAULT.match(default):
        fix = f"write ${{{name}:default}}, with nothing between the colon and the default"
        return f"the default of {name} has the syntax of a shell", fix
    return None
