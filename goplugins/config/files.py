"""Configuration files to plain values: JSON, TOML and YAML, with ``${VAR}`` left as it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from goplugins.config.json_text import decode_text, parse_json
from goplugins.errors import ConfigError, ConfigFileError, ConfigSyntaxError


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of a configuration file.

    Raises:
        ConfigFileError: the file is missing, unreadable, or of an unknown kind.
    """
    name = os.fspath(path)
    if "\n" in name or name.lstrip().startswith(("{", "[")):
        # The text of a file was passed instead of its path. It may contain secrets: no message may repeat it.
        fix = "write the path of a file, or read JSON text by ManagerConfig.from_json"
        raise ConfigFileError("expected a file's path, got a text", path="configuration", fix=fix)
    _parser(name)
    try:
        return Path(name).read_bytes()
    except OSError as exc:
        state = "does not exist" if isinstance(exc, FileNotFoundError) else f"can't be read: {exc.strerror}"
        raise ConfigFileError(state, path=name, fix="write the path of a file that this process can read") from exc


def parse_file(data: bytes, name: str) -> Any:
    """The plain values of a configuration file's content.

    Raises:
        ConfigFileError: the suffix of ``name`` is unknown.
        ConfigSyntaxError: the content is not valid JSON, TOML or YAML, as the suffix says; with line and column.
    """
    return _parser(name)(data, name)


def _parser(name: str) -> Callable[[bytes, str], Any]:
    parse = _PARSERS.get(Path(name).suffix.lower())
    if parse is None:
        known = ", ".join(_PARSERS)
        raise ConfigFileError("is a file of an unknown kind", path=name, fix=f"use one of the suffixes {known}")
    return parse


def _parse_toml(data: bytes, source: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(decode_text(data, source))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigSyntaxError(str(exc), path=source, fix="correct the TOML there") from None
    except RecursionError:
        raise ConfigSyntaxError("nested too deeply", path=source, fix="flatten the TOML") from None


def _parse_yaml(data: bytes, source: str) -> Any:
    try:
        from goplugins.config.yaml_text import parse_yaml
    except ImportError as exc:
        raise ConfigFileError("YAML needs PyYAML", path=source, fix="pip install goplugins[yaml]") from exc
    try:
        return parse_yaml(decode_text(data, source), source)
    except (AttributeError, LookupError, ValueError) as exc:  # of PyYAML itself, such as a KeyError for !!bool maybe
        if isinstance(exc, ConfigError):
            raise
        fix = "write the value without a tag (!!...)"
        raise ConfigSyntaxError("a value has not the form of its tag", path=source, fix=fix) from None


_PARSERS: Mapping[str, Callable[[bytes, str], Any]] = {
    ".json": parse_json,
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
