"""Moving an image with what its target says: flips, turns, scaling, windows and borders.

Nothing given is changed. Coordinates are pixels, x to the right and y down; edges lie between
pixels: flipping a width W maps x to W - x, of keypoints too, as torchvision does. A keypoint that
is not visible stays at (0, 0) with visibility 0. Proposals move as boxes do, and those left without
area are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .sample import Target, select

FILL = (124, 116, 104)
"""RGB of what is filled up: ImageNet's mean, which is close to the zeros of padding."""


def flip_horizontally(
    image: np.ndarray, target: Target, partners: Sequence[int] | None = None
) -> tuple[np.ndarray, Target]:
    """Mirror left and right an (H, W, 3) uint8 image; keypoints become their (K,) ``partners``."""
    width = np.float32(image.shape[1])
    boxes = target["boxes"]
    left, right = width - boxes[:, 2], width - boxes[:, 0]
    out = {**target, "boxes": np.stack([left, boxes[:, 1], right, boxes[:, 3]], 1)}
    if "proposals" in target:
        rows = target["proposals"]
        out["proposals"] = _having_area(
            np.stack([width - rows[:, 2], rows[:, 1], width - rows[:, 0], rows[:, 3]], 1)
        )
    if "masks" in target:
        out["masks"] = np.ascontiguousarray(target["masks"][:, :, ::-1])
    if "keypoints" in target:
        points = target["keypoints"]
        flipped = _visible(np.stack([width - points[..., 0], points[..., 1], points[..., 2]], -1))
        out["keypoints"] = flipped if partners is None else flipped[:, list(partners)]
    return np.ascontiguousarray(image[:, ::-1]), out


def flip_vertically(image: np.ndarray, target: Target) -> tuple[np.ndarray, Target]:
    """Mirror top and bottom of an (H, W, 3) uint8 image; the keypoints keep their names."""
    height = np.float32(image.shape[0])
    boxes = target["boxes"]
    top, bottom = height - boxes[:, 3], height - boxes[:, 1]
    out = {**target, "boxes": np.stack([boxes[:, 0], top, boxes[:, 2], bottom], 1)}
    if "proposals" in target:
        rows = target["proposals"]
        out["proposals"] = _having_area(
            np.stack([rows[:, 0], height - rows[:, 3], rows[:, 2], height - rows[:, 1]], 1)
        )
    if "masks" in target:
        out["masks"] = np.ascontiguousarray(target["masks"][:, ::-1])
    if "keypoints" in target:
        points = target["keypoints"]
        out["keypoints"] = _visible(
            np.stack([points[..., 0], height - points[..., 1], points[..., 2]], -1)
        )
    return np.ascontiguousarray(image[::-1]), out


def transpose(image: np.ndarray, target: Target) -> tuple[np.ndarray, Target]:
    """Mirror an (H, W, 3) image at the diagonal to (W, H, 3): x becomes y; keypoints keep names."""
    swapped = [1, 0, 3, 2]
    out = {**target, "boxes": target["boxes"][:, swapped]}
    if "proposals" in target:
        out["proposals"] = target["proposals"][:, swapped]
    if "masks" in target:
        out["masks"] = np.ascontiguousarray(target["masks"].transpose(0, 2, 1))
    if "keypoints" in target:
        out["keypoints"] = target["keypoints"][..., [1, 0, 2]]
    return np.ascontiguousarray(image.transpose(1, 0, 2)), out


def rotate90(image: np.ndarray, target: Target, turns: int) -> tuple[np.ndarray, Target]:
    """Turn counterclockwise by 90 degrees 0 to 3 times, as ``np.rot90``; keypoints keep names."""
    if turns % 2:
        image, target = transpose(image, target)
    if turns in (1, 2):
        image, target = flip_vertically(image, target)
    return flip_horizontally(image, target) if turns in (2, 3) else (image, target)


def resize(image: np.ndarray, target: Target, size: tuple[int, int]) -> tuple[np.ndarray, Target]:
    """Scale an (H, W, 3) image to ``size`` (height, width), with all that its target holds."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image, target
    # antialiased bilinear, as Pillow does it
    pixels = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    ratio = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    out = {**target, "boxes": target["boxes"] * ratio}
    if "proposals" in target:
        out["proposals"] = _having_area(target["proposals"] * ratio)
    if "masks" in target:
        # masks take the nearest pixel
        rows, columns = _nearest(height, size[0]), _nearest(width, size[1])
        out["masks"] = target["masks"][:, rows][:, :, columns]
    if "keypoints" in target:
        out["keypoints"] = target["keypoints"] * np.append(ratio[:2], np.float32(1))
    return pixels, out


def crop(
    image: np.ndarray, target: Target, corner: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, Target]:
    """Cut out a window at ``corner`` (top, left), of ``size`` (height, width) at most."""
    top, left = corner
    pixels = np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])
    height, width = pixels.shape[:2]
    shift = np.array([left, top] * 2, np.float32)
    limit = np.array([width, height] * 2, np.float32)
    boxes = np.clip(target["boxes"] - shift, 0, limit)
    out = {**target, "boxes": boxes}
    if "proposals" in target:
        out["proposals"] = _having_area(np.clip(target["proposals"] - shift, 0, limit))
    # With masks, boxes become those of what is left of the mask; crowds keep their own, as they
    # need not have one.
    if "masks" in target:
        out["masks"] = target["masks"][:, top : top + size[0], left : left + size[1]]
        if pixels.shape != image.shape:
            crowd = target["iscrowd"].astype(bool)[:, None]
            out["boxes"] = boxes = np.where(crowd, boxes, mask_boxes(out["masks"]))
    if "keypoints" in target:
        points = target["keypoints"] - np.append(shift[:2], np.float32(0))
        # keypoints outside are no longer visible; those on the border are
        inside = np.all((points[..., :2] >= 0) & (points[..., :2] <= limit[:2]), axis=-1)
        out["keypoints"] = _visible(points, inside)
    # objects that have nothing left are dropped
    return pixels, select(out, (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


def pad(
    image: np.ndarray,
    target: Target,
    size: tuple[int, int],
    fill: tuple[int, int, int] = FILL,
) -> tuple[np.ndarray, Target]:
    """Fill an (H, W, 3) image up to ``size`` (height, width) at the right and the bottom."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image, target
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = fill
    pixels[:height, :width] = image
    if "masks" in target:  # filled up with zeros; boxes, keypoints and proposals stay
        after = ((0, 0), (0, size[0] - height), (0, size[1] - width))
        target = {**target, "masks": np.pad(target["masks"], after)}
    return pixels, target


def _visible(points: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Keypoints (G, K, 3), all zero where they are not visible, or not ``where`` (G, K)."""
    kept = points[..., 2] > 0
    if where is not None:
        kept &= where
    return np.where(kept[..., None], points, np.float32(0))


def _having_area(boxes: np.ndarray) -> np.ndarray:
    """Of boxes (P, 4) those that still have an area: a sliver may lose it to rounding alone."""
    return boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]


def _nearest(length: int, size: int) -> np.ndarray:
    """The source pixel under the centre of each new one."""
    index = np.floor((np.arange(size) + 0.5) * length / size).astype(np.int64)
    return np.minimum(index, length - 1)


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """(G, 4) float32 xyxy boxes around (G, H, W) masks, far edges past the last pixel; or zeros."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size:
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
