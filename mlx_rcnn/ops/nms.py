"""Non-maximum suppression, exact: a box goes when a better kept one overlaps it too much.

The sequential definition is a fixed point: ``keep[j] = valid[j] and no kept i < j overlaps j``. One
round of it on the whole overlap matrix settles at least one more box, in practice most, so a few
rounds of a matrix-vector product replace the loop. Blocks of rows bound the memory and halve the
work, as later boxes never suppress earlier ones. A GPU has kernels that take the boxes in order;
:func:`nms` and :func:`batched_nms`, which may ask the host, take them in order on a CPU too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import mlx.core as mx
import numpy as np

from ..kernels import backend, suppressible
from .boxes import box_area
from .nms_fused import fused_nms
from .nms_greedy import greedy_nms
from .overlaps import above_threshold, float32_threshold

# Rows resolved at once, and the rounds tried first. A CPU is bound by the matrix: short blocks stay
# in its caches and skip more of the lower half. A GPU is bound by the number of kernels, unless
# rounds are as many as rows: each reads all of its block's matrix.
CPU_BLOCK, GPU_BLOCK = 64, 1024
ALL_ROUNDS_BLOCK = 32  # a CPU's where rounds are as many as rows
CPU_ROUNDS, GPU_ROUNDS = 10, 16  # settled every real scene tried in blocks of that length
MORE_ROUNDS = 4  # times as many at each further attempt


class Exact(Protocol):
    """What an attempt at suppression gives: ``exact`` () bool, whether it had settled."""

    @property
    def exact(self) -> mx.array:
        """Whether the suppression had settled."""


E = TypeVar("E", bound=Exact)


def on_gpu() -> bool:
    """Whether suppression works in a GPU's blocks."""
    return bool(mx.default_device().type == mx.DeviceType.gpu)


def first_rounds() -> int:
    """The rounds that :func:`nms_mask` tries where none are given: they fit its block."""
    return GPU_ROUNDS if on_gpu() else CPU_ROUNDS


def settle(attempt: Callable[[int], E]) -> E:
    """Repeat a suppression, and nothing else, with more rounds until it is exact."""
    rounds = first_rounds()
    # one host synchronisation an attempt, almost always one attempt
    while not (found := attempt(rounds)).exact.item():
        rounds *= MORE_ROUNDS
    return found


def _surviving(alive: mx.array, keep: mx.array, hits: mx.array) -> mx.array:
    """``alive`` (B, 1, m), 0 or 1, less what ``keep`` (B, 1, p) overlaps by ``hits`` (B, p, m)."""
    return mx.maximum(mx.addmm(alive, keep, hits, alpha=-1.0), 0.0)


def nms_mask(
    boxes: mx.array,
    valid: mx.array,
    iou_threshold: float,
    labels: mx.array | None = None,
    rounds: int | None = None,
) -> tuple[mx.array, mx.array]:
    """Non-maximum suppression of fixed shape, without a host synchronisation.

    Args:
        boxes (B, n, 4): B independent lists, each sorted by falling score.
        valid (B, n): rows that take part.
        iou_threshold: a box goes when its IoU with a better kept one is greater (strictly).
        labels (B, n): only boxes of equal label suppress each other. Default: all do.
        rounds: fixed-point iterations a block. A number of at least ``n`` is always exact. Default:
            :func:`first_rounds`.

    Returns:
        ``keep`` (B, n) bool, a subset of ``valid``, and ``exact`` () bool, whether every block had
        settled after ``rounds``. When false, call again with more (:func:`settle`).
    """
    if boxes.shape[1] == 0:
        return valid, mx.array(True)
    boxes = boxes.astype(mx.float32)
    limit = float32_threshold(iou_threshold)
    dialect = backend()
    if dialect and suppressible(*valid.shape):
        keep = fused_nms(boxes, valid, limit, labels, dialect, _exact)
        if keep is not None:
            return keep, mx.array(True)
    rounds = first_rounds() if rounds is None else rounds
    return _in_rounds(boxes, valid, limit, labels, rounds)


def _exact(boxes: mx.array, valid: mx.array, limit: float, labels: mx.array | None) -> mx.array:
    """The kernels' twin: as many rounds as there are boxes."""
    return _in_rounds(boxes, valid, limit, labels, boxes.shape[1])[0]


