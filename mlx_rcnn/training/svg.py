"""Line charts as SVG, for a page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from statistics import fmean

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 30, 40
_POINTS = 400  # of a line; more than a screen shows only make the page large
Points = Sequence[tuple[float, float]]


def chart(title: str, lines: Mapping[str, Points], label: str, dots: bool = False) -> str:
    """An ``<svg>`` of lines, (x, y) by name, x rising, over one axis; empty without a point."""
    # long ones are drawn by the means of their parts
    drawn = {name: _thinned(points) for name, points in lines.items() if len(points)}
    if not drawn:
        return ""
    x = _axis([p[0] for points in drawn.values() for p in points])
    y = _axis([p[1] for points in drawn.values() for p in points])

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - x[0]) / (x[-1] - x[0])
        up = (point[1] - y[0]) / (y[-1] - y[0])
        return (
            round(_LEFT + across * (WIDTH - _LEFT - _RIGHT), 1),
            round(HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM), 1),
        )

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts.append(f'<text x="{_LEFT}" y="18" class="title">{escape(title)}</text>')
    for value in y:
        height = at((x[0], value))[1]
        parts.append(f'<path d="M{_LEFT} {height}H{WIDTH - _RIGHT}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 4}" class="y">{value:g}</text>')
    for value in x:
        parts.append(
            f'<text x="{at((value, y[0]))[0]}" y="{HEIGHT - 22}" class="x">{value:g}</text>'
        )
    parts.append(f'<text x="{WIDTH // 2}" y="{HEIGHT - 6}" class="x">{escape(label)}</text>')
    for place, (name, points) in enumerate(drawn.items()):
        colour = COLOURS[place % len(COLOURS)]
        path = " ".join(f"{a},{b}" for a, b in map(at, points))
        parts.append(f'<polyline points="{path}" stroke="{colour}"/>')
        if dots or len(points) == 1:
            parts += [_dot(at(point), colour, f"{name} {point[1]:.6g}") for point in points]
    return "".join([*parts, _legend(list(drawn)), "</svg>"])


def _dot(at: tuple[float, float], colour: str, text: str) -> str:
    title = f"<title>{escape(text)}</title>"
    return f'<circle cx="{at[0]}" cy="{at[1]}" r="3" fill="{colour}">{title}</circle>'


def _legend(names: Sequence[str]) -> str:
    """Names in their colours, from the right end of the title's line."""
    spans = "".join(
        f'<tspan fill="{COLOURS[i % len(COLOURS)]}" dx="10">{escape(name)}</tspan>'
        for i, name in enumerate(names)
    )
    return f'<text x="{WIDTH - _RIGHT}" y="18" class="legend">{spans}</text>'


def _axis(values: Sequence[float]) -> list[float]:
    """Round numbers, 3 to 7, that span the values."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        low, high = (low - abs(low) / 2, high + abs(high) / 2) if high else (0.0, 1.0)
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


def _thinned(points: Points) -> Points:
    if len(points) <= _POINTS:
        return points
    edges = [i * len(points) // _POINTS for i in range(_POINTS + 1)]
    parts = [points[a:b] for a, b in pairwise(edges)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]
