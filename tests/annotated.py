"""Small VOC and COCO data sets on disk, shared by tests of data, evaluation and commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

BOX = (10, 20, 50, 60)


def save_image(path: Path, size: tuple[int, int] = (80, 100), **options: Any) -> Path:
    """A grey image of (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (120, 120, 120)).save(path, **options)
    return path


def voc_object(name: str, box: tuple = BOX, difficult: int = 0, extra: str = "") -> str:
    """The XML of one object."""
    tags = ("xmin", "ymin", "xmax", "ymax")
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(tags, box, strict=True))
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>{extra}"
        f"<bndbox>{corners}</bndbox></object>"
    )


def save_xml(
    path: Path, *objects: str, size: tuple[int, int] | None = (80, 100), filename: str = ""
) -> Path:
    """A VOC annotation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>" if size else ""
    name = f"<filename>{filename or path.stem + '.jpg'}</filename>"
    path.write_text(f"<annotation>{name}{sides}{''.join(objects)}</annotation>")
    return path


def make_voc(root: Path, names: tuple[str, ...] = ("a", "b", "c"), label: str = "cat") -> Path:
    """A year of a devkit: each image has one object; the last one is val, the others train."""
    for name in names:
        save_image(root / "JPEGImages" / f"{name}.jpg")
        save_xml(root / "Annotations" / f"{name}.xml", voc_object(label))
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("\n".join(names[:-1]) + "\n")
    (main / "val.txt").write_text(names[-1] + "\r\n")
    (main / f"{label}_train.txt").write_text("".join(f"{name}  1\n" for name in names[:-1]))
    return root


def coco_content() -> dict[str, Any]:
    """Two images, two categories with a gap, one object each; the images are 100 x 80."""
    square = [10, 20, 50, 20, 50, 60, 10, 60]
    body = {"bbox": [10, 20, 40, 40], "area": 1600.0, "iscrowd": 0, "segmentation": [square]}
    return {
        "images": [
            {"id": 9, "file_name": "b.jpg", "height": 80, "width": 100},
            {"id": 4, "file_name": "a.jpg", "height": 80, "width": 100},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 17, **body},
            {"id": 2, "image_id": 4, "category_id": 3, **body},
        ],
        "categories": [{"id": 17, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


def make_coco(root: Path, content: Any = None, name: str = "annotations.json") -> Path:
    """The JSON file, with a.jpg and b.jpg in images/ beside it."""
    for image in ("a.jpg", "b.jpg"):
        save_image(root / "images" / image)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(coco_content() if content is None else content))
    return root / name