def _in_rounds(
    boxes: mx.array, valid: mx.array, limit: float, labels: mx.array | None, rounds: int
) -> tuple[mx.array, mx.array]:
    """:func:`nms_mask` in plain MLX, ``limit`` a float32."""
    n, block = boxes.shape[1], CPU_BLOCK if rounds < CPU_BLOCK else ALL_ROUNDS_BLOCK
    block = GPU_BLOCK if on_gpu() and rounds < GPU_BLOCK else block
    area = mx.maximum(box_area(boxes), 0)  # of an inverted box too
    columns = mx.stack([*(boxes[..., i] for i in range(4)), area])  # (5, B, n)
    threshold = mx.array(limit, dtype=mx.float32)
    better = mx.triu(mx.ones((min(block, n), min(block, n))), k=1)  # only better boxes suppress
    alive = valid.astype(mx.float32)[:, None, :]  # (B, 1, rest)
    keeps: list[mx.array] = []
    settled: list[mx.array] = []
    for start in range(0, n, block):
        size = min(block, n - start)
        # Without this edge the scheduler may build every block's matrix before it uses one.
        rest = mx.depends(columns[:, :, start:], alive)
        matrix = above_threshold(rest[:, :, :size, None], rest[:, :, None, :], threshold)
        if labels is not None:
            part = labels[:, start:]
            matrix = matrix & (part[:, :size, None] == part[:, None, :])
        hits = matrix.astype(mx.float32)
        inner = hits[:, :, :size] * better[:size, :size]
        first = keep = previous = alive[:, :, :size]
        for _ in range(min(max(rounds, 1), size)):
            previous, keep = keep, _surviving(first, keep, inner)
        if rounds < size:
            settled.append(mx.all(keep == previous))
        keeps.append(keep)
        if start + size < n:
            # All of `hits`, as a slice of it would be copied before the product.
            alive = _surviving(alive, keep, hits)[:, :, size:]
    keep = mx.concatenate(keeps, axis=-1)[:, 0] > 0.5
    return keep, mx.all(mx.stack(settled)) if settled else mx.array(True)


def sort_scores(scores: mx.array) -> mx.array:
    """Indices (..., n) int32 by falling score; of equal scores the lower index is first."""
    scores = scores.astype(mx.float32)
    if scores.shape[-1] == 0:  # MLX 0.32.2 divides by zero when it sorts nothing on a CPU
        return mx.zeros(scores.shape, dtype=mx.int32)
    scores = mx.where(mx.isnan(scores), -mx.inf, scores + 0.0)  # + 0.0 turns -0.0 into 0.0
    bits = mx.view(scores, mx.int32)
    rising = mx.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integer order = float order
    index = mx.arange(scores.shape[-1], dtype=mx.int64)
    # NaN sorts last. The order is defined on every backend: value and index are one key.
    key = ((-1 - rising.astype(mx.int64)) << 32) | index
    return (mx.sort(key, axis=-1) & 0xFFFFFFFF).astype(mx.int32)


def top_scores(scores: mx.array, k: int) -> mx.array:
    """Indices (..., k) int32 of the greatest of the last axis, in ``sort_scores``' order."""
    if k == 0:  # see sort_scores
        return mx.zeros((*scores.shape[:-1], 0), dtype=mx.int32)
    if k < scores.shape[-1]:  # partition first: a full sort of a fine level costs ten times more
        clean = mx.where(mx.isnan(scores), -mx.inf, scores)
        # which of several scores equal to the last one is taken is not defined
        chosen = mx.sort(mx.argpartition(-clean, k - 1, axis=-1)[..., :k], axis=-1)
        order = sort_scores(mx.take_along_axis(clean, chosen, axis=-1))
        return mx.take_along_axis(chosen, order, axis=-1).astype(mx.int32)
    return sort_scores(scores)


