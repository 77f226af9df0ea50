"""Pictures as SVG, written by hand. Bars: one group for each work, one bar for each builder, a mark at the bound. Panels: lines
over sizes, both axes logarithmic, beside lines of proportional growth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from xml.sax.saxutils import escape

_COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6")
_WIDTH, _BAR, _GAP, _TOP = 560, 13, 12, 56


@dataclass(frozen=True, slots=True)
class Bar:
    """A group: its label, a value for each series, and a bound to mark."""

    label: str
    values: Mapping[str, float]
    bound: float | None = None


def picture(title: str, groups: Sequence[Bar], series: Sequence[str], left: int = 170, low: float = 0.05) -> str:
    """An SVG document, with `left` pixels for the labels. The scale is logarithmic, and begins at `low`: works take from a
    tenth of a second to half a minute."""
    top = max((value for group in groups for value in group.values.values()), default=1.0)

    def x(value: float) -> float:
        return left + _WIDTH * log(max(value, low) / low) / log(max(top, low * 2) / low)

    parts, y = [], _TOP
    for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50):
        if low < tick <= top:
            parts.append(f'<line x1="{x(tick):.1f}" y1="{_TOP - 8}" x2="{x(tick):.1f}" y2="100%" stroke="#e5e7eb"/>'
                         f'<text x="{x(tick):.1f}" y="{_TOP - 12}" text-anchor="middle" fill="#6b7280">{tick:g}</text>')
    for group in groups:
        start, values = y, []
        parts.append(f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{escape(group.label)}</text>')
        for i, name in enumerate(series):
            if name in group.values:
                value = group.values[name]
                parts.append(f'<rect x="{left}" y="{y}" width="{x(value) - left:.1f}" height="{_BAR - 2}" '
                             f'fill="{_COLOURS[i % len(_COLOURS)]}"/>')
                values.append(f'<text x="{x(value) + 4:.1f}" y="{y + 10}" paint-order="stroke" stroke="#fff" stroke-width="3">'
                              f'{value:.2f}</text>')
                y += _BAR
        if group.bound:
            parts.append(f'<line x1="{x(group.bound):.1f}" y1="{start - 3}" x2="{x(group.bound):.1f}" y2="{y}" stroke="#111" '
                         f'stroke-width="2"><title>bound: {group.bound} s</title></line>')
        parts += values  # over the bounds
        y += _GAP
    bounds = '<text x="8" y="42" fill="#6b7280">black: the bound</text>' if any(group.bound for group in groups) else ""
    legend = "".join(f'<rect x="{left + i * 110}" y="18" width="10" height="10" fill="{_COLOURS[i % len(_COLOURS)]}"/>'
                     f'<text x="{left + i * 110 + 14}" y="27">{escape(name)}</text>' for i, name in enumerate(series))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + _WIDTH + 70}" height="{y}" '
            f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
            f'<text x="8" y="27" font-weight="bold">{escape(title)}</text>{legend}{"".join(parts)}'
            f'{bounds}</svg>\n')


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot. `lines`: name → size → value. `proportional`: each line has a dotted one through its last point, which grows as the
    size does. `bound` is drawn as a line. The scale reaches at least from `low` to `high`."""

    title: str
    unit: str
    lines: Mapping[str, Mapping[int, float]]
    proportional: bool = False
    bound: float | None = None
    low: float | None = None
    high: float | None = None


_PLOT_WIDTH, _PLOT_HEIGHT, _MARGIN = 360, 260, 62


def panels(title: str, names: Sequence[str], plots: Sequence[Panel]) -> str:
    """An SVG document with the plots side by side. `names` are those of the lines, in the order of their colours."""
    width, height = len(plots) * (_PLOT_WIDTH + _MARGIN) + 24, _PLOT_HEIGHT + 120
    legend = "".join(f'<rect x="{_MARGIN + i * 130}" y="34" width="10" height="10" fill="{_COLOURS[i % len(_COLOURS)]}"/>'
                     f'<text x="{_MARGIN + i * 130 + 14}" y="43">{escape(name)}</text>' for i, name in enumerate(names))
    if any(plot.proportional for plot in plots):
        x = _MARGIN + len(names) * 130
        legend += (f'<line x1="{x}" y1="39" x2="{x + 24}" y2="39" stroke="#6b7280" stroke-dasharray="2 3"/>'
                   f'<text x="{x + 30}" y="43">proportional to the size, from the last point back</text>')
    drawn = "".join(_Plot(plot, names, _MARGIN + i * (_PLOT_WIDTH + _MARGIN), 78).svg() for i, plot in enumerate(plots))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">'
            f'<rect width="100%" height="100%" fill="#fff"/>'
            f'<text x="8" y="20" font-weight="bold" font-size="13">{escape(title)}</text>{legend}{drawn}</svg>\n')


