"""Paste the square masks of a mask head into the image, as torchvision or detectron2 does.

Runs on the host, one mask at a time and only on the pixels of its box: the (D, H, W) map of
probabilities, 830 MB for 100 masks of 1920 x 1080, never exists.
"""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from .resize import TORCH_ONE_PASS, resize_torch, torch_axis

Array = np.ndarray

# Pixels blended at once, so that they are compared while still in the second-level cache.
_BLOCK = 1 << 17

# Box corners are cut off here, far outside any image, before they become integers.
_FAR = float(1 << 40)


def paste_masks(
    masks: mx.array | Array,
    boxes: mx.array | Array,
    image_size: tuple[int, int],
    threshold: float = 0.5,
    *,
    rule: str = "torchvision",
) -> mx.array | Array:
    """Scale each mask to its box, place it in the image and threshold it.

    The rules differ in where a pixel looks the mask up, and at the threshold itself:

    - ``"torchvision"``: ``roi_heads.paste_masks_in_image``, then ``> threshold``. The mask gets a
      border of zeros, the box grows in proportion, its corners are truncated to whole pixels (the
      last one included), and torch's bilinear resize fills it.
    - ``"detectron2"``, and mmdetection: the centre of each pixel looks the mask up in box
      coordinates (``grid_sample`` with ``align_corners=False`` and zeros outside), then
      ``>= threshold``.

    Args:
        masks (D, M, M): probabilities in [0, 1], of any floating type; computed in float32.
        boxes (D, 4): xyxy, pixels of the image; they may reach outside of it. Nothing is set for a
            box that holds a NaN or an infinity or ends before it starts.
        image_size: (H, W) of the image.
        threshold: probability in [0, 1]. Default: 0.5.
        rule: ``"torchvision"`` or ``"detectron2"``. Default: ``"torchvision"``.

    Returns:
        (D, H, W) bool: an ``mx.array`` if ``masks`` is one, else a NumPy array.

    Raises:
        ValueError: shapes that do not fit, a negative image size, a threshold outside [0, 1] or an
            unknown rule.
    """
    probabilities, corners = _float32(masks), _float32(boxes)
    height, width = _check(probabilities, corners, image_size, threshold)
    if rule not in ("torchvision", "detectron2"):
        raise ValueError(f"rule: expected 'torchvision' or 'detectron2', got {rule!r}")
    paste = _paste_torchvision if rule == "torchvision" else _paste_detectron2
    pasted = np.zeros((len(corners), height, width), dtype=bool)
    for mask, box, canvas in zip(probabilities, corners, pasted, strict=True):
        if np.isfinite(box).all():
            paste(mask, box, canvas, (0, 0), np.float32(threshold))
    return mx.array(pasted) if isinstance(masks, mx.array) else pasted


def paste_mask(
    mask: Array, box: Array, image_size: tuple[int, int], *, rule: str = "torchvision"
) -> tuple[Array, tuple[int, int]]:
    """One mask (M, M) pasted into (h, w) bool, all that it may cover, and its row and column."""
    # in [0, 1], and (4,) xyxy, pixels of the image
    probabilities, corners = _float32(mask)[None], _float32(box)[None]
    height, width = _check(probabilities, corners, image_size, 0.5)
    if not np.isfinite(corners).all():
        return np.zeros((0, 0), bool), (0, 0)
    # A border of one grows the box by as much, and rounding by a pixel.
    exact = corners[0].astype(np.float64)
    margin = np.abs(exact[2:] - exact[:2]) / len(mask) + 2
    low = np.clip(np.floor(exact[:2] - margin), 0, [width, height]).astype(int)
    high = np.clip(np.ceil(exact[2:] + margin), low, [width, height]).astype(int)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    # h or w may be 0; the rest of what :func:`paste_masks` gives is zero
    part = np.zeros((bottom - top, right - left), bool)
    paste = _paste_torchvision if rule == "torchvision" else _paste_detectron2
    paste(probabilities[0], corners[0], part, (top, left), np.float32(0.5))
    return part, (top, left)


def _paste_torchvision(
    mask: Array, box: Array, canvas: Array, corner: tuple[int, int], threshold: np.float32
) -> None:
    """Into ``canvas``, whose first pixel is ``corner`` (row, column) of the image."""
    x0, y0, x1, y1 = _grown_box(box, len(mask))
    left, right = max(x0, corner[1]), min(x1 + 1, corner[1] + canvas.shape[1])
    top, bottom = max(y0, corner[0]), min(y1 + 1, corner[0] + canvas.shape[0])
    if left >= right or top >= bottom:
        return
    canvas = canvas[top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]]
    height, width = y1 - y0 + 1, x1 - x0 + 1
    if height + width <= TORCH_ONE_PASS:  # rounded like torch's other kernel
        whole = resize_torch(np.pad(mask, 1)[..., None], (height, width))[..., 0]
        visible = whole[top - y0 : bottom - y0, left - x0 : right - x0]
        np.greater(visible, threshold, out=canvas)
        return
    rows = _resize_weights(len(mask), height, top - y0, bottom - y0)
    columns = _resize_weights(len(mask), width, left - x0, right - x0)
    _blend(mask, rows, columns, canvas, threshold, np.greater)


