"""LabelMe JSON, written: a file an image, beside it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from ...structures import Json
from ..formats.shapes import bounds
from .base import NO_UNICODE, Object, Picture, Plan, Writer, short


class LabelmeWriter(Writer):
    """All in one folder, with a list ``<split>.txt`` for each split."""

    REFERS = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.lists: dict[str, list[str]] = {}
        self.used: Counter[int] = Counter()

    def folder(self, split: str | None) -> Path:
        """Beside the JSON files."""
        return Path()

    def add(self, picture: Picture, split: str | None) -> None:
        """Write a JSON file, once for an image of several splits."""
        if split is not None:
            self.lists.setdefault(split, []).append(picture.stem)
        path = self.plan.root / f"{picture.stem}.json"
        if path.exists():
            return
        image = picture.name
        if self.plan.images == "refer" and picture.source is not None:
            image = str(picture.source.resolve())
        shapes: list[dict[str, Json]] = []
        for group, found in enumerate(picture.objects, 1):
            self.used[found.label] += 1
            shapes += self._shapes(found, group, picture.size)
        content: dict[str, Json] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": image,
            "imageData": None,
            "imageHeight": picture.size[0],
            "imageWidth": picture.size[1],
        }
        text = json.dumps(content, ensure_ascii=False, indent=1)
        path.write_text(text, encoding="utf-8", errors=NO_UNICODE)

    def _shapes(self, found: Object, group: int, size: tuple[int, int]) -> list[dict[str, Json]]:
        polygons = self.outlines(found, size)
        flags = {}
        if found.difficult:
            flags["difficult"] = True
        if found.crowd:
            flags["iscrowd"] = True
        points = self._points(found)
        label = self.plan.class_names[found.label]
        joined = group if len(polygons) > 1 or points else None
        x1, y1, x2, y2 = found.box
        areas = [("rectangle", [[x1, y1], [x2, y2]])]
        if polygons:
            self.outlined_box(found, bounds(polygons))
            areas = [("polygon", p.reshape(-1, 2).tolist()) for p in polygons]
        shapes = [_shape(label, kind, places, joined, flags) for kind, places in areas]
        return shapes + [
            _shape(name, "point", [place], joined, {"hidden": True} if seen == 1 else {})
            for name, place, seen in points
        ]

    def _points(self, found: Object) -> list[tuple[str, list[float], int]]:
        if found.keypoints is None or self.plan.keypoint_names is None:
            return []
        rows = zip(self.plan.keypoint_names, found.keypoints, strict=True)
        return [(name, [short(x), short(y)], int(seen)) for name, (x, y, seen) in rows if seen]

    def finish(self) -> str:
        """Write the lists of splits."""
        unused = len(self.plan.class_names) - 1 - len(self.used)
        self.lose("classes without an object left out", unused)
        if self.plan.skeleton:
            self.lose("skeleton of the keypoints left out")
        for split, stems in self.lists.items():
            path = self.plan.root / f"{split}.txt"
            path.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
        return ""


def _shape(
    label: str, kind: str, points: list[list[float]], group: int | None, flags: dict[str, bool]
) -> dict[str, Json]:
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": flags,
        "mask": None,
    }
