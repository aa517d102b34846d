"""Targets as COCO annotations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..ops.rle import encode_rle
from ..structures import Entry


def coco_annotations(target: Mapping[str, np.ndarray]) -> list[Entry]:
    """The G objects of one image's target, ``boxes`` (G, 4) xyxy pixels, as COCO's annotations."""
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
            "bbox": [x1, y1, x2 - x1, y2 - y1],  # x, y, width, height in pixels
            "area": (x2 - x1) * (y2 - y1),  # of the box, where there is no mask
            "iscrowd": int(crowd),
            "difficult": int(difficult),
        }
        if "masks" in target:
            # compressed RLE; the area is then the mask's
            entry["segmentation"] = encode_rle(target["masks"][i])
            entry["area"] = float(np.count_nonzero(target["masks"][i]))
        if "keypoints" in target:  # (G, K, 3)
            points = target["keypoints"][i].astype(np.float64)
            entry["keypoints"] = points.ravel().tolist()  # one list of 3 * K numbers
            entry["num_keypoints"] = int(np.count_nonzero(points[:, 2]))  # how many are visible
        entries.append(entry)
    return entries
