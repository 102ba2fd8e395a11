"""Collecting problems, each with its path, so that all problems of a configuration are reported at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from typing import TypeAlias

from goplugins.config.field_types import near_name
from goplugins.errors import ConfigError, InvalidConfigError, MissingEndpointError, MissingSocketPathError
from goplugins.json_text import shown_key

Path: TypeAlias = tuple[str | int, ...]
Problem: TypeAlias = tuple[Path, ConfigError]


def path_text(path: Iterable[str | int]) -> str:
    """The path as text.

    >>> path_text(("plugins", 2, "labels", "a/b"))
    "plugins[2].labels['a/b']"
    >>> path_text(("auth", "token:secret"))
    "auth['token...']"
    """
    text = ""
    for part in path:
        shown = shown_key(part) if isinstance(part, str) else part
        if isinstance(shown, str) and shown.replace("-", "_").isidentifier():
            text += f".{shown}" if text else shown
        else:
            text += f"[{shown!r}]"
    return text


_PART = re.compile(r"\[([0-9]+)\]|\['([^']*)'\]|([^.\[]+)")


def path_parts(text: str) -> Path:
    """The path of a text that :func:`path_text` returned; keys with brackets or dots are not restored.

    >>> path_parts("plugins[2].auth.token")
    ('plugins', 2, 'auth', 'token')
    """
    return tuple(int(index) if index else key or name for index, key, name in _PART.findall(text))


def counted(items: Sized, what: str) -> str:
    """The number of items with their name.

    >>> counted(["a"], "plugin"), counted([], "plugin")
    ('1 plugin', '0 plugins')
    """
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


def unknown_fix(key: str, known: Collection[str], what: str) -> str:
    """The fix for a key that is none of ``known``, which are called ``what``."""
    if not known:
        return f"leave it out: there are no {what} here"
    name = shown_key(key).removesuffix("...")
    near = name if name in known else near_name(name, known)
    mark = key[len(name) :][:1]
    if near and mark == ":":
        return "a space is missing after the colon"
    if near and mark == "=":
        return f"write {near}: and then the value"
    return f"did you mean {near!r}?" if near else f"known {what}: {', '.join(known)}"


class Problems:
    """A list of problems, and the path of the part of a configuration that is being checked."""

    __slots__ = ("base", "found")

    def __init__(self, base: Path = (), found: list[Problem] | None = None) -> None:
        self.base = base
        self.found: list[Problem] = [] if found is None else found

    def below(self, *path: str | int) -> Problems:
        """The same list, for the part at ``path``."""
        return Problems(self.base + path, self.found)

    def add(self, error: type[ConfigError], message: str, fix: str, *path: str | int) -> None:
        """Adds a problem of the field at ``path``."""
        where = self.base + path
        self.found.append((where, error(message, path=path_text(where), fix=fix)))


def untouched(problems: Iterable[Problem], paths: Iterable[Path]) -> list[Problem]:
    """The problems that are neither at one of the paths, nor within or above one."""
    places = set(paths)
    above = {path[:length] for path in places for length in range(len(path) + 1)}
    return [
        problem
        for problem in problems
        if problem[0] not in above and not any(problem[0][:length] in places for length in range(len(problem[0])))
    ]


_CHECKED_TOGETHER: Mapping[str, tuple[str, ...]] = {
    "adaptive": ("min_concurrent",),
    "delay": ("latency",),
    "endpoints": ("endpoint", "balancing"),
    "error": ("status", "retry_after"),
    "initial_interval": ("max_interval",),
    "latency": ("delay",),
    "max_interval": ("initial_interval",),
    "max_waiting": ("max_wait",),
    "options": ("balancing",),
    "resolve": ("resolve_interval",),
}


def independent(problems: Iterable[Problem], wrong: Iterable[Path]) -> list[Problem]:
    """The problems that do not follow from fields that can't be read.

    While the other fields are checked, a field of ``wrong`` is left out, which can cause further problems: an endpoint
    would be "missing" because ``endpoints`` is not a list.
    """
    beside = {
        (*path[:index], other)
        for path in wrong
        for index, step in enumerate(path)
        for other in _CHECKED_TOGETHER.get(str(step), ())
    }
    return [(path, error) for path, error in problems if path not in beside or _is_own(path, error)]


def _is_own(path: Path, error: ConfigError) -> bool:
    """Whether the field itself is wrong: for an endpoint, any problem but a missing one."""
    return path[-1] == "endpoint" and not isinstance(error, MissingEndpointError | MissingSocketPathError)


def raise_for(problems: Sequence[Problem], source: str) -> None:
    """Raises for the problems, if there are any, sorted by plugin."""
    if not problems:
        return
    errors = [error for _, error in sorted(problems, key=_place)]
    for error in errors:
        error.path = error.path or source
    raise InvalidConfigError.of(errors, source)


def _place(problem: Problem) -> tuple[str, int]:
    path = problem[0]
    index = path[1] if len(path) > 1 and isinstance(path[1], int) else -1
    return str(path[0]) if path else "", index
