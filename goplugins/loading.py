"""Configuration from where it lives: a file, a mapping or a value, with ``${VAR}`` filled in from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from goplugins.config import ManagerConfig
from goplugins.errors import ConfigFileError, ConfigSyntaxError, InvalidConfigError, UnresolvedVariableError

if TYPE_CHECKING:
    from goplugins.config.problems import Path as FieldPath, Problems

__all__ = ["expand", "load_config", "read_file"]


# In this order: the escape, a variable with or without a default, and what only looks like one.
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\}|\$\{")


def load_config(
    source: ManagerConfig | Mapping[str, Any] | str | os.PathLike[str], *, environ: Mapping[str, str] | None = None
) -> ManagerConfig:
    """Reads, expands and validates a configuration. What is left out stays left out; see ``with_defaults``.

    In every string value ``${VAR}`` becomes the variable's value and ``${VAR:default}`` has a default; ``$${`` is a
    plain ``${``. A value that is wholly one ``${VAR}`` may fill a field for numbers, switches or durations, too.

    Args:
        source: the configuration, a mapping, or the path of a .json, .toml, .yaml or .yml file.
        environ: the variables; the process's environment when left out.

    Raises:
        ConfigFileError: the file is missing, unreadable or of an unknown kind.
        ConfigSyntaxError: the file is not the JSON, TOML or YAML that it should be; with line and column.
        ConfigError: all other problems at once, each with its path.

    >>> config = load_config(
    ...     {"plugins": [{"name": "a", "transport": "http", "endpoint": "http://${HOST}/a",
    ...                   "retry": {"max_retries": "${RETRIES:2}"}}]},
    ...     environ={"HOST": "a.example.com"},
    ... )
    >>> config.plugins[0].endpoint, config.plugins[0].retry.max_retries
    ('http://a.example.com/a', 2)
    """
    from goplugins.config.conversion import read
    from goplugins.config.problems import Problems, raise_for, touches
    from goplugins.config.validation import semantic_problems

    values, name = _values(source)
    unset = Problems()
    values = expand(values, os.environ if environ is None else environ, unset)
    config, found = read(ManagerConfig, values)
    wrong = [path for path, _ in unset.found]
    problems = [*unset.found, *(problem for problem in found if not touches(problem[0], wrong))]
    if problems:
        # What can be read is checked all the same, without the wrong fields: one round instead of two.
        wrong = [path for path, _ in problems]
        config, _ = read(ManagerConfig, _without(values, wrong))
    if config is not None:
        problems += [problem for problem in semantic_problems(config) if not touches(problem[0], wrong)]
    raise_for(problems, name)
    return cast(ManagerConfig, config)


def _values(source: object) -> tuple[Any, str]:
    """Plain values of the source, and what to call it."""
    if isinstance(source, ManagerConfig | Mapping):
        return _opened(source), "configuration"
    if isinstance(source, str | os.PathLike):
        return read_file(source), os.fspath(source)
    message = f"expected a configuration, got a value of type {type(source).__name__}"
    raise InvalidConfigError(message, path="configuration", fix="give a ManagerConfig, a mapping, or a file's path")


def _opened(value: Any) -> Any:
    """Configuration classes as mappings, at any depth, so that their strings can be expanded."""
    from goplugins.config.schema import as_mapping

    if type(value).__module__.startswith("goplugins.config.") and attrs.has(type(value)):
        value = as_mapping(value)
    if isinstance(value, Mapping):
        return {key: _opened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_opened(item) for item in value]
    return value


def expand(value: Any, environ: Mapping[str, str], problems: Problems) -> Any:
    """A copy of plain values with ``${VAR}`` filled in; a variable that is not set is noted with its path."""
    if isinstance(value, str):
        return _expand_text(value, environ, problems) if "${" in value else value
    if isinstance(value, Mapping):
        return {
            key: expand(item, environ, problems.below(key if isinstance(key, str | int) else str(key)))
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [expand(item, environ, problems.below(index)) for index, item in enumerate(value)]
    return value


def _expand_text(text: str, environ: Mapping[str, str], problems: Problems) -> str:
    from goplugins.config.rules import ExpandedText

    def fill(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            fix = "write ${NAME} or ${NAME:default}; $${ for a plain ${"
            problems.add(InvalidConfigError, "holds a ${ that begins no variable", fix)
            return match[0]
        if name in environ:
            return environ[name]
        if default is None:
            problems.add(
                UnresolvedVariableError, f"variable {name} is not set", f"set {name}, or write ${{{name}:default}}"
            )
            return match[0]
        return cast(str, default)

    whole = _REFERENCE.fullmatch(text)
    result = _REFERENCE.sub(fill, text)
    return ExpandedText(result, text) if whole and whole["name"] else result


def _without(values: Any, paths: Sequence[FieldPath]) -> Any:
    """The values without the fields at ``paths``. A list with a wrong item goes whole: the others keep their places."""
    if not isinstance(values, Mapping) or () in paths:
        return {}
    result = dict(values)
    for name in {path[0] for path in paths}:
        below = [path[1:] for path in paths if path[0] == name]
        value = values.get(cast(str, name))
        kept = None if () in below else _without_below(value, below)
        if kept is None:
            result.pop(cast(str, name), None)
        else:
            result[cast(str, name)] = kept
    return result


def _without_below(value: Any, paths: Sequence[FieldPath]) -> Any:
    if isinstance(value, Mapping):
        return _without(value, paths)
    if not isinstance(value, list) or any(len(path) < 2 for path in paths):
        return None
    result = list(value)
    for index in {path[0] for path in paths}:
        if not isinstance(index, int) or not isinstance(value[index], Mapping):
            return None
        result[index] = _without(value[index], [path[1:] for path in paths if path[0] == index])
    return result


# --- files -----------------------------------------------------------------------------------------------------


def read_file(path: str | os.PathLike[str]) -> Any:
    """The plain values of a configuration file, ``${VAR}`` left as it is.

    Raises:
        ConfigFileError: missing, unreadable, or of an unknown kind.
        ConfigSyntaxError: not the JSON, TOML or YAML that its name says; with line and column.
    """
    name = os.fspath(path)
    if "\n" in name or name.lstrip().startswith(("{", "[")):
        # Somebody passed the text itself. It may hold secrets: it must not end up in a message.
        raise ConfigFileError(
            "a text is not a path", path="configuration", fix="use ManagerConfig.from_json for JSON text"
        )
    parse = _PARSERS.get(Path(name).suffix.lower())
    if parse is None:
        known = ", ".join(_PARSERS)
        raise ConfigFileError("a file of an unknown kind", path=name, fix=f"name it with one of {known}")
    try:
        data = Path(name).read_bytes()
    except OSError as exc:
        state = "does not exist" if isinstance(exc, FileNotFoundError) else f"can't be read: {exc.strerror}"
        raise ConfigFileError(state, path=name, fix="give the path of a file that this process can read") from exc
    return parse(data, name)


def _parse_json(data: bytes, source: str) -> Any:
    from goplugins.config.text import parse_json

    return parse_json(data, source)


def _parse_toml(data: bytes, source: str) -> Any:
    import tomllib

    from goplugins.config.text import decode_text

    try:
        return tomllib.loads(decode_text(data, source))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigSyntaxError(str(exc), path=source, fix="correct the TOML there") from None  # as for JSON


def _parse_yaml(data: bytes, source: str) -> Any:
    from goplugins.config.text import decode_text

    try:
        from goplugins.config.yaml_text import parse_yaml
    except ImportError as exc:
        raise ConfigFileError("YAML needs PyYAML", path=source, fix="pip install goplugins[yaml]") from exc
    return parse_yaml(decode_text(data, source), source)


_PARSERS: Mapping[str, Callable[[bytes, str], Any]] = {
    ".json": _parse_json,
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
