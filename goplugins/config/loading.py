"""Configuration from where it lives: a file, a mapping or a value, with ``${VAR}`` filled in from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs

from goplugins.config import ManagerConfig
from goplugins.errors import (
    ConfigError,
    ConfigFileError,
    ConfigSyntaxError,
    InvalidConfigError,
    UnresolvedVariableError,
)

if TYPE_CHECKING:
    from goplugins.config.problems import Path as FieldPath, Problem, Problems

__all__ = ["FurtherCheck", "expand", "load_config", "load_resolved", "parse_file", "read_file"]

FurtherCheck: TypeAlias = Callable[[ManagerConfig, AbstractSet[int]], Iterable[ConfigError]]
Extension: TypeAlias = Callable[[ManagerConfig], ManagerConfig]

# In this order: the escape, a variable with or without a default, and what only looks like one.
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\}|\$\{")
_SHELL_DEFAULT = re.compile(r"[-+](?!\.?[0-9])|[=?]")
"""How a default begins that was written for a shell, as in ${VAR:-text}; a negative number is none."""


def load_config(
    source: ManagerConfig | Mapping[str, Any] | str | os.PathLike[str], *, environ: Mapping[str, str] | None = None
) -> ManagerConfig:
    """Reads, expands and validates a configuration. What is left out stays left out; see ``with_defaults``.

    In every string value ``${VAR}`` becomes the variable's value and ``${VAR:default}`` has a default, which stands
    right behind the colon and holds no variable itself; ``$${`` is a plain ``${``. A value that is wholly one
    ``${VAR}`` may fill a field for numbers, switches or durations, too. Over the values of a file go those of variables
    such as ``GOPLUGINS__PLUGINS__AUTH__ENDPOINT``; a mapping and a configuration made in code stay as they are.

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
    return _load(source, environ, None, None, None)[0]


def load_resolved(
    source: ManagerConfig | Mapping[str, Any] | str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    further: FurtherCheck | None = None,
    registered: Collection[str] | None = None,
    extend: Extension | None = None,
) -> ManagerConfig:
    """:func:`load_config` for who is about to use the configuration: defaults filled in, certificate files checked.

    Everything is judged once, and all problems are reported in one round.

    Args:
        source: as for :func:`load_config`.
        environ: as for :func:`load_config`.
        further: checks of the caller's own. Called with the resolved configuration and the indexes of the plugins in
            which something is wrong already, so that a check can leave those out; gives problems with their paths.
            Fields that can't be read are missing from the configuration.
        registered: as for :meth:`ManagerConfig.validate`.
        extend: adds plugins from elsewhere to a configuration that reads well, before it is judged as a whole.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    return _load(source, environ, further or _no_check, registered, extend)[1]


def _no_check(config: ManagerConfig, suspect: AbstractSet[int]) -> Iterable[ConfigError]:
    return ()


def _load(
    source: object,
    environ: Mapping[str, str] | None,
    further: FurtherCheck | None,
    registered: Collection[str] | None,
    extend: Extension | None,
) -> tuple[ManagerConfig, ManagerConfig]:
    """The configuration as it is and with its defaults; with ``further``, its files are checked, too."""
    from goplugins.config.environment import override
    from goplugins.config.problems import Problems, raise_for

    unset = Problems()
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "configuration"
    try:
        values = _values(source)
        environ = os.environ if environ is None else environ
        if isinstance(source, str | os.PathLike):
            values, _ = override(values, environ, unset)
        values = expand(values, environ, unset)
        config, resolved, problems = _judge(values, unset.found, further, registered, extend)
    except RecursionError:
        message = "holds itself, or is nested too deeply"
        raise InvalidConfigError(message, path=name, fix="write each value where it is used") from None
    raise_for(problems, name)
    return cast(ManagerConfig, config), cast(ManagerConfig, resolved)


def _judge(
    values: Any,
    unset: Sequence[Problem],
    further: FurtherCheck | None,
    registered: Collection[str] | None,
    extend: Extension | None,
) -> tuple[ManagerConfig | None, ManagerConfig | None, list[Problem]]:
    from goplugins.config.conversion import read
    from goplugins.config.problems import independent, untouched
    from goplugins.config.validation import file_problems, semantic_problems

    config, found = read(ManagerConfig, values)
    wrong = [path for path, _ in unset]
    problems = [*unset, *untouched(found, wrong)]
    if problems:
        # What can be read is checked all the same, without the wrong fields: one round instead of two.
        wrong = [path for path, _ in problems]
        config, _ = read(ManagerConfig, _without(values, wrong))
    if config is None:
        return None, None, problems
    if config.discovery.enabled:
        if extend is not None and not problems:
            config = extend(config)
        else:
            registered = None  # not all plugins are known
    resolved = config.with_defaults()
    later = semantic_problems(config, resolved, registered)
    if further is not None:
        later += file_problems(resolved)
    problems += independent(untouched(later, wrong), wrong)
    if further is not None:
        problems += _further_problems(resolved, problems, further)
    return config, resolved, problems


def _further_problems(config: ManagerConfig, known: Sequence[Problem], further: FurtherCheck) -> list[Problem]:
    from goplugins.config.problems import path_parts

    places = {error.path for _, error in known}
    suspect = {
        index for path, _ in known if len(path) > 1 and path[0] == "plugins" and isinstance(index := path[1], int)
    }
    found = further(config, suspect)
    return [(path_parts(error.path), error) for error in found if error.path not in places]


def _values(source: object) -> Any:
    """Plain values of the source."""
    if isinstance(source, ManagerConfig | Mapping):
        return _opened(source)
    if isinstance(source, str | os.PathLike):
        return read_file(source)
    message = f"expected a configuration, got a value of type {type(source).__name__}"
    fix = "put it under plugins:" if isinstance(source, list) else "give a ManagerConfig, a mapping, or a file's path"
    raise InvalidConfigError(message, path="configuration", fix=fix)


def _opened(value: Any) -> Any:
    """Configuration classes as mappings, at any depth, so that their strings can be expanded."""
    from goplugins.config.schema import as_mapping

    kind = type(value)
    if kind.__module__.startswith("goplugins.config.") and attrs.has(kind):
        value = as_mapping(value)
    if isinstance(value, Mapping):
        return {key: item if type(item) in _SCALARS else _opened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_opened(item) for item in value]
    return value


_NUMBERS = frozenset({int, float, bool, type(None)})
_SCALARS = _NUMBERS | {str}


def expand(value: Any, environ: Mapping[str, str], problems: Problems) -> Any:
    """A copy of plain values with ``${VAR}`` filled in; a variable that is not set is noted with its path."""
    kind = type(value)
    if isinstance(value, str):
        return _expand_text(value, environ, problems) if "${" in value else value
    if kind in _SCALARS:
        return value
    # A part gets its own view of the problems only if it has parts or a variable: most values have neither.
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
    from goplugins.config.field_types import ExpandedText

    def fill(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            fix = "write ${NAME} or ${NAME:default}; $${ for a plain ${"
            problems.add(InvalidConfigError, "holds a ${ that begins no variable", fix)
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
    """What is wrong with a default, whether it is needed or not; never the default, which may be a secret."""
    if "${" in default:
        fix = f"set {name} where the process starts, or write a plain default"
        return f"the default of {name} holds a variable of its own, which is not filled in", fix
    if _SHELL_DEFAULT.match(default):
        fix = f"write ${{{name}:default}}, with nothing between the colon and the default"
        return f"the default of {name} is written as for a shell", fix
    return None


def _without(values: Any, paths: Sequence[FieldPath]) -> Any:
    """The values without the fields at ``paths``. A list with a wrong item goes whole: the others keep their places."""
    if not isinstance(values, Mapping) or () in paths:
        return {}
    result = dict(values)
    for name, below in _by_first(paths).items():
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
    for index, below in _by_first(paths).items():
        if not isinstance(index, int) or not isinstance(value[index], Mapping):
            return None
        result[index] = _without(value[index], below)
    return result


def _by_first(paths: Sequence[FieldPath]) -> dict[str | int, list[FieldPath]]:
    result: dict[str | int, list[FieldPath]] = {}
    for first, *rest in paths:
        result.setdefault(first, []).append(tuple(rest))
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
    parse = _parser(name)
    try:
        data = Path(name).read_bytes()
    except OSError as exc:
        state = "does not exist" if isinstance(exc, FileNotFoundError) else f"can't be read: {exc.strerror}"
        raise ConfigFileError(state, path=name, fix="give the path of a file that this process can read") from exc
    return parse(data, name)


def parse_file(data: bytes, name: str) -> Any:
    """The plain values of what a configuration file holds; raises as :func:`read_file` does."""
    return _parser(name)(data, name)


def _parser(name: str) -> Callable[[bytes, str], Any]:
    parse = _PARSERS.get(Path(name).suffix.lower())
    if parse is None:
        known = ", ".join(_PARSERS)
        raise ConfigFileError("a file of an unknown kind", path=name, fix=f"name it with one of {known}")
    return parse


def _parse_json(data: bytes, source: str) -> Any:
    from goplugins.config.json_text import parse_json

    return parse_json(data, source)


def _parse_toml(data: bytes, source: str) -> Any:
    import tomllib

    from goplugins.config.json_text import decode_text

    try:
        return tomllib.loads(decode_text(data, source))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigSyntaxError(str(exc), path=source, fix="correct the TOML there") from None  # as for JSON
    except RecursionError:
        raise ConfigSyntaxError("nested too deeply", path=source, fix="flatten the TOML") from None


def _parse_yaml(data: bytes, source: str) -> Any:
    from goplugins.config.json_text import decode_text

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
