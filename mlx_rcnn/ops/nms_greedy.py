"""Suppression on the host, box by box as it is defined; where a CPU computes and may be asked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .overlaps import above_threshold_on_host

BLOCK = 128  # boxes settled at once, their overlaps as the bits of an integer each
MANY, LIKE = 2048, 12  # from how many on by their areas, and so many of like ones at once
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
    if idxs is None:
        return _indices(order, _kept(boxes[order], None, limit))
    groups, group, counts = np.unique(idxs[order], return_inverse=True, return_counts=True)
    if len(groups) * _GROUP + (counts**2).sum() >= len(order) ** 2:  # one list with labels
        kept = _kept(boxes[order], group if len(groups) > 1 else None, limit)
    else:
        each = np.split(np.argsort(group, kind="stable"), np.cumsum(counts)[:-1])
        kept = np.sort(np.concatenate([v[_kept(boxes[order[v]], None, limit)] for v in each]))
    return _indices(order, kept)


def _indices(order: np.ndarray, kept: np.ndarray) -> np.ndarray:
    best: np.ndarray = order[kept].astype(np.int32)
    return best


def _kept(boxes: np.ndarray, kinds: np.ndarray | None, limit: float) -> np.ndarray:
    """Indices of those that stay of (m, 4) boxes by falling score, only those of a kind meeting."""
    corners = np.ascontiguousarray(boxes.T, np.float32)
    area = np.maximum((corners[2] - corners[0]) * (corners[3] - corners[1]), np.float32(0))
    rows = np.concatenate([corners, area[None]])  # (5, m): x1, y1, x2, y2, area
    left = np.arange(len(boxes))
    by_area = left if len(boxes) < MANY else np.argsort(area, kind="stable")
    waiting = np.ones(len(boxes), bool)  # neither settled nor overlapped
    done = [np.zeros(0, np.int64)]
    while len(left):
        block = left[:BLOCK]
        kept = block[_first(rows[:, block], None if kinds is None else kinds[block], limit)]
        done.append(kept)
        waiting[block] = False
        by_area = by_area[waiting[by_area]]
        waiting[by_area[_overlapped(rows, kinds, kept, by_area, limit)]] = False
        left = left[len(block) :]
        left = left[waiting[left]]
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
    rows: np.ndarray, kinds: np.ndarray | None, kept: np.ndarray, by_area: np.ndarray, limit: float
) -> np.ndarray:
    """Which of the boxes ``by_area`` one of the ``kept`` overlaps."""
    gone = np.zeros(len(by_area), bool)
    rest, alike = rows[:, by_area], None if kinds is None else kinds[by_area]
    pieces = [(kept, 0, len(gone))]
    if len(gone) >= MANY:
        pieces = list(_of_like_areas(kept, rows[4], rest[4], limit))
    for some, first, last in pieces:
        ours = rows[:, some, None]
        step = max(1, _PAIRS // len(some))
        for start in range(first, last, step):
            part = slice(start, min(start + step, last))
            hits = above_threshold_on_host(ours, rest[:, None, part], limit)
            if kinds is not None and alike is not None:
                hits &= kinds[some, None] == alike[part]
            gone[part] |= hits.any(axis=0)
    return gone


def _of_like_areas(
    kept: np.ndarray, areas: np.ndarray, others: np.ndarray, limit: float
) -> Iterator[tuple[np.ndarray, int, int]]:
    """The ``kept`` in parts, and the range of others, of rising area, that each may overlap."""
    # An IoU is never above the ratio of the areas, but for rounding.
    kept = kept[np.argsort(areas[kept])]
    ratio = max(limit * (1 - 1e-3), 1e-30)
    for some in np.array_split(kept, 1 + len(kept) // LIKE):
        first = np.searchsorted(others, areas[some[0]] * ratio)
        last = np.searchsorted(others, areas[some[-1]] / ratio, side="right")
        yield some, int(first), int(last)
