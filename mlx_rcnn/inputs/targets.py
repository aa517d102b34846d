"""Targets as users give them, checked and turned into fixed-shape arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..structures import BUCKET, ArrayLike, Batch, GivenTargets, Targets

# Boxes (G, 4), labels (G,), masks (G, H, W) and keypoints (G, K, 3) of an image, crowds left out.
_Checked = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def prepare_targets(
    targets: GivenTargets,
    batch: Batch,
    num_classes: int,
    masks: bool = False,
    num_keypoints: int | None = None,
) -> Targets:
    """Check targets, scale them to pixels of the network input, and pad them to M an image."""
    # ``boxes`` (G, 4) xyxy pixels of the image given, ``labels`` (G,) in 1..C-1, ``masks`` (G, H,
    # W) 0 or 1, ``keypoints`` (G, K, 3) of x, y and a visibility above 0 where there is something
    # to learn.
    if isinstance(targets, Mapping) or not isinstance(targets, Sequence):
        raise TypeError(f"targets: expected a list of dicts, got {type(targets).__name__}")
    if len(targets) != len(batch.sizes):
        raise ValueError(
            f"targets: expected {len(batch.sizes)} dicts, one an image, got {len(targets)}"
        )
    # Crowd regions (``iscrowd``) are left out, as in torchvision's training reference.
    checked = [
        _check(i, target, size, num_classes, masks, num_keypoints)
        for i, (target, size) in enumerate(zip(targets, batch.original_sizes.tolist(), strict=True))
    ]
    return _padded(checked, batch, masks, num_keypoints)


def _padded(
    checked: Sequence[_Checked], batch: Batch, masks: bool, num_keypoints: int | None
) -> Targets:
    """Checked targets in pixels of the network input, padded to M an image, a multiple of 8."""
    most = max(len(boxes) for boxes, *_ in checked)
    most = max(-(-most // BUCKET) * BUCKET, BUCKET)
    n, height, width, _ = batch.pixels.shape
    boxes = np.zeros((n, most, 4), np.float32)
    labels = np.zeros((n, most), np.int32)
    valid = np.zeros((n, most), bool)
    pasted = np.zeros((n, most, height, width), np.uint8) if masks else None
    joints = None if num_keypoints is None else np.zeros((n, most, num_keypoints, 3), np.float32)
    for i, (box, label, mask, points) in enumerate(checked):
        ratio = batch.sizes[i].astype(np.float32) / batch.original_sizes[i].astype(np.float32)
        boxes[i, : len(box)] = box * ratio[[1, 0, 1, 0]]
        labels[i, : len(box)] = label
        valid[i, : len(box)] = True
        if pasted is not None and len(box):
            h, w = batch.sizes[i].tolist()
            rows, columns = _nearest(mask.shape[1], h, height), _nearest(mask.shape[2], w, width)
            pasted[i, : len(box), : len(rows), : len(columns)] = mask[:, rows][:, :, columns]
        if joints is not None:
            joints[i, : len(box)] = points * np.append(ratio[::-1], np.float32(1))
    return Targets(
        mx.array(boxes),
        mx.array(labels),
        mx.array(valid),
        None if pasted is None else mx.array(pasted),
        None if joints is None else mx.array(joints),
    )


def _nearest(length: int, size: int, padded: int) -> np.ndarray:
    """Source pixels of torch's nearest resize of one axis, the last one twice if padded."""
    # torchvision crops masks without padding, whose border goes on; here zeros would leak into it.
    scale = np.float32(length) / np.float32(size)
    index = np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int64)
    index = np.minimum(index, length - 1)
    return np.append(index, index[-1])[:padded]


def _check(
    i: int,
    target: Mapping[str, ArrayLike],
    size: Sequence[int],
    num_classes: int,
    masks: bool,
    num_keypoints: int | None,
) -> _Checked:
    """The target of image ``i`` as arrays, or a ValueError that names the image and the box."""
    wanted = {"masks": masks, "keypoints": num_keypoints is not None}
    needed = ["boxes", "labels", *(name for name, is_wanted in wanted.items() if is_wanted)]
    for name in needed:
        if name not in target:
            raise ValueError(f"targets[{i}]: missing {name!r}, expected {', '.join(needed)}")
    boxes = np.asarray(target["boxes"], np.float32)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise ValueError(f"targets[{i}]: boxes of shape {boxes.shape}, expected (G, 4)")
    boxes = boxes.reshape(-1, 4)
    labels = np.asarray(target["labels"]).reshape(-1)
    if len(labels) != len(boxes):
        raise ValueError(f"targets[{i}]: {len(boxes)} boxes, but {len(labels)} labels")
    crowd = np.asarray(target.get("iscrowd", np.zeros(len(boxes)))).reshape(-1).astype(bool)
    if len(crowd) != len(boxes):
        raise ValueError(f"targets[{i}]: {len(boxes)} boxes, but {len(crowd)} iscrowd")
    height, width = size
    for j, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        where = f"targets[{i}], box {j}"
        _check_box(where, tuple(box), height, width)
        if not 1 <= label < num_classes or label != int(label):
            raise ValueError(f"{where}: label {label}, expected an integer in 1..{num_classes - 1}")
    pasted = np.zeros((len(boxes), 0, 0), np.uint8)
    if masks:
        pasted = _check_masks(i, target["masks"], (len(boxes), height, width))
    joints = np.zeros((len(boxes), 0, 3), np.float32)
    if num_keypoints is not None:
        joints = _check_keypoints(i, target["keypoints"], len(boxes), num_keypoints)
    return boxes[~crowd], labels[~crowd].astype(np.int32), pasted[~crowd], joints[~crowd]


def _check_box(where: str, box: tuple[float, ...], height: int, width: int) -> None:
    x1, y1, x2, y2 = box
    if not np.isfinite(box).all():
        raise ValueError(f"{where}: {box} is not finite")
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"{where}: {box} has no area, expected x1 < x2 and y1 < y2")
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise ValueError(f"{where}: {box} lies outside the image of {width} x {height} pixels")


def _check_masks(i: int, masks: ArrayLike, shape: tuple[int, int, int]) -> np.ndarray:
    pasted = np.asarray(masks)
    if pasted.shape != shape and not (shape[0] == 0 == pasted.size):
        raise ValueError(f"targets[{i}]: masks of shape {pasted.shape}, expected {shape}")
    if (wrong := pasted != pasted.astype(bool)).any():
        raise ValueError(f"targets[{i}]: masks hold {pasted[wrong][0]}, expected 0 and 1")
    return pasted.astype(np.uint8).reshape(shape)


def _check_keypoints(i: int, keypoints: Any, boxes: int, count: int) -> np.ndarray:
    """(G, K, 3) float32; those of each box are looked at, so that a wrong one can be named."""
    if len(keypoints) != boxes:
        raise ValueError(f"targets[{i}]: {boxes} boxes, but keypoints of {len(keypoints)}")
    found = np.zeros((boxes, count, 3), np.float32)
    for j, points in enumerate(keypoints):
        points = np.asarray(points, np.float32)
        where = f"targets[{i}], box {j}"
        if points.shape != (count, 3):
            raise ValueError(f"{where}: keypoints of shape {points.shape}, expected {(count, 3)}")
        if not np.isfinite(points).all():
            k = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
            raise ValueError(f"{where}: keypoint {k} {tuple(points[k].tolist())} is not finite")
        found[j] = points
    return found
