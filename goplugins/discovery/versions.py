"""Versions and version ranges of manifests."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Version: TypeAlias = tuple[tuple[int, ...], int, tuple[tuple[int, str], ...]]

_VERSION = re.compile(r"v?([0-9]+(?:\.[0-9]+)*)[-._]?([A-Za-z][0-9A-Za-z.-]*)?(?:\+[0-9A-Za-z.-]+)?")
_CONDITION = re.compile(r"(>=|<=|==|!=|>|<)\s*(\S+)")
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_MOST_CHARACTERS = 100


def parse_version(text: str) -> Version:
    """A version as a value that compares: its numbers, then pre-release, release or post-release.

    >>> parse_version("1.10") > parse_version("v1.9.3"), parse_version("2.0.0-rc1") < parse_version("2")
    (True, True)

    Raises:
        ValueError: the text is not a version.
    """
    found = _VERSION.fullmatch(text.strip()) if len(text) <= _MOST_CHARACTERS else None
    if found is None:
        raise ValueError(f"{text[:_MOST_CHARACTERS]!r} is not a version")
    numbers = [int(number) for number in found[1].split(".")]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    suffix = (found[2] or "").lower()
    parts = re.findall(r"[0-9]+|[a-z]+", suffix)
    kind = 0 if not suffix else 1 if suffix.startswith("post") else -1
    return tuple(numbers), kind, tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def parse_range(text: str) -> tuple[tuple[str, Version], ...]:
    """The conditions of a range such as ``>=1.2, <2``; none for an empty one and ``*``.

    Raises:
        ValueError: the text is not a range.
    """
    if text.strip() in {"", "*"}:
        return ()
    conditions = []
    for part in text.split(","):
        found = _CONDITION.fullmatch(part.strip())
        if found is None:
            raise ValueError(f"{text[:_MOST_CHARACTERS]!r} is not a version range")
        conditions.append((found[1], parse_version(found[2])))
    return tuple(conditions)


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version is in a range.

    >>> satisfies("1.4.2", ">=1.2, <2"), satisfies("2.0", ">=1.2, <2"), satisfies("whatever", "*")
    (True, False, True)

    Raises:
        ValueError: the range is invalid; or the version, unless any version is in the range.
    """
    conditions = parse_range(wanted)
    if not conditions:
        return True
    found = parse_version(version)
    return all(_COMPARE[how](found, bound) for how, bound in conditions)
