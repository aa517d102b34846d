"""Whose annotations a file or folder holds, from a look at its files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..listing import Files, list_files
from ..splits import json_files
from ..xml_files import root_tag
from .yolo_paths import label_file

FORMATS = ("voc", "coco", "yolo", "labelme", "cvat")
_CALLED = {
    "voc": "VOC XML",
    "coco": "COCO JSON",
    "yolo": "YOLO text",
    "labelme": "LabelMe JSON",
    "cvat": "CVAT XML",
}
_EXPECTED = (
    "expected VOC XML files or COCO JSON, YOLO labels, LabelMe JSON, or CVAT's XML for images"
)
_LOOKED_AT = 64  # files of a kind, one of each folder among them
_HEAD = 1 << 16  # bytes of a JSON file
_SHAPES = re.compile(rb'"shapes"\s*:\s*\[')
_COCO_LISTS = re.compile(rb'"(images|annotations|categories|info|licenses)"\s*:\s*[\[{]')


def guess_format(path: Path) -> str:
    """The one of ``FORMATS`` that a file or folder holds; ValueError for none, or several."""
    if path.is_file():
        return _of_file(path)
    files = list_files(path)
    found = _evidence(files)
    if len(found) > 1:
        kinds = " and ".join(
            f"{_CALLED[kind]} ({name})" if name else _CALLED[kind] for kind, name in found.items()
        )
        raise ValueError(
            f"{path} has both {kinds} files: choose the format, {' or '.join(found)} (--format)"
        )
    if not found:
        raise ValueError(f"no annotations in {path}: {_EXPECTED}")
    return next(iter(found))


def _of_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _of_json(path)
    if suffix in (".yaml", ".yml", ".data"):
        return "yolo"
    if suffix == ".xml" and root_tag(path) != "annotation":
        return "cvat"
    if suffix == ".zip":
        raise ValueError(f"{path} is an archive: unpack it and give its folder")
    raise ValueError(
        f"{path}: expected a folder of VOC annotations or a COCO JSON file, a data.yaml of YOLO, "
        "or a CVAT XML file"
    )


def _evidence(files: Files) -> dict[str, str]:
    """Formats that are there, and a file of each."""
    found: dict[str, str] = {}
    for path in _some(files.xml):
        kind = "cvat" if root_tag(files.root / path) == "annotations" else "voc"
        found.setdefault(kind, path.as_posix())
    near = {PurePosixPath(p.relative_to(files.root).as_posix()) for p in json_files(files.root)}
    for path in _some(files.json):
        kind = _of_json(files.root / path)
        if kind == "labelme" or path in near:
            found.setdefault(kind, path.as_posix())
    labels = _labels(files)
    if labels:
        found["yolo"] = labels
    return {kind: found[kind] for kind in FORMATS if kind in found}


def _some(paths: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The first of each folder, and others evenly."""
    first: dict[PurePosixPath, PurePosixPath] = {}
    for path in paths:
        first.setdefault(path.parent, path)
    step = max(len(paths) // _LOOKED_AT, 1)
    return list(dict.fromkeys([*list(first.values())[:_LOOKED_AT], *paths[::step]]))


def _of_json(path: Path) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return "coco"
    lists, shapes = _COCO_LISTS.search(head), _SHAPES.search(head)
    if shapes and not (lists and lists.start() < shapes.start()):
        return "labelme"
    # An embedded picture may stand in front of everything else.
    return "labelme" if not lists and re.search(rb'"imageData"\s*:\s*"', head) else "coco"


def _labels(files: Files) -> str | None:
    """A text file that has its image where YOLO has it, or a list of YOLO's classes."""
    texts = {files.root / path for path in files.text}
    for path in _some(files.images):
        labels = label_file(files.root / path)
        if labels in texts:
            return labels.relative_to(files.root).as_posix()
    for path in files.yaml:
        if path.name.lower() in ("data.yaml", "data.yml", "dataset.yaml"):
            return path.as_posix()
    return next((p.as_posix() for p in files.darknet if p.suffix.lower() == ".data"), None)
