"""YOLO text, written: a line an object, a box, an outline or keypoints, in fractions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..formats.shapes import bounds
from ..keypoints import mirror_partners
from ..outlines import one_polygon
from ..polygons import segmentation_mask
from .base import Object, Picture, Plan, Writer

_DIGITS = 12  # of a fraction: a coordinate comes back to a millionth of a pixel


class YoloWriter(Writer):
    """``images/[split/]``, ``labels/[split/]`` and ``data.yaml``, as Ultralytics reads them."""

    TURNS = False

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.splits: dict[str | None, None] = {}

    def add(self, picture: Picture, split: str | None) -> None:
        """Write the labels of an image."""
        self.splits[split] = None
        path = self.plan.root / "labels" / (split or "") / f"{picture.stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [self._line(found, picture.size) for found in self.without_crowds(picture)]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def _line(self, found: Object, size: tuple[int, int]) -> str:
        self.lose("difficult marks left out", int(found.difficult))
        height, width = size
        x1, y1, x2, y2 = found.box
        values: list[float] = []
        if found.keypoints is not None:
            self.lose(
                "outlines left out, as lines hold keypoints", int(found.segmentation is not None)
            )
            values = self._keypoints(found.keypoints, size)
        elif polygon := self._outline(found, size):
            scaled = np.array(polygon).reshape(-1, 2) / (width, height)
            return self._text(found.label, scaled.reshape(-1).tolist())
        sides = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height]
        sides += [(x2 - x1) / width, (y2 - y1) / height]
        return self._text(found.label, [*sides, *values])

    def _text(self, label: int, values: Sequence[float]) -> str:
        return " ".join([str(label - 1), *(f"{v:.{_DIGITS}g}" for v in values)])

    def _outline(self, found: Object, size: tuple[int, int]) -> list[float]:
        """One polygon within the image: the object's own, or one around the pixels of several."""
        polygons = self.outlines(found, size)
        if not polygons:
            return []
        points = np.concatenate(polygons).reshape(-1, 2)
        inside = (points >= 0).all() and (points <= (size[1], size[0])).all()
        if len(polygons) > 1 or not inside:
            polygons = self.traced(segmentation_mask(polygons, *size))
            if not polygons:  # thinner than a pixel
                return []
        if len(polygons) > 1:
            self.lose("outlines of several parts joined by bridges")
        polygon = one_polygon(polygons)
        self.outlined_box(found, bounds([polygon]))
        return [float(v) for v in polygon]

    def _keypoints(self, points: np.ndarray, size: tuple[int, int]) -> list[float]:
        values: list[float] = []
        for x, y, seen in points.astype(np.float64).tolist():
            inside = 0 <= x <= size[1] and 0 <= y <= size[0]
            self.lose("keypoints outside the image left out", int(seen > 0 and not inside))
            kept = seen > 0 and inside
            values += [x / size[1], y / size[0], seen] if kept else [0.0, 0.0, 0.0]
        return values

    def finish(self) -> str:
        """Write the ``data.yaml``."""
        lines = []
        for split in self.splits:
            folder = Path("images", split or "").as_posix()
            lines.append(f"{split or 'train'}: {json.dumps(folder, ensure_ascii=False)}")
        if None in self.splits:
            lines.append("# val: Ultralytics needs a folder to validate on, too")
        names = self.plan.keypoint_names
        if names:
            lines.append(f"kpt_shape: [{len(names)}, 3]")
            with suppress(ValueError):  # a side without its other one
                lines.append(f"flip_idx: {mirror_partners(names)}")
            lines.append("kpt_names:")
            listed = json.dumps(list(names), ensure_ascii=False)
            lines += [f"  {i}: {listed}" for i in range(len(self.plan.class_names) - 1)]
        lines.append("names:")
        for i, name in enumerate(self.plan.class_names[1:]):
            lines.append(f"  {i}: {json.dumps(name, ensure_ascii=False)}")
        if self.plan.skeleton:
            self.lose("skeleton of the keypoints left out")
        text = "\n".join(lines) + "\n"
        (self.plan.root / "data.yaml").write_text(text, encoding="utf-8")
        return ""
