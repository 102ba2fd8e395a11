"""Collecting problems, each with its path, so that a configuration is refused once and not once per mistake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from goplugins.errors import ConfigError, InvalidConfigError

__all__ = ["Path", "Problem", "Problems", "path_text", "raise_for", "touches"]

Path: TypeAlias = tuple[str | int, ...]
Problem: TypeAlias = tuple[Path, ConfigError]


def path_text(path: Iterable[str | int]) -> str:
    """The path as messages show it.

    >>> path_text(("plugins", 2, "labels", "a b"))
    "plugins[2].labels['a b']"
    """
    text = ""
    for part in path:
        if isinstance(part, str) and part.replace("-", "_").isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


class Problems:
    """A growing list of problems below one path; parts of a configuration get a view with a longer path."""

    __slots__ = ("base", "found")

    def __init__(self, base: Path = (), found: list[Problem] | None = None) -> None:
        self.base = base
        self.found: list[Problem] = [] if found is None else found

    def below(self, *path: str | int) -> Problems:
        """The same list, for problems of the part at ``path``."""
        return Problems(self.base + path, self.found)

    def add(self, error: type[ConfigError], message: str, fix: str, *path: str | int) -> None:
        """Notes one problem of the field at ``path``."""
        where = self.base + path
        self.found.append((where, error(message, path=path_text(where), fix=fix)))


def touches(path: Path, others: Sequence[Path]) -> bool:
    """Whether the path is within one of the others, or one of them within it."""
    return any(path[: len(other)] == other or other[: len(path)] == path for other in others)


def raise_for(problems: Sequence[Problem], source: str) -> None:
    """Raises for the problems, if there are any; those of one plugin stand together."""
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
