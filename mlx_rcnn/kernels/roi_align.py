"""RoIAlign in one launch for all levels of a pyramid, and its gradient.

Shapes: N images, L levels, R RoIs, ph x pw bins, C channels. Sums are float32 whatever the maps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from . import roi_source
from .dialects import Dialect
from .launch import LEAST, Kernel, launch, rows

# Channels a thread: where it sits decides as much per thread, so the gradient takes more.
_EACH = {"forward": 4, "scatter": 4, "collect": 16}
_ROWS = 2**31 - 2**25  # a row's number, and one step more, fits 32 bits
DTYPES = (mx.float32, mx.float16, mx.bfloat16)


class Plan(NamedTuple):
    """All that is not an array."""

    bins: tuple[int, int]  # (ph, pw)
    # L map pixels per input pixel, finest first
    scales: tuple[float, ...]
    # L - 1 least sides of a box, pixels of the input, of levels 1 to L - 1; NaN: no box goes there
    borders: tuple[float, ...]
    ratio: int  # samples a bin and axis; 0 or less: ``ceil(RoI size / bins)``, found in the kernel
    aligned: bool  # half a pixel to the left and up, and no least size of a RoI


def fits(shapes: Sequence[tuple[int, ...]], dtype: mx.Dtype, rois: int, plan: Plan) -> bool:
    """Whether the kernels can do it: a dtype they know, work for a thread, rows in 32 bits."""
    pixels = sum(n * h * w for n, h, w, _ in shapes)  # of the L maps
    work = max(pixels, rois * plan.bins[0] * plan.bins[1])
    return dtype in DTYPES and rois > 0 and shapes[0][3] > 0 and work < _ROWS


def pool(maps: Sequence[mx.array], boxes: mx.array, plan: Plan, dialect: Dialect) -> mx.array:
    """(R, ph, pw, C) RoIAlign of (R, 5) float32 boxes, each from its own of L maps (N, h, w, C)."""
    channels, rois = maps[0].shape[3], boxes.shape[0]
    # Rows of (image, x1, y1, x2, y2), pixels of the network input; those that are not finite give
    # zeros.
    given = [*map(_reachable, maps), *_tables([m.shape for m in maps], boxes, plan, "forward")]
    kernel = _kernel("forward", len(maps))
    shape = (rois, *plan.bins, channels)
    template = _template("forward", maps[0].dtype, plan)
    place = rows(_lanes(channels, "forward"), rois * plan.bins[0] * plan.bins[1])
    return launch(kernel, dialect, given, [shape], maps[0].dtype, template, place)[0]


def spread(
    cotangent: mx.array,
    shapes: Sequence[tuple[int, ...]],
    boxes: mx.array,
    plan: Plan,
    dialect: Dialect,
    deterministic: bool = False,
) -> list[mx.array]:
    """The gradient of :func:`pool` with respect to its L maps, summed in float32."""
    kind = "collect" if deterministic else "scatter"
    channels = shapes[0][3]
    given = [cotangent, *_tables(shapes, boxes, plan, kind)]  # (R, ph, pw, C) of the pooled values
    # Adding in a fixed order, without atomics, is equal bit for bit each time; every pixel then
    # looks at every box, which is slower.
    if deterministic:
        work = sum(n * h * w for n, h, w, _ in shapes)
    else:
        work = boxes.shape[0] * plan.bins[0] * plan.bins[1]
    grads = launch(
        _kernel(kind, len(shapes)),
        dialect,
        given,
        shapes,
        cotangent.dtype if deterministic else mx.float32,
        _template(kind, cotangent.dtype, plan),
        rows(_lanes(channels, kind), work),
    )
    return [grad.astype(cotangent.dtype) for grad in grads]  # in the cotangent's dtype


@functools.cache
def _kernel(kind: str, levels: int) -> Kernel:
    """The kernel of a kind for so many levels."""
    table = ("boxes", "numbers", "geometry")
    maps = tuple(f"map{k}" for k in range(levels))
    grads = tuple(f"grad{k}" for k in range(levels))
    inputs, outputs = (maps, ("pooled",)) if kind == "forward" else (("cotangent",), grads)
    return Kernel(
        f"roi_align_{kind}_{levels}",
        (*inputs, *table),
        outputs,
        roi_source.FUNCTIONS,
        getattr(roi_source, kind)(levels),
        atomic=kind == "scatter",
    )


def _template(kind: str, dtype: mx.Dtype, plan: Plan) -> list[tuple[str, int | bool | mx.Dtype]]:
    """What is known when a kernel is compiled."""
    ratio, levels = max(plan.ratio, 0), len(plan.scales)
    return [("T", dtype), ("RATIO", ratio), ("LEVELS", levels), ("EACH", _EACH[kind])]


def _lanes(channels: int, kind: str) -> int:
    """Threads that share the channels."""
    return -(-channels // _EACH[kind])


def _reachable(feature: mx.array) -> mx.array:
    """A map of at least so many elements that a pointer to it is like all others."""
    if feature.size >= LEAST:
        return feature
    return mx.pad(feature.reshape(-1), (0, LEAST - feature.size))


def _tables(
    shapes: Sequence[tuple[int, ...]], boxes: mx.array, plan: Plan, kind: str
) -> tuple[mx.array, mx.array, mx.array]:
    """Boxes, numbers and geometry as the kernels read them."""
    images, _, _, channels = shapes[0]
    numbers = [*plan.scales, float("nan"), *plan.borders]
    geometry = [boxes.shape[0], images, channels, *plan.bins, int(plan.aligned)]
    geometry += [_lanes(channels, kind), 0, *(side for shape in shapes for side in shape[1:3])]
    return boxes, mx.array(numbers, dtype=mx.float32), mx.array(geometry, dtype=mx.int32)
