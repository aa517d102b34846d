"""CVAT's XML "for images 1.1", written."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from ...ops.rle import decode_rle
from ..formats.shapes import bounds
from ..polygons import Segmentation, segmentation_mask
from .base import Object, Picture, Plan, Writer, digits

_MARKS = ("difficult", "iscrowd")


class CvatWriter(Writer):
    """``annotations.xml`` beside ``images/``; subsets are splits."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.root = Element("annotations")
        SubElement(self.root, "version").text = "1.1"
        labels = SubElement(SubElement(SubElement(self.root, "meta"), "job"), "labels")
        for name in plan.class_names[1:]:
            self._label(labels, name, "any")
        for name in plan.class_names[1:] if plan.keypoint_names else ():
            self._label(labels, f"{name} keypoints", "skeleton")
            for part in plan.keypoint_names or ():
                self._label(labels, part, "points", f"{name} keypoints")
        self.count = 0

    @staticmethod
    def _label(labels: Element, name: str, kind: str, parent: str | None = None) -> None:
        label = SubElement(labels, "label")
        SubElement(label, "name").text = name
        SubElement(label, "type").text = kind
        attributes = SubElement(label, "attributes")
        if parent is not None:
            SubElement(label, "parent").text = parent
            return
        for mark in _MARKS if kind == "any" else ():
            attribute = SubElement(attributes, "attribute")
            for tag, text in (
                ("name", mark),
                ("mutable", "False"),
                ("input_type", "checkbox"),
                ("default_value", "false"),
                ("values", "false"),
            ):
                SubElement(attribute, tag).text = text

    def add(self, picture: Picture, split: str | None) -> None:
        """Add an image."""
        height, width = picture.size
        image = SubElement(self.root, "image", id=str(self.count), name=picture.name)
        self.count += 1
        if split is not None:
            image.set("subset", split)
        image.set("width", str(width))
        image.set("height", str(height))
        for group, found in enumerate(picture.objects, 1):
            element = self._area(image, found, picture.size)
            for mark, value in zip(_MARKS, (found.difficult, found.crowd), strict=True):
                if value:
                    SubElement(element, "attribute", name=mark).text = "true"
            if found.keypoints is not None and found.keypoints[:, 2].any():
                element.set("group_id", str(group))
                self._skeleton(image, found, group)

    def _area(self, image: Element, found: Object, size: tuple[int, int]) -> Element:
        label = self.plan.class_names[found.label]
        shared: dict[str, str] = {"label": label, "source": "file", "occluded": "0"}
        outline = None if self.plan.shapes == "boxes" else found.segmentation
        self.lose("outlines left out", int(found.segmentation is not None and outline is None))
        if outline is not None:
            polygons = [] if isinstance(outline, Mapping) else outline
            if self.plan.shapes == "polygons":
                polygons = self.outlines(found, size)
            if len(polygons) == 1:
                self.outlined_box(found, bounds(polygons))
                pairs = np.asarray(polygons[0], np.float64).reshape(-1, 2)
                places = ";".join(f"{digits(x)},{digits(y)}" for x, y in pairs.tolist())
                return SubElement(image, "polygon", {**shared, "points": places, "z_order": "0"})
            mask = _drawn(outline, size)
            if mask.any():
                self.outlined_box(found, bounds(outline))
                return SubElement(image, "mask", {**shared, **_mask_fields(mask), "z_order": "0"})
        corners = zip(("xtl", "ytl", "xbr", "ybr"), map(digits, found.box), strict=True)
        return SubElement(image, "box", {**shared, **dict(corners), "z_order": "0"})

    def _skeleton(self, image: Element, found: Object, group: int) -> None:
        label = f"{self.plan.class_names[found.label]} keypoints"
        skeleton = SubElement(image, "skeleton", label=label, source="file", z_order="0")
        skeleton.set("group_id", str(group))
        assert found.keypoints is not None
        rows = found.keypoints.astype(np.float64).tolist()
        for name, (x, y, seen) in zip(self.plan.keypoint_names or (), rows, strict=True):
            point = SubElement(skeleton, "points", label=name, source="file")
            point.set("outside", str(int(seen == 0)))
            point.set("occluded", str(int(seen == 1)))
            point.set("points", f"{digits(x)},{digits(y)}")

    def finish(self) -> str:
        """Write the XML file."""
        if self.plan.skeleton:
            self.lose("skeleton of the keypoints left out")
        indent(self.root)
        path = self.plan.root / "annotations.xml"
        ElementTree(self.root).write(path, encoding="utf-8", xml_declaration=True)
        return ""


def _drawn(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, Mapping):
        return decode_rle(segmentation)
    return segmentation_mask(segmentation, *size)


def _mask_fields(mask: np.ndarray) -> dict[str, str]:
    """Run lengths along the rows of the rectangle around a mask, zeros first."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = part.reshape(-1).astype(np.int8)
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *([0] if flat[0] else []), *ends.tolist(), len(flat)]).tolist()
    return {
        "rle": ", ".join(map(str, runs)),
        "left": str(left),
        "top": str(top),
        "width": str(part.shape[1]),
        "height": str(part.shape[0]),
    }
