"""Proposals as users give them, checked and turned into fixed-shape arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..structures import Batch, Proposals

BUCKET = 64  # proposals are padded to a multiple, so that shapes repeat


def prepare_proposals(proposals: Any, batch: Batch) -> Proposals:
    """Check proposals, scale them to the network input, and pad them to one length.

    Args:
        proposals: one array (P, 4) an image, xyxy pixels of the image given, clipped to it; P may
            be 0 and differ between images. For one image the array alone will do.
        batch: the images, already resized.

    Returns:
        As many an image as the longest has, rounded up to a multiple of 64; scores are 1.

    Raises:
        ValueError: another number of images, or boxes that break these rules, naming image and row.
        TypeError: no arrays.
    """
    given = _of_each(proposals, len(batch.sizes))
    originals = batch.original_sizes.tolist()
    checked = [
        check_boxes(boxes, int(h), int(w), f"proposals[{i}]")
        for i, (boxes, (h, w)) in enumerate(zip(given, originals, strict=True))
    ]
    most = max(-(-max(map(len, checked)) // BUCKET) * BUCKET, BUCKET)
    boxes = np.zeros((len(checked), most, 4), np.float32)
    valid = np.zeros((len(checked), most), bool)
    for i, rows in enumerate(checked):
        ratio = batch.sizes[i].astype(np.float32) / batch.original_sizes[i].astype(np.float32)
        boxes[i, : len(rows)] = rows * ratio[[1, 0, 1, 0]]
        valid[i, : len(rows)] = True
    return Proposals(
        mx.array(boxes), mx.array(valid.astype(np.float32)), mx.array(valid), mx.array(True)
    )


def check_boxes(boxes: Any, height: int, width: int, where: str) -> np.ndarray:
    """Boxes as an array, clipped to their image.

    Args:
        boxes (P, 4): xyxy pixels of the image.
        height, width: of the image.
        where: how errors name them.

    Returns:
        (P, 4) float32.

    Raises:
        ValueError: another shape, numbers that are not finite, boxes that look like (x, y, width,
            height), have no area or lie outside the image.
    """
    try:
        rows = np.asarray(boxes, np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where}: expected an array (P, 4), got {boxes!r}"[:200]) from error
    if rows.size == 0:
        return np.zeros((0, 4), np.float32)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(f"{where} has shape {rows.shape}: expected (P, 4), x1, y1, x2, y2 a row")

    def refuse(wrong: Any, why: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            more = f", and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
            found = tuple(round(v, 2) for v in rows[row].tolist())
            raise ValueError(f"{where}, row {row}{more}: {found} {why}")

    refuse(~np.isfinite(rows).all(axis=1), "is not finite")
    refuse(
        (rows[:, 2] < rows[:, 0]) | (rows[:, 3] < rows[:, 1]),
        "has x2 < x1 or y2 < y1: these look like x, y, width, height; expected x1, y1, x2, y2",
    )
    outside = (rows[:, 0] >= width) | (rows[:, 1] >= height) | (rows[:, 2] <= 0) | (rows[:, 3] <= 0)
    refuse(outside, f"lies outside the image of {width} x {height} pixels")
    refuse((rows[:, 2] <= rows[:, 0]) | (rows[:, 3] <= rows[:, 1]), "has no area")
    return np.clip(rows, 0, np.array([width, height, width, height], np.float32))


def _of_each(proposals: Any, images: int) -> Sequence[Any]:
    """One entry an image."""
    if isinstance(proposals, np.ndarray | mx.array) and proposals.ndim == 2:
        proposals = [proposals]
    if isinstance(proposals, np.ndarray | mx.array) and proposals.ndim == 3:
        proposals = list(proposals)
    if not isinstance(proposals, list | tuple):
        raise TypeError(
            f"proposals: expected one array (P, 4) an image, got {type(proposals).__name__}"
        )
    if len(proposals) != images:
        raise ValueError(f"proposals of {len(proposals)} images, expected {images}, one an image")
    return proposals