def nms(boxes: mx.array, scores: mx.array, iou_threshold: float) -> mx.array:
    """Non-maximum suppression, as ``torchvision.ops.nms``.

    Args:
        boxes (n, 4): xyxy, any frame.
        scores (n,): of equal scores the lower index wins; a box with a NaN score is never kept.
        iou_threshold: in [0, 1]; an IoU of exactly this is kept.

    Returns:
        (k,): int32 indices of the kept boxes, best first.

    Raises:
        ValueError: shapes that do not fit, or a threshold outside [0, 1].
    """
    boxes, scores = _check(boxes, scores, iou_threshold)
    if boxes.shape[0] == 0:
        return mx.zeros((0,), dtype=mx.int32)
    if _on_host():
        return _greedy(boxes, scores, None, iou_threshold)
    order = sort_scores(scores)
    keep = _settled(boxes[order][None], ~mx.isnan(scores[order])[None], iou_threshold, None)
    return order[mx.array(np.flatnonzero(keep[0]).astype(np.int32))]


def batched_nms(
    boxes: mx.array, scores: mx.array, idxs: mx.array, iou_threshold: float
) -> mx.array:
    """Suppression within groups: boxes of different groups never suppress each other.

    As ``torchvision.ops.batched_nms``, without its trick of shifting each group's coordinates,
    which rounds them.

    Args:
        boxes (n, 4): xyxy, any frame.
        scores (n,): as in :func:`nms`.
        idxs (n,): integer group (level or class) of each box.
        iou_threshold: as in :func:`nms`.

    Returns:
        (k,): int32 indices of the kept boxes, best first over all groups.

    Raises:
        ValueError: as :func:`nms`.
    """
    boxes, scores = _check(boxes, scores, iou_threshold)
    idxs = mx.array(idxs)
    if idxs.shape != scores.shape:
        raise ValueError(f"idxs: expected shape {scores.shape}, got {idxs.shape}")
    n = boxes.shape[0]
    if n == 0:
        return mx.zeros((0,), dtype=mx.int32)
    if _on_host():
        return _greedy(boxes, scores, idxs, iou_threshold)
    order = sort_scores(scores)
    groups, group, counts = np.unique(
        np.array(idxs[order]), return_inverse=True, return_counts=True
    )
    valid = ~mx.isnan(scores[order])
    if len(groups) * int(counts.max()) ** 2 >= n * n:  # lopsided: one list with labels is cheaper
        labels = mx.array(group.astype(np.int32))[None] if len(groups) > 1 else None
        keep = _settled(boxes[order][None], valid[None], iou_threshold, labels)[0]
        return order[mx.array(np.flatnonzero(keep).astype(np.int32))]
    # One padded row a group: rows are then independent and need no labels.
    by_group = np.argsort(group, kind="stable")
    column = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.zeros((len(groups), int(counts.max())), np.int32)
    filled = np.zeros(table.shape, bool)
    table[group[by_group], column] = by_group
    filled[group[by_group], column] = True
    rows = mx.array(table)
    kept = _settled(boxes[order[rows]], mx.array(filled) & valid[rows], iou_threshold, None)
    return order[mx.array(np.sort(table[kept]))]


class _Kept(NamedTuple):
    keep: mx.array
    exact: mx.array


def _on_host() -> bool:
    return backend() is None and not on_gpu()


def _greedy(
    boxes: mx.array, scores: mx.array, idxs: mx.array | None, iou_threshold: float
) -> mx.array:
    wide = boxes.astype(mx.float32), scores.astype(mx.float32)
    mx.eval(wide, [] if idxs is None else idxs)
    groups = None if idxs is None else np.array(idxs)
    limit = float32_threshold(iou_threshold)
    return mx.array(greedy_nms(np.array(wide[0]), np.array(wide[1]), groups, limit))


def _settled(
    boxes: mx.array, valid: mx.array, iou_threshold: float, labels: mx.array | None
) -> np.ndarray:
    def attempt(rounds: int) -> _Kept:
        return _Kept(*nms_mask(boxes, valid, iou_threshold, labels, rounds))

    return np.array(settle(attempt).keep)


def _check(boxes: mx.array, scores: mx.array, iou_threshold: float) -> tuple[mx.array, mx.array]:
    boxes, scores = mx.array(boxes), mx.array(scores)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes: expected shape (n, 4), got {boxes.shape}")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores: expected shape {boxes.shape[:1]}, got {scores.shape}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold={iou_threshold!r}: expected a number in [0, 1]")
    return boxes, scores
