"""Suppression on the host, box by box as it is defined; where a CPU computes and may be asked."""

from __future__ import annotations

import numpy as np

from .overlaps import above_threshold_on_host

BLOCK = 128  # boxes settled at once, their overlaps as the bits of an integer each
_GROUP = 1 << 14  # pairs that could be compared while a group of its own is begun
_PAIRS = 1 << 15  # of boxes compared at once; twice as many take 1.6 times as long a pair


def greedy_nms(
    boxes: np.ndarray, scores: np.ndarray, idxs: np.ndarray | None, limit: float
) -> np.ndarray:
    """(k,) int32: which boxes stay, best first; to the bit what ``nms_mask`` finds."""
    # boxes (n, 4) float32 xyxy; one goes when its IoU with a better kept one of its group is
    # greater than ``limit``, a float32
    order = np.argsort(-scores, kind="stable")
    order = order[~np.isnan(scores[order])]
    groups, group, counts = np.unique(
        np.zeros(len(order)) if idxs is None else idxs[order],
        return_inverse=True,
        return_counts=True,
    )
    if len(groups) * _GROUP + (counts**2).sum() >= len(order) ** 2:  # one list with labels
        kept = _kept(boxes[order], group if len(groups) > 1 else None, limit)
    else:
        each = np.split(np.argsort(group, kind="stable"), np.cumsum(counts)[:-1])
        kept = np.sort(np.concatenate([v[_kept(boxes[order[v]], None, limit)] for v in each]))
    best: np.ndarray = order[kept].astype(np.int32)
    return best


def _kept(boxes: np.ndarray, kinds: np.ndarray | None, limit: float) -> np.ndarray:
    """Indices of those that stay of (m, 4) boxes by falling score, only those of a kind meeting."""
    corners = np.ascontiguousarray(boxes.T, np.float32)
    area = np.maximum((corners[2] - corners[0]) * (corners[3] - corners[1]), np.float32(0))
    rows = np.concatenate([corners, area[None]])  # (5, m): x1, y1, x2, y2, area
    left, done = np.arange(len(boxes)), [np.zeros(0, np.int64)]
    while len(left):
        size = min(BLOCK, len(left))
        kept = _first(rows[:, :size], None if kinds is None else kinds[:size], limit)
        done.append(left[kept])
        gone = _overlapped(rows, kinds, kept, size, limit)
        rows, left = rows[:, size:][:, ~gone], left[size:][~gone]
        kinds = None if kinds is None else kinds[size:][~gone]
    return np.concatenate(done)


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
