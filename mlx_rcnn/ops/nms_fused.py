"""Suppression by the kernels of a GPU, once they have agreed with plain MLX there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from ..kernels import agree, suppress
from ..kernels.dialects import Dialect

# From boxes, valid, limit and labels to what stays.
Twin = Callable[[mx.array, mx.array, float, "mx.array | None"], mx.array]

_LISTS, _COUNT, _LIMIT = 2, 150, 0.4


def fused_nms(
    boxes: mx.array,  # (B, n, 4) float32 xyxy, each list sorted by falling score
    valid: mx.array,  # (B, n)
    limit: float,  # a box goes when its IoU with a better one that stays is greater
    labels: mx.array | None,  # (B, n) integers; only boxes of equal label end each other
    dialect: Dialect,
    twin: Twin,  # the same in plain MLX, exact
) -> mx.array | None:
    """(B, n) bool, exact: which boxes stay, by kernels; None where the kernels are not right."""

    def ours() -> Sequence[mx.array]:
        case = _case()
        return [suppress(*case[:2], _LIMIT, m, dialect) for m in (None, case[2])]

    def theirs() -> Sequence[mx.array]:
        case = _case()
        return [twin(*case[:2], _LIMIT, m) for m in (None, case[2])]

    if not agree(("nms", dialect.name), ours, theirs):
        return None
    # Which boxes stay has no slope, and a kernel refuses to be asked for one.
    boxes, valid = mx.stop_gradient(boxes), mx.stop_gradient(valid.astype(mx.bool_))
    if labels is not None:
        labels = mx.stop_gradient(labels.astype(mx.int32))
    return suppress(boxes, valid, limit, labels, dialect)


def _case() -> tuple[mx.array, mx.array, mx.array]:
    """Lists in which a third of the boxes stays; some boxes are empty, some take no part."""
    count = mx.arange(_LISTS * _COUNT).reshape(_LISTS, _COUNT)
    corner = mx.stack([count * 37 % 101, count * 53 % 89], axis=-1).astype(mx.float32)
    side = mx.stack([count * 29 % 41, count * 31 % 43], axis=-1).astype(mx.float32)
    boxes = mx.concatenate([corner, corner + side], axis=-1)
    return boxes, count % 7 != 3, count * 17 % 3
