"""Import of objects by name: ``package.module:name``, or an installed entry point."""

from __future__ import annotations

import functools
import importlib
import traceback
from importlib.metadata import entry_points
from typing import Any

from goplugins.errors import ConfigError, InvalidConfigError


def named_object(target: str, group: str = "", path: str = "endpoint") -> Any:
    """The object named by ``target``; imports its module.

    Args:
        target: ``package.module:name.of.object``; without a colon, an entry point of ``group``.
        group: of entry points; empty if only ``module:name`` is accepted.
        path: the configuration field that holds it, for errors.

    Raises:
        ConfigError: there is no such object, or its module can't be imported; the message has file and line.

    >>> named_object("json:JSONDecoder.decode").__name__
    'decode'
    """
    module, colon, name = target.partition(":")
    if colon and module and name:
        found = _import(target, module, path)
    elif group and not colon:
        return _entry_point(target, group)
    else:
        raise InvalidConfigError(f"{target}: expected module:name, such as app.plugins:greet", path=path)
    try:
        return functools.reduce(getattr, name.split("."), found)
    except AttributeError as exc:
        raise InvalidConfigError(f"{target}: {exc}", path=path) from exc


def _import(target: str, module: str, path: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module == exc.name or module.startswith(exc.name + ".")):
            fix = "install it, or put its directory into PYTHONPATH"
            raise InvalidConfigError(f"{target}: there is no module {exc.name!r}", path=path, fix=fix) from exc
        raise _unimportable(target, exc, path) from exc
    except Exception as exc:
        raise _unimportable(target, exc, path) from exc


def _entry_point(name: str, group: str) -> Any:
    found = list(entry_points(group=group, name=name))
    if len({point.value for point in found}) != 1:
        what = "there is no" if not found else "more than one installed package has an"
        fix = f"installed: {', '.join(sorted(entry_points(group=group).names)) or 'none'}"
        raise InvalidConfigError(f"{what} entry point {name!r} of the group {group}", path="endpoint", fix=fix)
    try:
        return found[0].load()
    except Exception as exc:
        raise _unimportable(f"{name} ({found[0].value})", exc, "endpoint") from exc


def _unimportable(target: str, exc: Exception, path: str) -> ConfigError:
    """The error for a module whose import failed: that error with file and line, in one line."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return InvalidConfigError(f"{target} can't be imported: {type(exc).__name__}: {exc}{where}", path=path)
