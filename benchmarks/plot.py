"""Bar and line charts of a run as one SVG, without a plotting library; readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

import attrs

__all__ = ["Bars", "Lines", "as_svg"]

_WIDTH, _MARGIN, _LABELS = 902, 24, 372
_BAR, _GAP = 20, 8
_PLOT = 240
_OURS, _OTHERS = "#1769aa", "#9aa5b1"
_INK = "#57606a"  # visible on white and on black


@attrs.frozen
class Bars:
    """A bar for each name; the first is that of goplugins."""

    title: str
    unit: str
    values: Mapping[str, float]


@attrs.frozen
class Lines:
    """Lines over the same x values; the first is that of goplugins."""

    title: str
    x_values: Sequence[int]
    x_label: str
    values: Mapping[str, Sequence[float]]


def as_svg(charts: Sequence[Bars | Lines]) -> str:
    """The charts, one below the other."""
    body: list[str] = []
    top = float(_MARGIN)
    for chart in charts:
        lines = list(_bars(chart, top) if isinstance(chart, Bars) else _lines(chart, top))
        body += lines
        top += _height(chart) + _MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top:.0f}" width="{_WIDTH}" '
        f'height="{top:.0f}" font-family="sans-serif" font-size="13" fill="{_INK}">'
    )
    return "\n".join([head, *body, "</svg>"]) + "\n"


def _height(chart: Bars | Lines) -> float:
    return 34 + len(chart.values) * (_BAR + _GAP) if isinstance(chart, Bars) else 34 + _PLOT + 44


def _title(text: str, top: float) -> str:
    return f'<text x="{_MARGIN}" y="{top + 14:.0f}" font-size="15" font-weight="bold">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bars(chart: Bars, top: float) -> Iterator[str]:
    yield _title(f"{chart.title} ({chart.unit}; shorter is better)", top)
    longest = _WIDTH - _LABELS - 90
    most = max(chart.values.values(), default=1.0)
    for number, (name, value) in enumerate(chart.values.items()):
        y = top + 34 + number * (_BAR + _GAP)
        width = longest * value / most
        color = _OTHERS if number else _OURS
        yield f'<text x="{_LABELS - 8}" y="{y + 15:.0f}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect x="{_LABELS}" y="{y:.0f}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{color}"/>'
        yield f'<text x="{_LABELS + width + 6:.1f}" y="{y + 15:.0f}">{_number(value)}</text>'


def _lines(chart: Lines, top: float) -> Iterator[str]:
    yield _title(f"{chart.title} (more is better)", top)
    left, bottom, right = _MARGIN + 50, top + 34 + _PLOT, _WIDTH - 192
    most = _round_up(max((max(line) for line in chart.values.values()), default=1.0))
    columns = [
        left + 30 + (right - left - 60) * n / max(1, len(chart.x_values) - 1) for n in range(len(chart.x_values))
    ]
    for step in range(5):
        y = bottom - _PLOT * step / 4
        yield f'<line x1="{left}" y1="{y:.0f}" x2="{right}" y2="{y:.0f}" stroke="{_INK}" stroke-opacity="0.25"/>'
        yield f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{_number(most * step / 4)}</text>'
    for x, x_value in zip(columns, chart.x_values, strict=True):
        yield f'<text x="{x:.0f}" y="{bottom + 20:.0f}" text-anchor="middle">{x_value}</text>'
    middle = (left + right) / 2
    yield f'<text x="{middle:.0f}" y="{bottom + 40:.0f}" text-anchor="middle">{escape(chart.x_label)}</text>'
    for number, (name, line) in enumerate(chart.values.items()):
        color = _OTHERS if number else _OURS
        points = [(x, bottom - _PLOT * value / most) for x, value in zip(columns, line, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="3"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in points)
        yield f'<text x="{points[-1][0] + 12:.0f}" y="{points[-1][1] + 4:.0f}" fill="{color}">{escape(name)}</text>'


def _round_up(value: float) -> float:
    """The next larger one of 1, 2, 2.5, 4, 5 times a power of ten: the upper end of the axis."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 4, 5, 10) if value <= step * power)
