"""Proposals from outside a model: boxes where objects may be, and what is checked of them.

R-CNN (Girshick et al., 2014) and Fast R-CNN (Girshick, 2015) classify boxes that another method
found, Selective Search (Uijlings et al., 2013) for one. Here such boxes are (P, 4) xyxy in pixels
of the image given, x to the right and y down, edges between pixels, the best first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..structures import ArrayLike, Batch, Proposals

BUCKET = 64  # proposals are padded to a multiple, so that shapes repeat


class Proposed(NamedTuple):
    """The proposals of one image.

    Args:
        boxes (P, 4): float32, xyxy in pixels of the image; P may be 0.
        scores (P,): float32, higher is better; ``None`` if ``boxes`` are in order, best first.
    """

    boxes: np.ndarray
    scores: np.ndarray | None = None


def prepare_proposals(proposals: Any, batch: Batch) -> Proposals:
    """Check proposals, (P, 4) xyxy pixels an image, scale them to the network input, and pad."""
    if len(batch.sizes) == 1 and getattr(proposals, "ndim", 0) == 2:
        proposals = [proposals]  # for one image the array alone will do
    checked = check_proposals(proposals, batch.original_sizes)
    # as many an image as the longest has, rounded up to a multiple of 64
    most = max(-(-max(map(len, checked)) // BUCKET) * BUCKET, BUCKET)
    boxes = np.zeros((len(checked), most, 4), np.float32)
    valid = np.zeros((len(checked), most), bool)
    for i, rows in enumerate(checked):
        ratio = batch.sizes[i].astype(np.float32) / batch.original_sizes[i].astype(np.float32)
        boxes[i, : len(rows)] = rows * ratio[[1, 0, 1, 0]]
        valid[i, : len(rows)] = True
    # scores are 1
    return Proposals(
        mx.array(boxes), mx.array(valid.astype(np.float32)), mx.array(valid), mx.array(True)
    )


def check_proposals(
    proposals: Sequence[ArrayLike], sizes: ArrayLike, names: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Proposals given by a user, ready for a model.

    Args:
        proposals: one array (P, 4) an image, xyxy in pixels of the image given; P may be 0.
        sizes (N, 2): height and width of every image, in pixels.
        names: of the images, for messages. Default: ``image 0``, ``image 1``, ...

    Returns:
        N arrays (P, 4) float32, new, each box cut to its image; every box has an area.

    Raises:
        ValueError: another number of images; an array of another shape, or not of numbers; a box
            that is not finite, has no area or lies outside its image, or one whose x2 or y2 comes
            before x1 or y1, as with x, y, width, height. The image and the row are named.
    """
    whole = np.asarray(sizes, np.int64).reshape(-1, 2)
    shape = getattr(proposals, "shape", None)
    if isinstance(proposals, str | bytes | dict) or not hasattr(proposals, "__len__"):
        kind = type(proposals).__name__
        raise ValueError(f"proposals: got {kind}, expected a list of (P, 4), one an image")
    if shape is not None and len(shape) == 2:
        raise ValueError(
            f"proposals: got one array of shape {tuple(shape)}, expected a list of (P, 4), one an "
            "image"
        )
    if len(proposals) != len(whole):
        raise ValueError(
            f"proposals of {len(proposals)} images for {len(whole)} images: expected as many"
        )
    out = []
    for i, (value, (height, width)) in enumerate(zip(proposals, whole.tolist(), strict=True)):
        where = f"proposals of {names[i] if names is not None else f'image {i}'}"
        boxes = as_boxes(value, where)
        check_boxes(boxes, where)
        out.append(_inside(boxes, width, height, where))
    return out


def as_boxes(value: object, where: str) -> np.ndarray:
    """What a user or a file calls boxes, as a new (P, 4) float32; the numbers may be anything."""
    expected = "expected (P, 4) of x1, y1, x2, y2 in pixels"
    if value is None:
        raise ValueError(f"{where}: got None, {expected}; (0, 4) where there are none")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of unequal length, bfloat16
        raise ValueError(f"{where}: got {type(value).__name__}, {expected}: {error}") from error
    if array.shape == (0,):
        array = np.zeros((0, 4), np.float32)  # an empty list
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{where}: got shape {array.shape}, {expected}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{where}: got an array of {array.dtype}, {expected}")
    with np.errstate(over="ignore"):  # what becomes infinite is told below
        return array.astype(np.float32)


def check_boxes(boxes: np.ndarray, where: str) -> None:
    """Refuse (P, 4) xyxy that are not finite or have no area, by a ValueError with the row."""
    finite = np.isfinite(boxes).all(axis=1)
    if not finite.all():
        raise ValueError(f"{_row(boxes, ~finite, where)} is not finite")
    turned = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if turned.any():
        raise ValueError(
            f"{_row(boxes, turned, where)}: these look like x, y, width, height: expected x1, y1, "
            "x2, y2"
        )
    flat = (boxes[:, 2:] == boxes[:, :2]).any(axis=1)
    if flat.any():
        raise ValueError(
            f"{_row(boxes, flat, where)} has no area: expected x1 < x2 and y1 < y2, and no rows "
            "of padding"
        )


def as_proposed(boxes: object, scores: object, where: str) -> Proposed:
    """Boxes and scores from anywhere in float32, checked as far as that needs no image."""
    array = as_boxes(boxes, where)
    check_boxes(array, where)
    if scores is None:
        return Proposed(array)
    try:
        numbers = np.asarray(scores)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{where}: scores: {error}") from error
    if numbers.shape != (len(array),) or (numbers.size and numbers.dtype.kind not in "fiu"):
        raise ValueError(
            f"{where}: got scores of shape {numbers.shape} and {numbers.dtype}, expected "
            f"({len(array)},) numbers, one a box"
        )
    with np.errstate(over="ignore"):
        numbers = numbers.astype(np.float32)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise ValueError(f"{where}, row {row}: the score is {numbers[row]}, expected it finite")
    return Proposed(array, numbers)


def _inside(boxes: np.ndarray, width: int, height: int, where: str) -> np.ndarray:
    cut: np.ndarray = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
    gone = (cut[:, 2:] <= cut[:, :2]).any(axis=1)
    if gone.any():
        raise ValueError(
            f"{_row(boxes, gone, where)} lies outside the image of {width}x{height}: expected "
            "pixels of the image given"
        )
    return cut


def _row(boxes: np.ndarray, wrong: npt.ArrayLike, where: str) -> str:
    """The first box that is wrong, and where it stands."""
    row = int(np.flatnonzero(wrong)[0])
    return f"{where}, row {row}: box ({', '.join(f'{v:g}' for v in boxes[row])})"