def _grown_box(box: Array, side: int) -> tuple[int, ...]:
    """The box of a mask with a border of one, truncated; each step in float32, as torchvision's."""
    scale, half = np.float32((side + 2) / side), np.float32(0.5)
    with np.errstate(over="ignore"):
        centre = (box[2:] + box[:2]) * half
        extent = (box[2:] - box[:2]) * half * scale
        grown = np.concatenate([centre - extent, centre + extent])
    return tuple(int(corner) for corner in np.clip(grown, -_FAR, _FAR))


def _resize_weights(side: int, size: int, start: int, stop: int) -> Array:
    """Weights (stop - start, side) that resize an axis with a border of one zero to ``size``."""
    low, high, w_low, w_high = torch_axis(side + 2, size, start, stop)
    weights = np.zeros((stop - start, side + 2), np.float32)
    at = np.arange(stop - start)
    weights[at, low], weights[at, high] = w_low, w_high
    return weights[:, 1:-1]  # what falls on the border adds nothing


def _paste_detectron2(
    mask: Array, box: Array, canvas: Array, corner: tuple[int, int], threshold: np.float32
) -> None:
    """As :func:`_paste_torchvision`."""
    visible = []
    for low, high, start, length in zip(
        box[:2], box[2:], corner[::-1], canvas.shape[::-1], strict=True
    ):
        first = max(math.floor(low) - 1, start)  # a pixel around the box, as detectron2 on a CPU
        visible.append((low, high, first, min(math.ceil(high) + 1, start + length)))
    if any(low >= high or first >= last for low, high, first, last in visible):
        return
    columns, rows = (_grid_weights(len(mask), *axis) for axis in visible)
    (_, _, left, right), (_, _, top, bottom) = visible
    canvas = canvas[top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]]
    _blend(mask, rows, columns, canvas, threshold, np.greater_equal)


def _grid_weights(side: int, low: np.float32, high: np.float32, start: int, stop: int) -> Array:
    """Weights (stop - start, side) of ``grid_sample`` at the pixel centres of ``start..stop``."""
    with np.errstate(over="ignore", divide="ignore"):
        centres = np.arange(start, stop, dtype=np.float32) + np.float32(0.5)
        grid = (centres - low) / (high - low) * np.float32(2) - np.float32(1)
        source = ((grid + np.float32(1)) * np.float32(side) - np.float32(1)) / np.float32(2)
    source = np.clip(source, np.float32(-1), np.float32(side))  # both have no weight
    index = np.floor(source)
    w_high = source - index
    # Columns 0 and side + 1, 2 collect what falls outside.
    weights = np.zeros((stop - start, side + 3), np.float32)
    at, column = np.arange(stop - start), index.astype(np.int64) + 1
    weights[at, column], weights[at, column + 1] = np.float32(1) - w_high, w_high
    return weights[:, 1 : side + 1]


def _blend(
    mask: Array,
    rows: Array,
    columns: Array,
    canvas: Array,
    threshold: np.float32,
    compare: np.ufunc,
) -> None:
    """``compare(rows @ mask @ columns.T, threshold)`` into ``canvas``, some rows at a time."""
    # Only two weights of a row differ from zero, so a product is one bilinear step. The axes run
    # backwards because torch rounds the second product first and fuses the first into the sum.
    stripes = mask[::-1, ::-1] @ np.ascontiguousarray(columns[:, ::-1].T)
    rows = np.ascontiguousarray(rows[:, ::-1])
    step = max(1, _BLOCK // canvas.shape[1])
    for start in range(0, len(canvas), step):
        at = slice(start, start + step)
        compare(rows[at] @ stripes, threshold, out=canvas[at])


def _float32(array: mx.array | Array) -> Array:
    if isinstance(array, mx.array):
        array = array.astype(mx.float32)  # NumPy does not know bfloat16
    return np.asarray(array, dtype=np.float32)


def _check(
    masks: Array, boxes: Array, image_size: tuple[int, int], threshold: float
) -> tuple[int, int]:
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or masks.shape[1] < 1:
        raise ValueError(f"masks: expected shape (D, M, M), got {masks.shape}")
    if boxes.shape != (len(masks), 4):
        raise ValueError(f"boxes: expected shape ({len(masks)}, 4), got {boxes.shape}")
    height, width = (int(side) for side in image_size)
    if height < 0 or width < 0:
        raise ValueError(f"image_size: expected (H, W) not below 0, got {image_size}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a probability in [0, 1], got {threshold}")
    return height, width
