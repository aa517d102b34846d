"""RoIAlign by the kernels of a GPU, once they have agreed with plain MLX there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from ..kernels import Plan, agree, in_fixed_order, pool, spread
from ..kernels.dialects import Dialect
from .gradient import own_gradient

Twin = Callable[[Sequence[mx.array], mx.array, Plan], mx.array]

# Of a map of 9 x 13: inside, over a border, outside, smaller than a pixel, inverted, no box.
_SIZE = (9, 13)
_CASES = (
    (1.3, 0.8, 9.1, 6.7),
    (-4.2, -2.7, 3.1, 3.9),
    (30.0, 2.0, 44.0, 6.0),
    (4.1, 3.3, 4.4, 3.6),
    (9.2, 6.1, 3.3, 2.2),
    (float("nan"), 1.0, 5.0, 4.0),
)


def fused_roi_align(
    # L maps (N, h, w, C) of one dtype, finest first
    maps: Sequence[mx.array],
    boxes: mx.array,  # (R, 5) float32 (image, x1, y1, x2, y2), pixels of the network input
    plan: Plan,
    dialect: Dialect,
    twin: Twin,
    # sum the gradient in a fixed order; the environment, or a block of ``fixed_order``, may ask for
    # it too
    deterministic: bool,
) -> mx.array:
    """RoIAlign with a gradient to the maps, by kernels or, if they are not right, by the twin."""
    dtype = maps[0].dtype
    fixed = deterministic or in_fixed_order()
    if not _pools(dtype, plan, dialect, twin):
        return twin(maps, boxes, plan)  # (R, ph, pw, C) in the maps' dtype

    def forward(*maps: mx.array) -> mx.array:
        return pool(maps, boxes, plan, dialect)

    def backward(
        primals: mx.array | Sequence[mx.array], cotangent: mx.array, _: mx.array
    ) -> mx.array | tuple[mx.array, ...]:
        maps = [primals] if isinstance(primals, mx.array) else list(primals)
        if _spreads(dtype, plan, dialect, twin, fixed):
            found = spread(cotangent, [m.shape for m in maps], boxes, plan, dialect, fixed)
        else:
            found = mx.vjp(lambda *m: twin(m, boxes, plan), maps, [cotangent])[1]
        return found[0] if isinstance(primals, mx.array) else tuple(found)

    return own_gradient(forward, backward)(*maps)


def _pools(dtype: mx.Dtype, plan: Plan, dialect: Dialect, twin: Twin) -> bool:
    """Whether the kernel's values are the twin's."""

    def ours() -> Sequence[mx.array]:
        maps, boxes, _ = _case(dtype, plan)
        return [pool(maps, boxes, plan, dialect)]

    def theirs() -> Sequence[mx.array]:
        maps, boxes, _ = _case(dtype, plan)
        return [twin(maps, boxes, plan)]

    key = ("roi_align", dialect.name, str(dtype), plan.ratio, len(plan.scales))
    return agree(key, ours, theirs)


def _spreads(dtype: mx.Dtype, plan: Plan, dialect: Dialect, twin: Twin, fixed: bool) -> bool:
    """Whether the kernel's gradient is the twin's."""

    def ours() -> Sequence[mx.array]:
        maps, boxes, cotangent = _case(dtype, plan)
        return spread(cotangent, [m.shape for m in maps], boxes, plan, dialect, fixed)

    def theirs() -> Sequence[mx.array]:
        maps, boxes, cotangent = _case(dtype, plan)
        return mx.vjp(lambda *m: twin(m, boxes, plan), maps, [cotangent])[1]

    form = "deterministic gradient" if fixed else "gradient"
    key = (f"roi_align's {form}", dialect.name, str(dtype), plan.ratio, len(plan.scales))
    return agree(key, ours, theirs)


def _case(dtype: mx.Dtype, plan: Plan) -> tuple[list[mx.array], mx.array, mx.array]:
    """Small maps, boxes of every kind at every level's scale, and a cotangent."""
    shape = (2, *_SIZE, 5)
    maps = [_wave(shape, k).astype(dtype) for k in range(len(plan.scales))]
    rows = [
        [float(i % 2), *(v / scale for v in case)]
        for scale in plan.scales
        for i, case in enumerate(_CASES)
    ]
    boxes = mx.array(rows, dtype=mx.float32)
    return maps, boxes, _wave((len(rows), *plan.bins, 5), 9).astype(dtype)


def _wave(shape: tuple[int, ...], phase: int) -> mx.array:
    """Values in [-1, 1] that do not repeat."""
    count = 1
    for side in shape:
        count *= side
    return mx.sin(mx.arange(count).astype(mx.float32) * 0.7 + phase).reshape(shape)
