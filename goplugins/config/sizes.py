"""Sizes in bytes: an integer, in files also text such as ``"4 MiB"``."""

from __future__ import annotations

import re
from typing import Annotated

import attrs

from goplugins.config.field_types import ExpandedText, Whole, describe
from goplugins.errors import InvalidConfigError

_STEPS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([KkMGT]?)(i?)B|([KMGT])i)")
_MOST_CHARACTERS = 40


def parse_size(text: str) -> int:
    """Bytes of a size: a number with B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).

    ``Ki``, ``Mi``, ``Gi`` and ``Ti`` are accepted, too, as in Kubernetes.

    Raises:
        ValueError: the text is not a size, or not a whole number of bytes.

    >>> parse_size("4 MiB"), parse_size("64kB"), parse_size("1.5GiB"), parse_size("512 B"), parse_size("1Gi")
    (4194304, 64000, 1610612736, 512, 1073741824)
    """
    found = _SIZE.fullmatch(text.strip()) if len(text) <= _MOST_CHARACTERS else None
    if found is None or (found[3] and not found[2]):
        raise ValueError("not a size")
    unit = (found[2] or found[4] or "").lower()
    whole, _, fraction = found[1].partition(".")
    factor: int = (1024 if found[3] or found[4] else 1000) ** _STEPS[unit]
    digits: int = 10 ** len(fraction)
    size, rest = divmod(int(whole + fraction) * factor, digits)
    if rest:
        raise ValueError("not a whole number of bytes")
    return size


@attrs.frozen
class Size:
    """An integer of 1 or more, in files also text with a unit."""

    def read(self, value: object, *, text: bool) -> int:
        whole = Whole(low=1)
        if not isinstance(value, str) or not (text or isinstance(value, ExpandedText)):
            return whole.read(value, text=text)
        if isinstance(value, ExpandedText) and value.strip().isdigit():
            return whole.read(value, text=text)
        try:
            number = parse_size(value)
        except ValueError as exc:
            fix = 'write bytes as an integer, or text such as "4 MiB" or "64 kB"'
            raise InvalidConfigError(f"expected a size in bytes, got {describe(value)}", fix=fix) from exc
        return whole.read(number, text=text)


Bytes = Annotated[int, Size()]
