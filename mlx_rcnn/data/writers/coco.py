"""COCO JSON, written: boxes, outlines as they are, keypoints, crowds."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from ...structures import Entry
from ..formats.shapes import polygon_area
from .base import NO_UNICODE, Object, Picture, Plan, Writer, short


class CocoWriter(Writer):
    """``annotations.json``, or ``annotations/instances_<split>.json``, beside ``images/``."""

    REFERS = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.parts: dict[str | None, tuple[list[dict[str, int | str]], list[Entry]]] = {}
        ids = plan.category_ids or ()
        usable = len(ids) == len(plan.class_names) - 1 and min(ids, default=0) >= 1
        self.ids = [0, *ids] if usable else list(range(len(plan.class_names)))

    def add(self, picture: Picture, split: str | None) -> None:
        """Collect the annotations of an image."""
        images, annotations = self.parts.setdefault(split, ([], []))
        number, (height, width) = len(images) + 1, picture.size
        name = picture.name
        if self.plan.images == "refer" and picture.source is not None:
            name = str(picture.source.resolve())
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for found in picture.objects:
            entry = self._entry(found, picture.size)
            annotations.append({"id": len(annotations) + 1, "image_id": number, **entry})

    def _entry(self, found: Object, size: tuple[int, int]) -> Entry:
        x1, y1, x2, y2 = found.box
        width, height = short(x2 - x1), short(y2 - y1)
        # x + width has to be the same float32 again.
        width = width if short(x1 + width) == x2 else x2 - x1
        height = height if short(y1 + height) == y2 else y2 - y1
        entry: Entry = {
            "category_id": self.ids[found.label],
            "bbox": [x1, y1, width, height],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(found.crowd),
        }
        if found.difficult:
            entry["difficult"] = 1
        if found.segmentation is not None and self.plan.shapes != "boxes":
            kept = isinstance(found.segmentation, Mapping) and self.plan.shapes == "auto"
            polygons = [] if kept else self.outlines(found, size)
            entry["segmentation"] = found.segmentation if kept else [p.tolist() for p in polygons]
            if polygons:
                entry["area"] = sum(map(polygon_area, polygons))
        else:
            self.lose("outlines left out", int(found.segmentation is not None))
        if found.area is not None:
            entry["area"] = found.area
        if found.keypoints is not None:
            points = [short(v) for v in found.keypoints.reshape(-1)]
            entry["keypoints"] = [int(v) if i % 3 == 2 else v for i, v in enumerate(points)]
            entry["num_keypoints"] = int(np.count_nonzero(found.keypoints[:, 2]))
        return entry

    def finish(self) -> str:
        """Write the JSON files."""
        kind: dict[str, list[str] | list[list[int]]] = {}
        if self.plan.keypoint_names:
            edges = self.plan.skeleton or ()
            kind["keypoints"] = list(self.plan.keypoint_names)
            kind["skeleton"] = [[a + 1, b + 1] for a, b in edges]
        names = self.plan.class_names
        categories = [
            {"id": self.ids[i], "name": name, **kind} for i, name in enumerate(names) if i
        ]
        for split, (images, entries) in self.parts.items():
            path = self.plan.root / "annotations.json"
            if split is not None:
                path = self.plan.root / "annotations" / f"instances_{split}.json"
                path.parent.mkdir(exist_ok=True)
            content = {"images": images, "annotations": entries, "categories": categories}
            text = json.dumps(content, ensure_ascii=False)
            path.write_text(text, encoding="utf-8", errors=NO_UNICODE)
        return "annotations.json" if None in self.parts else ""
