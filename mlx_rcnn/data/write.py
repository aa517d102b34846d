"""Write a dataset as COCO files, so that made-up data goes through the same door as real data."""

from __future__ import annotations

import json
import os
from pathlib import Path

from PIL import Image

from ..files import replacing
from ..structures import Entry
from .annotations import coco_annotations
from .protocols import Dataset


def write_coco(dataset: Dataset, folder: str | os.PathLike[str]) -> Path:
    """Write images as PNG and their annotations as COCO JSON.

    Args:
        dataset: with ``len``, indexing and ``class_names``, and for keypoints ``keypoint_names``
            and perhaps ``keypoint_skeleton``, which all classes then have.
        folder: made if missing; gets ``annotations.json`` and ``images/``.

    Returns:
        The path of the JSON file.

    Raises:
        OSError: something cannot be written.
    """
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, int | str]] = []
    annotations: list[Entry] = []
    for i in range(len(dataset)):
        sample = dataset[i]
        name = f"{i + 1:06}.png"
        Image.fromarray(sample.image).save(root / "images" / name)
        height, width = sample.image.shape[:2]
        images.append({"id": i + 1, "file_name": name, "height": height, "width": width})
        for entry in coco_annotations(sample.target):
            annotations.append({"id": len(annotations) + 1, "image_id": i + 1, **entry})
    kind: dict[str, list[str] | list[list[int]]] = {}
    if names := getattr(dataset, "keypoint_names", None):
        edges = getattr(dataset, "keypoint_skeleton", None) or ()
        kind = {
            "keypoints": list(names),
            "skeleton": [[a + 1, b + 1] for a, b in edges],
        }
    classes = enumerate(dataset.class_names)
    categories = [{"id": i, "name": name, **kind} for i, name in classes if i]
    path = root / "annotations.json"
    with replacing(path) as part, open(part, "w", encoding="utf-8") as file:
        content = {"images": images, "annotations": annotations, "categories": categories}
        json.dump(content, file)
    return path
