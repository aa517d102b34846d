"""VOC XML, written: boxes alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from .base import Picture, Plan, Writer, digits

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocWriter(Writer):
    """``JPEGImages/``, ``Annotations/`` and lists in ``ImageSets/Main/``."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.lists: dict[str, list[str]] = {}
        self.used: Counter[int] = Counter()

    def folder(self, split: str | None) -> Path:
        """One folder for all splits."""
        return Path("JPEGImages")

    def add(self, picture: Picture, split: str | None) -> None:
        """Write an XML file, once for an image of several splits."""
        if split is not None:
            self.lists.setdefault(split, []).append(picture.stem)
        path = self.plan.root / "Annotations" / f"{picture.stem}.xml"
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        root, (height, width) = Element("annotation"), picture.size
        SubElement(root, "folder").text = "JPEGImages"
        SubElement(root, "filename").text = picture.name
        size = SubElement(root, "size")
        for name, side in (("width", width), ("height", height), ("depth", 3)):
            SubElement(size, name).text = str(side)
        for found in self.without_crowds(picture):
            self.used[found.label] += 1
            self.lose("outlines left out", int(found.segmentation is not None))
            has_points = found.keypoints is not None and bool(found.keypoints[:, 2].any())
            self.lose("objects without their keypoints", int(has_points))
            entry = SubElement(root, "object")
            SubElement(entry, "name").text = self.plan.class_names[found.label]
            SubElement(entry, "truncated").text = "0"
            SubElement(entry, "difficult").text = str(int(found.difficult))
            box = SubElement(entry, "bndbox")
            for name, value in zip(_CORNERS, found.box, strict=True):
                SubElement(box, name).text = digits(value)
        indent(root)
        ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)

    def finish(self) -> str:
        """Write the lists of splits."""
        unused = len(self.plan.class_names) - 1 - len(self.used)
        self.lose("classes without an object left out", unused)
        for split, stems in self.lists.items():
            path = self.plan.root / "ImageSets" / "Main" / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
        return ""
