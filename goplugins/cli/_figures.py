"""Numbers as short texts: rates, shares, durations, and sparklines."""

from __future__ import annotations

from collections.abc import Sequence

NONE = "-"

_BLOCKS = "▁▂▃▄▅▆▇█"


def amount(value: float | None) -> str:
    """A count or a rate.

    >>> amount(0.031), amount(7.25), amount(81.9), amount(12_345)
    ('0.03', '7.2', '82', '12.3k')
    """
    if value is None:
        return NONE
    if value < 0.01:
        return "<0.01" if value > 0 else "0"
    for below, digits in ((0.1, 2), (9.95, 1), (1e4, 0)):
        if value < below:
            return f"{value:.{digits}f}"
    return f"{value / 1e3:.1f}k" if value < 1e6 else f"{value / 1e6:.1f}M"


def share(value: float | None) -> str:
    """A fraction of 1, in percent.

    >>> share(0), share(0.0312), share(0.5)
    ('0%', '3.1%', '50%')
    """
    if value is None:
        return NONE
    return "0%" if not value else f"{value * 100:.1f}%" if value < 0.1 else f"{value * 100:.0f}%"


def duration(value: float | None) -> str:
    """Seconds as text with a suitable unit.

    >>> duration(0.00082), duration(0.0123), duration(2.5), duration(200)
    ('820 µs', '12 ms', '2.5 s', '3 min')
    """
    if value is None:
        return NONE
    for below, factor, unit in ((0.000995, 1e6, "µs"), (0.995, 1e3, "ms"), (99.5, 1.0, "s")):
        if value < below:
            number = value * factor
            return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"
    return f"{value / 60:.0f} min" if value < 5970 else f"{value / 3600:.0f} h"


def sparkline(values: Sequence[float | None], width: int = 20) -> str:
    """The last values as block characters; a space for None.

    >>> sparkline([0, 1, 2, None, 4], 5)
    '▁▂▄ █'
    """
    shown = list(values)[-width:]
    top = max((value for value in shown if value is not None), default=0.0) or 1.0
    last = len(_BLOCKS) - 1
    return "".join(" " if value is None else _BLOCKS[int(value / top * last)] for value in shown)
