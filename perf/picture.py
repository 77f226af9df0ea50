"""Bars as SVG, written by hand: one group for each work, one bar for each builder, a mark at the bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6")
_LEFT, _WIDTH, _BAR, _GAP, _TOP = 170, 560, 13, 12, 56


@dataclass(frozen=True, slots=True)
class Bar:
    """A group: its label, a value for each series, and a bound to mark."""

    label: str
    values: Mapping[str, float]
    bound: float | None = None


def picture(title: str, groups: Sequence[Bar], series: Sequence[str]) -> str:
    """An SVG document. The scale is logarithmic: works take from a tenth of a second to half a minute."""
    top = max((value for group in groups for value in group.values.values()), default=1.0)
    low = 0.05

    def x(value: float) -> float:
        from math import log

        return _LEFT + _WIDTH * log(max(value, low) / low) / log(max(top, low * 2) / low)

    parts, y = [], _TOP
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50):
        if tick <= top:
            parts.append(f'<line x1="{x(tick):.1f}" y1="{_TOP - 8}" x2="{x(tick):.1f}" y2="100%" stroke="#e5e7eb"/>'
                         f'<text x="{x(tick):.1f}" y="{_TOP - 12}" text-anchor="middle" fill="#6b7280">{tick:g}</text>')
    for group in groups:
        start = y
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(group.label)}</text>')
        for i, name in enumerate(series):
            if name in group.values:
                value = group.values[name]
                parts.append(f'<rect x="{_LEFT}" y="{y}" width="{x(value) - _LEFT:.1f}" height="{_BAR - 2}" '
                             f'fill="{_COLOURS[i % len(_COLOURS)]}"/><text x="{x(value) + 4:.1f}" y="{y + 10}">{value:.2f}</text>')
                y += _BAR
        if group.bound:
            parts.append(f'<line x1="{x(group.bound):.1f}" y1="{start - 3}" x2="{x(group.bound):.1f}" y2="{y}" stroke="#111" '
                         f'stroke-width="2"><title>bound: {group.bound} s</title></line>')
        y += _GAP
    legend = "".join(f'<rect x="{_LEFT + i * 110}" y="18" width="10" height="10" fill="{_COLOURS[i % len(_COLOURS)]}"/>'
                     f'<text x="{_LEFT + i * 110 + 14}" y="27">{escape(name)}</text>' for i, name in enumerate(series))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 70}" height="{y}" '
            f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
            f'<text x="8" y="27" font-weight="bold">{escape(title)}</text>{legend}{"".join(parts)}'
            f'<text x="8" y="42" fill="#6b7280">black: the bound</text></svg>\n')
