"""Which boxes overlap too much, as a matrix of fused passes over memory."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .fuse import fused_alike


@fused_alike
def _above(
    x1: mx.array, y1: mx.array, x2: mx.array, y2: mx.array, areas: mx.array, threshold: mx.array
) -> mx.array:
    """Whether intersections (corners given) over unions exceed the threshold."""
    width = x2 - x1
    # (w + |w|) / 2 is max(w, 0) without a branch, which lets a compiled CPU kernel vectorise. A
    # negative height needs nothing: over areas that are not negative its ratio is.
    intersection = (width + mx.abs(width)) * 0.5 * (y2 - y1)
    # Two empty boxes give 0 / 0 = NaN, which is not above any threshold.
    return intersection / (areas - intersection) > threshold


def float32_threshold(threshold: float) -> float:
    """The greatest float32 not above a threshold."""
    # torch compares a float32 IoU with a double: rounding the threshold down is the same.
    limit = np.float32(threshold)
    return float(np.nextafter(limit, np.float32(-1)) if float(limit) > threshold else limit)


def above_threshold(a: mx.array, b: mx.array, threshold: mx.array) -> mx.array:
    """(B, p, m) bool: boxes of IoU above a float32 threshold; suppression's matrix."""
    # Not fused: compiled CPU kernels do not vectorise over broadcast arguments.
    # ``a`` (5, B, p, 1) and ``b`` (5, B, 1, m): x1, y1, x2, y2 and area, float32; never where both
    # boxes are empty
    corners = (
        mx.maximum(a[0], b[0]),
        mx.maximum(a[1], b[1]),
        mx.minimum(a[2], b[2]),
        mx.minimum(a[3], b[3]),
    )
    return _above(*corners, a[4] + b[4], threshold)


def above_threshold_on_host(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """As :func:`above_threshold`, to the bit, of NumPy's (5, p, 1) and (5, 1, m): (p, m) bool."""
    shared = np.minimum(a[2], b[2])
    shared -= np.maximum(a[0], b[0])
    height = np.abs(shared)  # as in :func:`_above`, and as quick beside a maximum with a scalar
    shared += height
    shared *= np.float32(0.5)
    np.minimum(a[3], b[3], out=height)
    height -= np.maximum(a[1], b[1])
    shared *= height
    union = np.add(a[4], b[4], out=height)
    union -= shared
    with np.errstate(divide="ignore", invalid="ignore"):
        shared /= union
        above: np.ndarray = shared > np.float32(threshold)
    return above
