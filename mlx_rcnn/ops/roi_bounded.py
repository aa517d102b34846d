"""RoIAlign with adaptive sampling in fixed shapes, for a graph that cannot ask how large RoIs are.

A RoI reads a window of its map, and by the pyramid's own rule no window is large: a box goes to a
level where it covers less than 28 x 28 pixels, unless it is the coarsest. So every RoI gathers as
many pixels as the largest window can have, each with its weight in each bin. The sums are those of
:mod:`~mlx_rcnn.ops.roi_align`, in another order. For boxes inside the image, as proposals are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from .gradient import add_at
from .roi_gather import gather_chunked

# Of a level but the coarsest: 28 x 28, with torchvision's slack.
AREA = 785.0
# Torchvision's scales, powers of two, may be that much more than the map's own.
ROOM = 1.5

# Places and weights (R, bins, taps) along an axis: of start, extent, bins, grid, most and limit.
Taps = Callable[..., tuple[mx.array, mx.array]]


def largest_window(sizes: Sequence[tuple[int, int]]) -> int:
    """Pixels of the largest window that a RoI reads, of maps (w, h), finest first."""
    *finer, (width, height) = sizes
    most = width * height
    for w, h in finer:
        side = float(max(w, h))
        # of a level but the coarsest at most (w + 3) (h + 3) with w h < 28^2
        most = max(most, min(w * h, math.ceil(AREA + 3 * (side + AREA / side) + 9)))
    return most


def bounded_average(
    pixels: mx.array,  # (P, C) of all maps
    base: mx.array,  # (R,) first pixel of the map of each RoI
    limit: mx.array,  # (R, 2): (w, h) of the map of each RoI
    start: mx.array,  # (R, 2) in map pixels, x then y, as the extent
    extent: mx.array,
    grid: mx.array,  # (R, 2) samples a bin
    bins: tuple[int, int],  # (ph, pw)
    sizes: Sequence[tuple[int, int]],  # (w, h) of each map, finest first
    taps: Taps,  # which pixels samples lie between, along an axis
    least: int = 1,  # samples that a bin has, whatever the RoI
) -> mx.array:
    """(R, ph, pw, C) RoIAlign of R RoIs, whatever their sizes, in the dtype of ``pixels``."""
    firsts, lengths, matrices = [], [], []
    for axis, count in ((0, bins[1]), (1, bins[0])):
        longest = max(size[axis] for size in sizes)
        most = max(math.ceil(ROOM * longest / count) + 1, least)
        ends = limit[:, axis]
        place, weight = taps(start[:, axis], extent[:, axis], count, grid[:, axis], most, ends)
        roi, line = mx.arange(place.shape[0])[:, None, None], mx.arange(count)[None, :, None]
        matrix = add_at(mx.zeros((place.shape[0], count, longest)), (roi, line, place), weight)
        matrices.append(matrix)
        read = weight > 0
        first = mx.min(mx.where(read, place, longest), axis=(1, 2))
        firsts.append(first)
        lengths.append(mx.maximum(mx.max(mx.where(read, place, 0), axis=(1, 2)) - first + 1, 1))
    slot = mx.arange(largest_window(sizes))[None]
    column, row = slot % lengths[0][:, None], slot // lengths[0][:, None]
    used = row < lengths[1][:, None]
    column, row = (
        mx.minimum(first[:, None] + v, limit[:, axis, None] - 1)
        for axis, (first, v) in enumerate(zip(firsts, (column, row), strict=True))
    )
    index = base[:, None] + row * limit[:, 0, None] + column  # (R, T)

    def reduce(part: mx.array, rows: slice) -> mx.array:
        across = mx.take_along_axis(matrices[0][rows], column[rows][:, None], axis=2)
        down = mx.take_along_axis(matrices[1][rows], row[rows][:, None], axis=2)
        down = mx.where(used[rows][:, None], down, 0.0)
        weight = (down[:, :, None] * across[:, None]).flatten(1, 2)  # (r, ph*pw, T)
        return (weight @ part[:, 0].astype(mx.float32)).astype(part.dtype)

    out = gather_chunked(index[:, None], pixels, reduce)
    return out.reshape(-1, *bins, pixels.shape[-1])
