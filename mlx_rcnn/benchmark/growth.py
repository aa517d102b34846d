"""How cost grows with boxes, pixels, images and classes, as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from ..files import replacing
from .measure import OURS, THEIRS

Curve = Sequence[tuple[float, float]]
NAMES = {OURS: "mlx_rcnn", THEIRS: "torchvision"}


def draw_growth(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Draw a panel an axis, both scales logarithmic, a line a library, into a PNG."""
    make = import_module("matplotlib.figure").Figure
    figure = make(figsize=(3.2 * len(curves), 3), layout="constrained")
    for axes, (axis, lines) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        for library, points in lines.items():  # pairs of a value and seconds
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=NAMES[library])
        axes.set(xscale="log", yscale="log", xlabel=axis, ylabel="seconds")
        seconds = [value for points in lines.values() for _, value in points]
        if seconds:  # whole decades: what hardly grows looks so, and every axis has its numbers
            least, most = np.log10([min(seconds), max(seconds)])
            axes.set_ylim(10 ** np.floor(least), 10 ** max(np.ceil(most), np.floor(least) + 1))
        ticks = [value for value, _ in next(iter(lines.values()), ())]
        axes.set_xticks(
            ticks, [f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in ticks]
        )
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)
