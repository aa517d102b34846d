"""Charts as inline SVG: curves of precision over recall, and bars."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .text import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 260, 205, 30, 30, 16


def curve_chart(title: str, curves: Sequence[tuple[str, Sequence[float] | None]]) -> str:
    """A ``figure`` of at most four curves, 101 precisions at recall 0:0.01:1, with its legend."""
    right, foot = _WIDTH - 6, _HEIGHT - _BOTTOM
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = _LEFT + share * (right - _LEFT), foot - share * (foot - _TOP)
        parts.append(f'<path class="axis" d="M{_LEFT} {y:g}H{right}M{x:g} {_TOP}V{foot}"/>')
        if share in (0, 0.5, 1):
            parts.append(f'<text x="{x:g}" y="{foot + 13}" text-anchor="middle">{share:g}</text>')
            parts.append(f'<text x="{_LEFT - 4}" y="{y + 4:g}" text-anchor="end">{share:g}</text>')
    parts.append(f'<text x="{right}" y="{_HEIGHT - 3}" text-anchor="end">recall</text>')
    parts.append('<text x="2" y="10">precision</text>')
    legend = []
    for i, (name, values) in enumerate(curves):
        if values is None:  # left out
            continue
        line = _path(values, right - _LEFT, foot - _TOP, _LEFT, _TOP)
        parts.append(f'<path class="c{i}" d="{line}"/>')
        key = f'<svg width="26" height="8"><path class="c{i}" d="M0 4H26"/></svg>'
        legend.append(f"<span>{key} {escape(name)}</span>")
    if not legend:
        parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">none</text>')
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f"<figcaption><bdi>{escape(title)}</bdi><br>{''.join(legend)}</figcaption></figure>"
    )


def spark(values: Sequence[float] | None) -> str:
    """An ``svg`` of a curve of 101 precisions as high as a line of text; ``None`` is nothing."""
    if values is None:
        return ""
    line = _path(values, 56, 16, 1, 2)
    return f'<svg width="58" height="20" aria-hidden="true"><path class="c0" d="{line}"/></svg>'


def bar(value: float, largest: float, other: bool = False) -> str:
    """An ``svg`` of a bar, the longest for ``largest``; NaN is nothing."""
    width = 180 * value / largest if largest > 0 and math.isfinite(value) else 0
    name = "other" if other else "bar"
    return (
        f'<svg width="182" height="12" aria-hidden="true">'
        f'<rect class="{name}" width="{max(width, 0):.1f}" height="11"/></svg>'
    )


def _path(values: Sequence[float], width: float, height: float, left: float, top: float) -> str:
    """A line through the values, without points that lie between equals."""
    last = len(values) - 1
    kept = [
        i
        for i in range(last + 1)
        if i in (0, last) or not values[i - 1] == values[i] == values[i + 1]
    ]
    points = [f"{left + width * i / last:.1f} {top + height * (1 - values[i]):.1f}" for i in kept]
    return "M" + "L".join(points)
