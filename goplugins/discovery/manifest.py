"""A manifest: one file that says what a plugin is, what it needs and how it is called."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from goplugins.config import PluginConfig
from goplugins.config.conversion import read
from goplugins.config.environment import expand, override_plugin
from goplugins.config.problems import Problem, Problems, raise_for, untouched
from goplugins.config.schema import as_text_table, as_texts, fields_of, sparse_repr
from goplugins.discovery.versions import parse_range, parse_version
from goplugins.enums import TransportType
from goplugins.errors import InvalidConfigError, InvalidPluginNameError

__all__ = ["MANIFEST_KINDS", "PluginManifest", "PluginRequirements", "read_plugin"]

MANIFEST_KINDS = frozenset({".json", ".toml", ".yaml", ".yml"})

_REQUIRED = re.compile(r"([^\s<>=!,]+)\s*(.*)", re.DOTALL)
_FILES = ("token_file", "cert_file", "key_file", "ca_file")


@attrs.frozen(kw_only=True, repr=False)
class PluginRequirements:
    """What a plugin needs to be there.

    Attributes:
        min_version: the oldest goplugins that will do.
        requires: other plugins' names, each with a range of versions such as ``>=1.2, <2``; ``*`` for any.
    """

    min_version: str = ""
    requires: Mapping[str, str] = attrs.field(factory=dict, converter=as_text_table)

    __repr__ = sparse_repr


@attrs.frozen(kw_only=True, repr=False)
class PluginManifest:
    """Who a plugin is. All else that a manifest may hold are fields of :class:`~goplugins.PluginConfig`.

    Attributes:
        name: what it is called by.
        version: its own version.
        description: for people.
        author: for people.
        capabilities: what it can do, in words of its own.
        requirements: what it needs to be there.
    """

    name: str = ""
    version: str = ""
    description: str = ""
    author: str = ""
    capabilities: tuple[str, ...] = attrs.field(default=(), converter=as_texts)
    requirements: PluginRequirements = attrs.field(factory=PluginRequirements)

    __repr__ = sparse_repr


_Variables = dict[tuple[str | int, ...], str]


def read_plugin(
    values: Any, environ: Mapping[str, str], *, source: str, directory: str = ""
) -> tuple[PluginManifest, PluginConfig, _Variables]:
    """A manifest's plain values, read.

    Args:
        values: as they stand in the file.
        environ: for ``${VAR}``, and for the variables that go over a plugin's settings.
        source: what messages call it.
        directory: what relative paths begin at; empty to leave them.

    Returns:
        Who the plugin is, how it is called, and which variable stands behind which changed field.

    Raises:
        ConfigError: all that is wrong with it.
    """
    if not isinstance(values, Mapping):
        fix = "write name: and the plugin's other fields"
        raise InvalidConfigError("is no manifest: expected a table", path=source, fix=fix)
    problems = Problems()
    name = values.get("name")
    changed: Mapping[str, Any] = values
    overrides: tuple[Any, ...] = ()
    if isinstance(name, str) and name:
        changed, overrides = override_plugin(PluginConfig, values, name, environ, problems)
    expanded = expand(changed, environ, problems)
    manifest = {field.name for field in fields_of(PluginManifest)}
    who = {key: value for key, value in expanded.items() if key in manifest}
    how = {key: value for key, value in expanded.items() if key == "name" or key not in manifest}
    _list_required(who, problems)
    known = [path for path, _ in problems.found]
    identity, wrong = read(PluginManifest, who)
    config, also_wrong = read(PluginConfig, how)
    wrong += [problem for problem in also_wrong if problem[0][:1] != ("name",)]
    problems.found.extend(untouched(wrong, known))
    if identity is not None:
        _check_versions(identity, problems)
        if not identity.name and not problems.found:
            problems.add(InvalidPluginNameError, "missing", "give it the name that calls will use", "name")
    raise_for(_unplaced(problems.found, source), source)
    assert identity is not None and config is not None  # noqa: S101, PT018 - no problems
    variables = {each.path: each.variable for each in overrides}
    return identity, _from(directory, config) if directory else config, variables


def _unplaced(problems: list[Problem], source: str) -> list[Problem]:
    """What has no path is the whole manifest's."""
    for _, error in problems:
        error.path = error.path or source
    return problems


def _list_required(who: dict[str, Any], problems: Problems) -> None:
    """A list such as ``["auth >=1.2", "geo"]`` as a table of names and ranges."""
    section = who.get("requirements")
    if not isinstance(section, Mapping) or not isinstance(section.get("requires"), list):
        return
    table: dict[str, str] = {}
    for index, item in enumerate(section["requires"]):
        found = _REQUIRED.fullmatch(item.strip()) if isinstance(item, str) else None
        if found is None:
            fix = 'write one such as "auth >=1.2, <2"'
            problems.add(InvalidConfigError, "names no plugin", fix, "requirements", "requires", index)
        else:
            table[found[1]] = found[2] or "*"
    who["requirements"] = {**section, "requires": table}


def _check_versions(manifest: PluginManifest, problems: Problems) -> None:
    needs = manifest.requirements
    if needs.min_version:
        try:
            parse_version(needs.min_version)
        except ValueError as exc:
            fix = "write one such as 0.1 or 1.2.3"
            problems.add(InvalidConfigError, str(exc), fix, "requirements", "min_version")
    for name, wanted in needs.requires.items():
        try:
            parse_range(wanted)
        except ValueError as exc:
            fix = "write conditions such as >=1.2, <2, or * for any version"
            problems.add(InvalidConfigError, str(exc), fix, "requirements", "requires", name)


# --- paths -----------------------------------------------------------------------------------------------------


def _from(directory: str, config: PluginConfig) -> PluginConfig:
    """The configuration with its relative paths taken from the manifest's directory."""

    def absolute(path: str) -> str:
        return os.path.normpath(os.path.join(directory, path)) if path else path

    changes: dict[str, Any] = {"work_dir": absolute(config.work_dir)}
    if config.transport is TransportType.EXECUTABLE:
        program = config.executable
        beside = absolute(program)
        # As for a shell, a bare name may be a program of PATH; one that lies beside its manifest is meant first.
        changes["executable"] = beside if os.sep in program or os.path.exists(beside) else program
    if config.transport is TransportType.UNIX:
        changes["endpoint"] = _socket(config.endpoint, absolute)
        changes["endpoints"] = tuple(_socket(endpoint, absolute) for endpoint in config.endpoints)
    if config.auth is not None:
        files: dict[str, Any] = {name: absolute(getattr(config.auth, name)) for name in _FILES}
        changes["auth"] = attrs.evolve(config.auth, **files)
    return attrs.evolve(config, **changes)


def _socket(endpoint: str, absolute: Callable[[str], str]) -> str:
    return endpoint if endpoint.startswith(("@", "unix:")) else absolute(endpoint)
