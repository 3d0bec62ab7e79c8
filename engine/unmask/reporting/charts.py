"""Line charts as SVG inside of an HTML page: no script, no font and no file beside it.

Colours are the variables of the page, so a chart follows its light or dark scheme. A chart is drawn for a width of 440
units and grows with its place, so its letters stay readable on a phone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "chart"]

_WIDTH, _HEIGHT = 440, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 40
# more points than a screen shows
_MOST_POINTS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: in the legend.
        x, y: places of its points, in the order of x.
        dashed: whether it is dashed.
        points: whether its points are marked.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    points: bool = False


def chart(title: str, lines: Sequence[Line], *, x_label: str, low: float | None = None) -> str:
    """Return a figure with the lines that have points; an empty string if none has.

    Args:
        title: what is drawn, with its unit.
        lines: at most six, in the order of the legend.
        x_label: what stands below.
        low: lowest value of the y axis; None lets the lines decide.
    """
    lines = [_thinned(line) for line in lines if len(line.x)]
    if not lines:
        return ""
    xs, ys = [value for line in lines for value in line.x], [value for line in lines for value in line.y]
    x_ticks = _ticks(min(xs), max(xs), 5)
    y_ticks = _ticks(min(ys) if low is None else low, max(ys), 5)
    x_range = min(xs), max(max(xs), min(xs) + 1e-9)
    y_range = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / max(y_range[1] - y_range[0], 1e-12)
        return _LEFT + right * wide, _TOP + (1 - up) * high

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in y_ticks:
        _, y = place(x_range[0], tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x_ticks:
        if x_range[0] <= tick <= x_range[1]:
            x, _ = place(tick, y_range[0])
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>')
    middle = _LEFT + wide / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    for number, line in enumerate(lines):
        places = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        kind = f"line c{number}{' dashed' if line.dashed else ''}"
        parts.append(f'<polyline class="{kind}" points="{drawn}"/>')
        if line.points or len(places) == 1:
            parts += [f'<circle class="dot c{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in places]
    legend = "".join(
        f'<span class="key"><i class="c{number}{" dashed" if line.dashed else ""}"></i>{escape(line.name)}</span>'
        for number, line in enumerate(lines)
    )
    parts.append("</svg>")
    keys = f'<div class="keys">{legend}</div>' if len(lines) > 1 else ""
    return f"<figure><figcaption>{escape(title)}</figcaption>{''.join(parts)}{keys}</figure>"


def _thinned(line: Line) -> Line:
    """Return a line of fewer points, each the mean of some that follow one another."""
    each = -(-len(line.x) // _MOST_POINTS)
    if each == 1:
        return line
    cuts = [slice(first, first + each) for first in range(0, len(line.x), each)]
    x, y = ([sum(values[cut]) / len(values[cut]) for cut in cuts] for values in (line.x, line.y))
    return Line(name=line.name, x=x, y=y, dashed=line.dashed, points=line.points)


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round numbers around a range."""
    if high <= low:
        room = max(abs(low), 1.0) * 0.1
        low, high = low - room if low else low, low + room
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * each for each in (1, 2, 2.5, 5, 10) if size * each >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _number(value: float) -> str:
    """Return a number as an axis shows it: 0.0015, 2.5, 40k, 1.2M."""
    if value == 0:
        return "0"
    for least, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= least:
            return f"{value / (1e3 if unit == 'k' else least):.4g}{unit}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.1e}"
