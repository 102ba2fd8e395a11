"""The origin of each setting of a configuration: file, environment, discovery, code or default."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from goplugins.config import ManagerConfig
from goplugins.config.defaults import INHERITED
from goplugins.config.line_numbers import lines_of
from goplugins.config.manager import FurtherCheck, Source, load
from goplugins.config.problems import Path as FieldPath, path_text
from goplugins.config.schema import UNSET, as_mapping, fields_of, plain
from goplugins.discovery import DiscoveredPlugin, Discovery, DiscoveryReport
from goplugins.runtime.text import counted

__all__ = ["Origins", "load_with_origins"]

DEFAULT = "default"
_NAMED = ("plugins", "load_balancers")

_Marks = dict[FieldPath, str]


class Origins(Mapping[str, str]):
    """The origin of every setting of a configuration, by its path; defaults included.

    Paths have the names of plugins and groups: ``plugins[auth].retry.max_retries``. An origin is ``plugins.yaml:12``,
    ``environment GOPLUGINS__PLUGINS__AUTH__ENDPOINT``, ``discovery /opt/plugins/geo.yaml:3``, ``code`` or ``default``.
    An inherited setting has the origin of the ``default_...`` section.

    Attributes:
        shown: the values by the same paths, plain and with secrets masked.
        report: the report of discovery; None if it is off.
    """

    def __init__(
        self, origins: Mapping[str, str], shown: Mapping[str, Any], report: DiscoveryReport | None = None
    ) -> None:
        self._origins = origins
        self.shown = shown
        self.report = report

    def __getitem__(self, path: str) -> str:
        return self._origins[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __len__(self) -> int:
        return len(self._origins)

    def __repr__(self) -> str:
        return f"<Origins of {counted(len(self), 'setting')}>"


def load_with_origins(
    source: ManagerConfig | Mapping[str, Any] | str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    registered: Collection[str] | None = None,
    check: FurtherCheck | None = None,
) -> tuple[ManagerConfig, Origins]:
    """Loads a configuration as a manager would, with the origin of each setting.

    The order of precedence is code, environment, file, discovery, defaults.

    Args:
        source: the configuration, a mapping, or a file's path.
        environ: the variables; the process's environment when left out.
        registered: names of plugins registered in code; references to unknown plugins are not checked when None.
        check: further checks, as for :func:`goplugins.config.manager.load`.

    Returns:
        The configuration with its defaults and with the plugins that discovery found, and the origins.

    Raises:
        ConfigError: all problems.
    """
    environ = os.environ if environ is None else environ
    reports: list[DiscoveryReport] = []

    def extend(config: ManagerConfig) -> ManagerConfig:
        reports.append(Discovery(config, environ=environ, registered=registered, check=check).scan())
        return reports[-1].added_to(config)

    loaded = load(source, environ, check_files=True, further=check, registered=registered, extend=extend)
    resolved = loaded.resolved
    if loaded.source.data is None:
        marks = dict.fromkeys(_written(source), "code")
    else:
        marks = _marks_of_file(loaded.source, loaded.source.data)
    report = reports[0] if reports else None
    if report is not None:
        first = len(resolved.plugins) - len(report.found)
        for index, plugin in enumerate(report.found.values(), first):
            marks |= {("plugins", index, *path): origin for path, origin in _marks_of_plugin(plugin).items()}
    return resolved, _origins(resolved, marks, report)


def _marks_of_file(source: Source, data: bytes) -> _Marks:
    marks = {path: f"{source.name}:{line}" for path, line in lines_of(data, source.name).items()}
    marks = marks or dict.fromkeys(_written(source.values), source.name)
    for each in source.overrides:
        _replace(marks, each.path, f"environment {each.variable}", _at(source.values, each.path))
    return marks


def _marks_of_plugin(plugin: DiscoveredPlugin) -> _Marks:
    path = plugin.path
    lines = lines_of(Path(path).read_bytes(), path) if os.path.isabs(path) and os.path.exists(path) else {}
    marks = dict.fromkeys(_written(plugin.config), f"discovery {path}")
    marks |= {at: f"discovery {path}:{line}" for at, line in lines.items()}
    for field, variable in plugin.variables.items():
        _replace(marks, field, f"environment {variable}", _at(plugin.config, field))
    return marks


def _replace(marks: _Marks, path: FieldPath, origin: str, value: Any) -> None:
    """Replaces the origin of a field and all below it."""
    for old in [old for old in marks if old[: len(path)] == path]:
        del marks[old]
    marks |= {path: origin} | {(*path, *below): origin for below in _written(value)}


def _at(value: Any, path: FieldPath) -> Any:
    for step in path:
        value = getattr(value, str(step)) if attrs.has(type(value)) else value[step]
    return value


def _written(value: Any, path: FieldPath = ()) -> Iterator[FieldPath]:
    """The paths of all items of a mapping, and of all fields of a configuration that differ from their defaults."""
    if path:
        yield path
    if attrs.has(type(value)):
        defaults = {field.name: field.default for field in fields_of(type(value))}
        held = as_mapping(value)
        value = {name: item for name, item in held.items() if item != defaults[name]}
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _written(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _written(item, (*path, index))


# --- all settings ----------------------------------------------------------------------------------------------


def _origins(resolved: ManagerConfig, marks: _Marks, report: DiscoveryReport | None) -> Origins:
    origins: dict[str, str] = {}
    shown: dict[str, Any] = {}
    for path, value in _leaves(resolved, ()):
        text = _named_path(path, resolved)
        origins[text] = _origin(path, marks)
        shown[text] = value
    return Origins(origins, shown, report)


def _leaves(instance: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Any]]:
    """Every setting with its value, masked; those of sections, plugins and groups included."""
    for field in fields_of(type(instance)):
        value = getattr(instance, field.name)
        here = (*path, field.name)
        if value is UNSET or value is None or value in ((), {}, ""):
            continue
        if attrs.has(type(value)):
            yield from _leaves(value, here)
        elif not path and field.name in _NAMED:
            for index, item in enumerate(value):
                yield from _leaves(item, (*here, index))
        else:
            value = plain(value if field.masked is None else field.masked.mask(value))
            if isinstance(value, Mapping):
                yield from (((*here, key), item) for key, item in value.items())
            else:
                yield here, value


def _origin(path: FieldPath, marks: _Marks) -> str:
    found = marks.get(path)
    if found is None and len(path) == 4 and path[0] in _NAMED and path[2] in INHERITED:
        found = marks.get((f"default_{path[2]}", path[3]))
    return found or DEFAULT


def _named_path(path: FieldPath, config: ManagerConfig) -> str:
    if path[0] not in _NAMED or len(path) < 2:
        return path_text(path)
    name = getattr(config, str(path[0]))[cast(int, path[1])].name
    rest = path_text(path[2:])
    return f"{path[0]}[{name}]{'' if rest.startswith('[') else '.'}{rest}"
