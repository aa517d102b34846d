"""Targets as users give them, checked and turned into fixed-shape arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from .structures import Batch, Targets

BUCKET = 8  # targets are padded to a multiple, so that shapes repeat


def prepare_targets(
    targets: Sequence[Mapping[str, Any]], batch: Batch, num_classes: int, masks: bool = False
) -> Targets:
    """Check targets, scale them to the network input, and pad them to one length.

    Crowd regions (``iscrowd``) are left out, as in torchvision's training reference.

    Args:
        targets: one dict an image: ``boxes`` (G, 4) xyxy pixels of the image given, ``labels``
            (G,) in 1..C-1, optional ``iscrowd`` (G,), and with ``masks`` also ``masks``
            (G, H, W) 0 or 1. G may be 0.
        batch: the images, already resized.
        num_classes: C.
        masks: whether masks are needed. Default: ``False``.

    Returns:
        M targets an image, M a multiple of 8, boxes in pixels of the network input.

    Raises:
        ValueError: what breaks these rules, naming the image and the box.
        TypeError: ``targets`` is no list of dicts.
    """
    if isinstance(targets, Mapping) or not isinstance(targets, Sequence):
        raise TypeError(f"targets: expected a list of dicts, got {type(targets).__name__}")
    if len(targets) != len(batch.sizes):
        raise ValueError(
            f"targets: expected {len(batch.sizes)} dicts, one an image, got {len(targets)}"
        )
    checked = [
        _check(i, target, tuple(batch.original_sizes[i].tolist()), num_classes, masks)
        for i, target in enumerate(targets)
    ]
    most = max(len(boxes) for boxes, _, _ in checked)
    most = max(-(-most // BUCKET) * BUCKET, BUCKET)
    n, height, width, _ = batch.pixels.shape
    boxes = np.zeros((n, most, 4), np.float32)
    labels = np.zeros((n, most), np.int32)
    valid = np.zeros((n, most), bool)
    pasted = np.zeros((n, most, height, width), np.uint8) if masks else None
    for i, (box, label, mask) in enumerate(checked):
        ratio = batch.sizes[i].astype(np.float32) / batch.original_sizes[i].astype(np.float32)
        boxes[i, : len(box)] = box * ratio[[1, 0, 1, 0]]
        labels[i, : len(box)] = label
        valid[i, : len(box)] = True
        if pasted is not None and len(box):
            h, w = batch.sizes[i].tolist()
            rows, columns = _nearest(mask.shape[1], h, height), _nearest(mask.shape[2], w, width)
            pasted[i, : len(box), : len(rows), : len(columns)] = mask[:, rows][:, :, columns]
    return Targets(
        mx.array(boxes),
        mx.array(labels),
        mx.array(valid),
        None if pasted is None else mx.array(pasted),
    )


def _nearest(length: int, size: int, padded: int) -> np.ndarray:
    """Source pixels of torch's nearest-neighbour resize of one axis, the last one twice if padded.

    torchvision crops masks without padding, whose border goes on; here zeros would leak into it.
    """
    scale = np.float32(length) / np.float32(size)
    index = np.floor(np.arange(size, dtype=np.float32) * scale).astype(np.int64)
    index = np.minimum(index, length - 1)
    return np.append(index, index[-1])[:padded]


def _check(
    i: int, target: Mapping[str, Any], size: tuple[int, int], num_classes: int, masks: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (G, 4), labels (G,) and masks (G, H, W) of image ``i`` without crowds."""
    needed = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
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
    for j, ((x1, y1, x2, y2), label) in enumerate(
        zip(boxes.tolist(), labels.tolist(), strict=True)
    ):
        where, box = f"targets[{i}], box {j}", (x1, y1, x2, y2)
        if not np.isfinite(box).all():
            raise ValueError(f"{where}: {box} is not finite")
        if x2 <= x1 or y2 <= y1:
            raise ValueError(f"{where}: {box} has no area, expected x1 < x2 and y1 < y2")
        if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            raise ValueError(f"{where}: {box} lies outside the image of {width} x {height} pixels")
        if not 1 <= label < num_classes or label != int(label):
            raise ValueError(f"{where}: label {label}, expected an integer in 1..{num_classes - 1}")
    pasted = np.zeros((len(boxes), 0, 0), np.uint8)
    if masks:
        pasted = np.asarray(target["masks"])
        if pasted.shape != (len(boxes), height, width) and not (len(boxes) == 0 == pasted.size):
            raise ValueError(
                f"targets[{i}]: masks of shape {pasted.shape}, expected "
                f"{(len(boxes), height, width)}"
            )
        if (wrong := pasted != pasted.astype(bool)).any():
            raise ValueError(f"targets[{i}]: masks hold {pasted[wrong][0]}, expected 0 and 1")
        pasted = pasted.astype(np.uint8).reshape(len(boxes), height, width)
    return boxes[~crowd], labels[~crowd].astype(np.int32), pasted[~crowd]