class _Plot:
    """A plot whose upper left corner is at (`left`, `top`)."""

    def __init__(self, panel: Panel, names: Sequence[str], left: int, top: int) -> None:
        self._panel, self._names, self._left, self._top = panel, names, left, top
        sizes = [size for line in panel.lines.values() for size in line] or [1]
        values = [value for line in panel.lines.values() for value in line.values() if value > 0] or [1.0]
        self._sizes = sorted(set(sizes))
        self._x_range = (min(sizes), max(max(sizes), min(sizes) * 2))
        self._y_range = (min([*values, panel.low or values[0]]) / 1.3, max([*values, panel.high or values[0]]) * 1.3)

    def _x(self, size: float) -> float:
        low, high = self._x_range
        return self._left + _PLOT_WIDTH * log(size / low) / log(high / low)

    def _y(self, value: float) -> float:
        low, high = self._y_range
        return self._top + _PLOT_HEIGHT * (1 - log(value / low) / log(high / low))

    def svg(self) -> str:
        """The plot's elements."""
        title = f'<text x="{self._left}" y="{self._top - 12}" font-weight="bold">{escape(self._panel.title)}</text>'
        parts = [title, *self._axes()]
        if self._panel.bound:
            y = self._y(self._panel.bound)
            parts.append(f'<line x1="{self._left}" y1="{y:.1f}" x2="{self._left + _PLOT_WIDTH}" y2="{y:.1f}" stroke="#111"/>'
                         f'<text x="{self._left + 4}" y="{y - 4:.1f}">bound: {self._panel.bound:g}</text>')
        for i, name in enumerate(self._names):
            points = sorted((size, value) for size, value in self._panel.lines.get(name, {}).items() if value > 0)
            if points:
                parts += self._line(points, _COLOURS[i % len(_COLOURS)], name)
        return "".join(parts)

    def _axes(self) -> list[str]:
        bottom, right, out = self._top + _PLOT_HEIGHT, self._left + _PLOT_WIDTH, []
        free = right + 60.0
        for size in reversed(self._sizes):
            x = self._x(size)
            out.append(f'<line x1="{x:.1f}" y1="{self._top}" x2="{x:.1f}" y2="{bottom}" stroke="#eef0f3"/>')
            if free - x >= 34:  # a number takes that much
                out.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle" fill="#6b7280">{_short(size)}</text>')
                free = x
        for value in ticks(*self._y_range):
            y = self._y(value)
            out.append(f'<line x1="{self._left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#eef0f3"/>'
                       f'<text x="{self._left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#6b7280">{_short(value)}</text>')
        out.append(f'<path d="M{self._left} {self._top}V{bottom}H{right}" fill="none" stroke="#9ca3af"/>'
                   f'<text x="{right}" y="{bottom + 31}" text-anchor="end" fill="#6b7280">{escape(self._panel.unit)}</text>')
        return out

    def _line(self, points: Sequence[tuple[int, float]], colour: str, name: str) -> list[str]:
        out = []
        (last_size, last), low = points[-1], self._y_range[0]
        if self._panel.proportional:
            start = max(self._x_range[0], last_size * low / last)  # where it leaves the plot
            out.append(f'<line x1="{self._x(start):.1f}" y1="{self._y(last * start / last_size):.1f}" '
                       f'x2="{self._x(last_size):.1f}" y2="{self._y(last):.1f}" stroke="{colour}" stroke-dasharray="2 3"/>')
        path = " ".join(f"{self._x(size):.1f},{self._y(value):.1f}" for size, value in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{self._x(size):.1f}" cy="{self._y(value):.1f}" r="3" fill="{colour}"><title>{escape(name)}, {size} '
                f'{escape(self._panel.unit)}: {value:.3g}</title></circle>' for size, value in points]  # fmt: skip
        return out


def ticks(low: float, high: float) -> list[float]:
    """Round values between the two: 1, 2 and 5 times powers of ten, or only the powers when there would be more than ten."""
    powers = range(-4, 10)
    fine = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return fine if len(fine) <= 10 else [10.0**p for p in powers if low <= 10.0**p <= high]


def _short(value: float) -> str:
    return f"{value / 1000:g} k" if value >= 1000 else f"{value:g}"
