"""Manifests: a plugin's name and version, its requirements and its configuration in one file."""

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
from goplugins.config.schema import Section, as_text_table, as_texts, fields_of
from goplugins.discovery.versions import parse_range, parse_version
from goplugins.enums import TransportType
from goplugins.errors import InvalidConfigError, InvalidPluginNameError

MANIFEST_KINDS = frozenset({".json", ".toml", ".yaml", ".yml"})

_REQUIRED = re.compile(r"([^\s<>=!,]+)\s*(.*)", re.DOTALL)
_FILES = ("token_file", "client_secret_file", "cert_file", "key_file", "ca_file")


@attrs.frozen(kw_only=True, repr=False)
class PluginRequirements(Section):
    """The requirements of a plugin.

    Attributes:
        min_version: the oldest version of goplugins.
        requires: names of other plugins, each with a version range such as ``>=1.2, <2``; ``*`` for any.
    """

    min_version: str = ""
    requires: Mapping[str, str] = attrs.field(factory=dict, converter=as_text_table)


@attrs.frozen(kw_only=True, repr=False)
class PluginManifest(Section):
    """The identity of a plugin. All other fields of a manifest are those of :class:`~goplugins.PluginConfig`.

    Attributes:
        name: the name for calls.
        version: the plugin's version.
        description: a text for users.
        author: a text for users.
        capabilities: what the plugin can do, in its author's words.
        requirements: what the plugin requires.
    """

    name: str = ""
    version: str = ""
    description: str = ""
    author: str = ""
    capabilities: tuple[str, ...] = attrs.field(default=(), converter=as_texts)
    requirements: PluginRequirements = attrs.field(factory=PluginRequirements)


_Variables = dict[tuple[str | int, ...], str]


def read_plugin(
    values: Any, environ: Mapping[str, str], *, source: str, directory: str = ""
) -> tuple[PluginManifest, PluginConfig, _Variables]:
    """A manifest from its plain values.

    Args:
        values: the content of the file.
        environ: for ``${VAR}``, and for variables that override a plugin's settings.
        source: the manifest's name in messages.
        directory: the base of relative paths; empty to leave them relative.

    Returns:
        The plugin's identity, its configuration, and the variable of each overridden field.

    Raises:
        ConfigError: all problems of the manifest.
    """
    if not isinstance(values, Mapping):
        fix = "write name: and the plugin's other fields"
        raise InvalidConfigError("is not a manifest: expected a table", path=source, fix=fix)
    problems = Problems()
    name = values.get("name")
    changed: Mapping[str, Any] = values
    overrides: tuple[Any, ...] = ()
    if isinstance(name, str) and name:
        changed, overrides = override_plugin(PluginConfig, values, name, environ, problems)
    expanded = expand(changed, environ, problems)
    names = {field.name for field in fields_of(PluginManifest)}
    identity_fields = {key: value for key, value in expanded.items() if key in names}
    config_fields = {key: value for key, value in expanded.items() if key == "name" or key not in names}
    _list_required(identity_fields, problems)
    known = [path for path, _ in problems.found]
    identity, wrong = read(PluginManifest, identity_fields)
    config, also_wrong = read(PluginConfig, config_fields)
    wrong += [problem for problem in also_wrong if problem[0][:1] != ("name",)]
    problems.found.extend(untouched(wrong, known))
    if identity is not None:
        _check_versions(identity, problems)
        if not identity.name and not problems.found:
            problems.add(InvalidPluginNameError, "missing", "write the name that calls use", "name")
    raise_for(_unplaced(problems.found, source), source)
    assert identity is not None and config is not None  # noqa: S101, PT018 - no problems
    variables = {each.path: each.variable for each in overrides}
    return identity, _resolve_paths(directory, config) if directory else config, variables


def _unplaced(problems: list[Problem], source: str) -> list[Problem]:
    """Problems without a path get that of the manifest."""
    for _, error in problems:
        error.path = error.path or source
    return problems


def _list_required(fields: dict[str, Any], problems: Problems) -> None:
    """Replaces a list such as ``["auth >=1.2", "geo"]`` by a table of names and ranges."""
    section = fields.get("requirements")
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
    fields["requirements"] = {**section, "requires": table}


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


def _resolve_paths(directory: str, config: PluginConfig) -> PluginConfig:
    """The configuration with its relative paths resolved in the manifest's directory."""

    def absolute(path: str) -> str:
        return os.path.normpath(os.path.join(directory, path)) if path else path

    changes: dict[str, Any] = {"work_dir": absolute(config.work_dir)}
    if config.transport is TransportType.EXECUTABLE:
        program = config.executable
        beside = absolute(program)
        # A name without a directory is a program beside the manifest, or else one in PATH.
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
