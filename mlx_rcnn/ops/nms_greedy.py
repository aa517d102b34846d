"""Suppression on the host, box by box as it is defined; where a CPU computes and may be asked."""

from __future__ import annotations

import numpy as np

from .overlaps import above_threshold_on_host

BLOCK = 128  # boxes settled at once, their overlaps as the bits of an integer each
_PAIRS = 1 << 16  # of boxes compared at once: their arrays stay in a core's cache


def greedy_nms(
    boxes: np.ndarray, valid: np.ndarray, limit: float, labels: np.ndarray | None = None
) -> np.ndarray:
    """(n,) bool: which boxes of one list stay; to the bit what ``nms_mask`` finds."""
    # boxes (n, 4) float32 xyxy, by falling score; one goes when its IoU with a better kept one of
    # its label is greater than ``limit``, a float32
    left = np.flatnonzero(valid)
    corners = np.ascontiguousarray(boxes[left].T, np.float32)
    area = np.maximum((corners[2] - corners[0]) * (corners[3] - corners[1]), np.float32(0))
    rows = np.concatenate([corners, area[None]])  # (5, m): x1, y1, x2, y2, area
    kinds = None if labels is None else labels[left]
    keep = np.zeros(len(valid), bool)
    while len(left):
        size = min(BLOCK, len(left))
        kept = _first(rows[:, :size], None if kinds is None else kinds[:size], limit)
        keep[left[kept]] = True
        gone = _overlapped(rows, kinds, kept, size, limit)
        rows, left = rows[:, size:][:, ~gone], left[size:][~gone]
        kinds = None if kinds is None else kinds[size:][~gone]
    return keep


def _first(rows: np.ndarray, kinds: np.ndarray | None, limit: float) -> np.ndarray:
    """Indices of those that stay of a block of boxes (5, b), none of which is overlapped yet."""
    hits = above_threshold_on_host(rows[:, :, None], rows[:, None], limit)
    if kinds is not None:
        hits &= kinds[:, None] == kinds
    bits = [int.from_bytes(row, "little") for row in np.packbits(hits, axis=1, bitorder="little")]
    gone, kept = 0, []
    for i, others in enumerate(bits):
        if not gone >> i & 1:
            kept.append(i)
            gone |= others
    return np.array(kept, np.int64)


def _overlapped(
    rows: np.ndarray, kinds: np.ndarray | None, kept: np.ndarray, size: int, limit: float
) -> np.ndarray:
    """Which boxes behind the first ``size`` one of the ``kept`` overlaps."""
    rest = rows[:, None, size:]
    gone = np.zeros(rest.shape[2], bool)
    step = max(1, _PAIRS // max(1, len(gone)))
    for start in range(0, len(kept) if len(gone) else 0, step):
        some = kept[start : start + step]
        hits = above_threshold_on_host(rows[:, some, None], rest, limit)
        if kinds is not None:
            hits &= kinds[some, None] == kinds[size:]
        gone |= hits.any(axis=0)
    return gone
