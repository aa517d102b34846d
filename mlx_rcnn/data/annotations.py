"""Targets as COCO annotations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..ops.rle import encode_rle
from ..structures import Entry


def coco_annotations(target: Mapping[str, np.ndarray]) -> list[Entry]:
    """Turn the objects of one image into COCO's annotations.

    Args:
        target: ``boxes`` (G, 4) xyxy pixels, ``labels`` (G,), and if present ``iscrowd`` (G,),
            ``difficult`` (G,), ``masks`` (G, H, W) and ``keypoints`` (G, K, 3).

    Returns:
        G dicts with ``category_id`` (the label), ``bbox`` [x, y, width, height] in pixels,
        ``area`` (of the mask, or else of the box), ``iscrowd``, ``difficult``, for masks
        ``segmentation``, compressed RLE, and for keypoints ``keypoints``, one list of 3 * K
        numbers, and ``num_keypoints``, how many are visible.
    """
    none = np.zeros(len(target["boxes"]), np.uint8)
    entries: list[Entry] = []
    for i, ((x1, y1, x2, y2), label, crowd, difficult) in enumerate(
        zip(
            target["boxes"].astype(np.float64).tolist(),
            target["labels"].tolist(),
            target.get("iscrowd", none).tolist(),
            target.get("difficult", none).tolist(),
            strict=True,
        )
    ):
        entry: Entry = {
            "category_id": int(label),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(crowd),
            "difficult": int(difficult),
        }
        if "masks" in target:
            entry["segmentation"] = encode_rle(target["masks"][i])
            entry["area"] = float(np.count_nonzero(target["masks"][i]))
        if "keypoints" in target:
            points = target["keypoints"][i].astype(np.float64)
            entry["keypoints"] = points.ravel().tolist()
            entry["num_keypoints"] = int(np.count_nonzero(points[:, 2]))
        entries.append(entry)
    return entries
