"""Plugins in a directory: manifests, and programs whose names match a pattern."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from goplugins.config.files import parse_file
from goplugins.config.masking import mask_url
from goplugins.discovery.manifest import MANIFEST_KINDS, read_plugin
from goplugins.discovery.permissions import is_unsafe, read_safely, safe_directory, safe_file, safe_program
from goplugins.discovery.report import DiscoveredPlugin, DiscoveryProblem
from goplugins.enums import TransportType
from goplugins.errors import ConfigError, ConfigFileError, belongs_to_host

Note = Callable[[DiscoveryProblem], None]


def scan_directory(
    directory: str,
    patterns: Sequence[str],
    environ: Mapping[str, str],
    note: Note,
    before: Mapping[str, DiscoveredPlugin] = MappingProxyType({}),
) -> list[DiscoveredPlugin]:
    """The plugins of one directory, by file name, manifests before programs without one.

    Args:
        directory: the directory; its subdirectories are not scanned.
        patterns: file names to use; all manifests and no programs when empty.
        environ: for ``${VAR}``.
        note: receives the files that are left out or unchanged.
        before: plugins of an earlier scan, by path. A plugin is kept while its file can't be read, but not if the file
            was removed or is unsafe.
    """
    here = os.path.abspath(directory)
    try:
        safe_directory(directory)
        names = _names(here)
    except (ConfigError, OSError) as exc:
        kept = [plugin for path, plugin in before.items() if os.path.dirname(path) == here and _may_stay(plugin, exc)]
        note(_problem(here, exc, kept=bool(kept)))
        return kept
    manifests = [name for name in names if _is_manifest(name) and (not patterns or _matches(name, patterns))]
    found: list[DiscoveredPlugin] = []
    for name in manifests:
        path = os.path.join(here, name)
        try:
            found.append(_from_manifest(path, environ))
        except (ConfigError, OSError) as exc:
            stays = path in before and _may_stay(before[path], exc)
            if stays:
                found.append(before[path])
            for problem in exc.problems if isinstance(exc, ConfigError) else (exc,):
                note(_problem(path, problem, kept=stays))
    # A program beside a manifest of its name belongs to that manifest, valid or not: it must not run without the
    # settings and limits in there.
    stems = {os.path.splitext(name)[0] for name in names if _is_manifest(name)}
    taken = {os.path.realpath(plugin.config.executable) for plugin in found if plugin.config.executable}
    for name in names:
        path = os.path.join(here, name)
        if _is_manifest(name) or not _matches(name, patterns) or os.path.isdir(path):
            continue
        if name not in stems and _program_name(name) not in stems and os.path.realpath(path) not in taken:
            found += _from_program(path, environ, note)
    return found


def _names(directory: str) -> list[str]:
    """Without hidden files and backups, such as editors make."""
    return sorted(name for name in os.listdir(directory) if not name.startswith(".") and not name.endswith("~"))


def _is_manifest(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in MANIFEST_KINDS


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _from_manifest(path: str, environ: Mapping[str, str]) -> DiscoveredPlugin:
    try:
        return _read_manifest(path, environ)
    except (ConfigError, OSError):
        raise
    except Exception as exc:  # such as a RecursionError: no file may keep others from being found
        if belongs_to_host(exc):
            raise
        raise ConfigFileError(f"can't be used: {type(exc).__name__}: {exc}", path=path, fix="correct it") from exc


def _read_manifest(path: str, environ: Mapping[str, str]) -> DiscoveredPlugin:
    values = parse_file(read_safely(path), path)
    manifest, config, variables = read_plugin(values, environ, source=path, directory=os.path.dirname(path))
    if config.transport is TransportType.EXECUTABLE and os.sep in config.executable:
        safe_program(config.executable)
    return DiscoveredPlugin(config, manifest, path, variables)


def _may_stay(plugin: DiscoveredPlugin, error: Exception) -> bool:
    """Whether a plugin is kept although its file, or its directory, can't be read any more."""
    if is_unsafe(error):
        return False
    program = plugin.config.executable
    try:
        if plugin.config.transport is TransportType.EXECUTABLE and os.sep in program:
            safe_program(program)
    except ConfigError as exc:
        return not is_unsafe(exc)
    return True


def _from_program(path: str, environ: Mapping[str, str], note: Note) -> list[DiscoveredPlugin]:
    """A program without a manifest: a plugin with the program's name and path."""
    try:
        if _is_library(path):
            note(DiscoveryProblem(path, "is a shared library, which can't be run (write a program that serves it)"))
            return []
        safe_file(path)
        if not os.access(path, os.X_OK):
            note(DiscoveryProblem(path, "matches a pattern, but is neither a manifest nor executable"))
            return []
        values: dict[str, Any] = {
            "name": _program_name(os.path.basename(path)),
            "transport": TransportType.EXECUTABLE.value,
            "executable": path.replace("${", "$${"),
        }
        manifest, config, variables = read_plugin(values, environ, source=path)
    except ConfigError as exc:
        for problem in exc.problems:
            note(_problem(path, problem))
        return []
    return [DiscoveredPlugin(config, manifest, path, variables)]


def _is_library(path: str) -> bool:
    """By its name, such as libgeo.so or libgeo.so.1."""
    return "so" in os.path.basename(path).split(".")[1:]


def _program_name(name: str) -> str:
    """A file's name without the suffix of a script: ``plugin-geo`` for ``plugin-geo.sh``, but ``plugin-1.2``."""
    stem, suffix = os.path.splitext(name)
    return stem if stem and suffix[1:].isalpha() else name


def _problem(path: str, exc: Exception, *, kept: bool = False) -> DiscoveryProblem:
    if isinstance(exc, ConfigError):
        where = f"{mask_url(exc.path)}: " if exc.path not in {"", path} else ""
        fix = f" ({exc.fix})" if exc.fix else ""
        return DiscoveryProblem(path, f"{where}{exc.message}{fix}", exc.plugin or "", kept)
    reason = exc.strerror if isinstance(exc, OSError) else None
    return DiscoveryProblem(path, f"can't be read: {reason or exc}", kept=kept)


# --- changes ---------------------------------------------------------------------------------------------------


def signature_of(directories: Iterable[str], patterns: Sequence[str]) -> str:
    """A digest of what a scan of the directories would read; it changes with the files.

    It covers the content of manifests, size and time of programs, and owner and permissions of both. All programs
    count: a manifest may name any of them.
    """
    digest = hashlib.sha256()
    for directory in directories:
        here = os.path.abspath(directory)
        error, names = "", list[str]()
        try:
            safe_directory(directory)
            names = _names(here)
        except (ConfigError, OSError) as exc:
            error = str(exc)
        digest.update(repr((here, error)).encode())
        for name in names:
            state = _file_state(os.path.join(here, name), name, patterns)
            if state is not None:
                digest.update(repr((name, state)).encode())
    return digest.hexdigest()


def _file_state(path: str, name: str, patterns: Sequence[str]) -> object:
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return None
        if _is_manifest(name):
            with open(path, "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            return (found.st_mode, found.st_uid, content)
    except OSError as exc:
        return exc.errno
    if found.st_mode & stat.S_IXUSR or _matches(name, patterns):
        return (found.st_mode, found.st_uid, found.st_ino, found.st_size, found.st_mtime_ns)
    return None
