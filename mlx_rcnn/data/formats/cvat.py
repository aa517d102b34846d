"""CVAT's XML "for images 1.1": one file for all images, shapes in pixels.

Polygons and masks of one label and one group are one object, as in CVAT's own export to COCO;
points and a skeleton belong to the object of their group. A rotated box becomes the upright box
around it, and for masks its four corners.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element

from ..categories import similar_names
from ..dataset import DetectionDataset
from ..fields import Notes, number, whole
from ..items import Item, Masks, check_class_names, drop_below_a_pixel, make_item
from ..listing import Files, list_files
from ..sample import Defect
from ..splits import SplitError
from ..xml_files import read_xml, root_tag
from .cvat_images import by_file_name, image_file
from .cvat_shapes import read_shape
from .lists import choose, found_splits
from .shapes import Shape, merged_shapes, raw_objects

_SUBSETS = {"validation": "val", "valid": "val"}


@dataclass(slots=True)
class _Entry:
    """One ``<image>``."""

    name: str
    subset: str
    size: tuple[int, int] | None
    shapes: list[Shape] = field(default_factory=list)


@dataclass(frozen=True)
class _File:
    """An XML file read."""

    path: Path
    entries: list[_Entry]
    names: list[str]
    points: list[str]
    notes: Notes
    defects: list[Defect]


def open_cvat(
    path: Path,
    split: str | None = None,
    images: Path | None = None,
    masks: Masks | None = False,
    keypoints: bool | None = False,
) -> DetectionDataset:
    """Read CVAT annotations; classes and keypoints of skeletons are in the file's order."""
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"no such folder of images: {images}")
    file = _read(find_xml(path))
    files = list_files(images or file.path.parent)  # the folder that names count from
    # a ``subset`` of the file, or a list ``<split>.txt`` beside it
    entries, known = _chosen(file, split)
    shapes = [shape for entry in file.entries for shape in entry.shapes]
    used = {shape.label for shape in shapes}
    names = [name for name in file.names if name in used or name not in file.points]
    names += sorted(used - set(names))
    points = _keypoint_names(file, shapes)
    if keypoints and not points:
        raise ValueError(f"{file.path} has no keypoints: expected skeletons, or points in groups")
    # with ``None`` if points belong to objects
    wanted = points if points and keypoints is not False else None
    if masks is None:  # whether one has an outline
        masks = any(shape.polygons or shape.rle is not None for shape in shapes)
    labels = {name: label for label, name in enumerate(names, 1)}
    by_name = by_file_name(files)
    paths = [image_file(files, by_name, entry.name, entry.subset) for entry in entries]
    if not any(path.is_file() for path in paths):
        raise ValueError(
            f"{file.path}: none of its {len(entries)} images ({entries[0].name}, ...) is in "
            f"{files.root}; name their folder with --images (images= in Python)"
        )
    items = [
        _item(file, entry, image, labels, wanted, masks)
        for entry, image in zip(entries, paths, strict=True)
    ]
    file.defects.extend(similar_names(names, file.path))
    drop_below_a_pixel(items, file.path, file.defects)
    return DetectionDataset(
        [item for item in items if item is not None],
        check_class_names(names),
        defects=(*file.notes.defects(), *file.defects),
        format="cvat",
        masks=masks is True,
        splits=known,
        keypoint_names=tuple(wanted) if wanted else None,
    )


def find_xml(path: Path) -> Path:
    """The XML file of a CVAT folder, or the file itself; ValueError for none or several."""
    if path.is_file():
        return path
    files = list_files(path)
    found = [p for p in files.xml if root_tag(path / p) == "annotations"] or files.xml
    if len(found) != 1:
        named = ", ".join(str(p) for p in found[:5]) or "none"
        raise ValueError(f"{path}: expected one CVAT XML file, got {named}; name the file")
    return path / found[0]


def splits(path: Path) -> tuple[str, ...]:
    """The names of the splits of a CVAT file; ValueError as :func:`open_cvat`."""
    return _chosen(_read(find_xml(path)), None)[1]


def subsets(path: Path) -> tuple[str, ...]:
    """The subsets that a CVAT file has of its own, which are its splits; ``default`` is none."""
    return _subsets(_read(find_xml(path)))


def _subsets(file: _File) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry.subset for entry in file.entries if entry.subset))


def _read(path: Path) -> _File:
    try:
        root = read_xml(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if root.tag != "annotations":
        raise ValueError(f"{path}: not CVAT's: <{root.tag}>, expected <annotations>")
    if root.find("track") is not None:
        raise ValueError(f"{path} is CVAT's for video: export it as 'CVAT for images 1.1'")
    file = _File(path, [], *_labels(root), Notes(path), [])
    seen: set[tuple[str, str]] = set()
    for element in root.findall("image"):
        entry = _entry(element, file)
        if entry is not None and (entry.subset, entry.name) in seen:
            file.defects.append(Defect(f"{path}, {entry.name}", "comes up twice", "image dropped"))
        elif entry is not None:
            seen.add((entry.subset, entry.name))
            file.entries.append(entry)
    if not file.entries:
        raise ValueError(f"{path} has no images")
    return file


def _labels(root: Element) -> tuple[list[str], list[str]]:
    """Classes, and the labels of points alone: parts of skeletons first, in their order."""
    names, parts, points = [], [], []
    for label in (root.find("meta") or Element("meta")).iter("label"):
        name = (label.findtext("name") or "").strip()
        kind = label.findtext("type") or "any"
        if not name:
            continue
        if (label.findtext("parent") or "").strip():
            parts.append(name)
        else:
            names.append(name)
            # No class unless an object has it: a skeleton may be the keypoints of a box.
            points += [name] if kind in ("points", "polyline", "tag", "skeleton") else []
    return list(dict.fromkeys(names)), list(dict.fromkeys([*parts, *points]))


def _entry(element: Element, file: _File) -> _Entry | None:
    name = (element.get("name") or "").strip().replace("\\", "/")
    if not name or "\0" in name:
        problem = f"image {element.get('id')}: expected a name"
        file.defects.append(Defect(str(file.path), problem, "image dropped"))
        return None
    height, width = (whole(element.get(side)) for side in ("height", "width"))
    subset = (element.get("subset") or "").strip()
    subset = "" if subset.lower() == "default" else subset
    subset = _SUBSETS.get(subset.lower(), subset.lower())
    size = (height, width) if height and width and height > 0 < width else None
    entry = _Entry(name, subset, size)
    for place, child in enumerate(element, 1):
        where = f"{child.tag} {place} ({child.get('label')})"
        if child.tag == "tag":
            file.notes.add("tags of whole images", "left out", name)
            continue
        shape = read_shape(child, where, size)
        if isinstance(shape, str):
            place_of = f"{file.path}, {name}, {where}"
            file.defects.append(Defect(place_of, shape, "object dropped"))
            continue
        if child.tag == "box" and number(child.get("rotation") or 0):
            file.notes.add("rotated boxes", "upright box around each taken", f"{name}, {where}")
        entry.shapes.append(shape)
    entry.shapes, lost = merged_shapes(entry.shapes)
    for where, problem, rule in lost:
        file.defects.append(Defect(f"{file.path}, {name}, {where}", problem, rule))
    return entry


def _chosen(file: _File, split: str | None) -> tuple[list[_Entry], tuple[str, ...]]:
    """The images of a split, and the names of all splits."""
    there = _subsets(file)
    if there:
        if split is not None and split not in there:
            raise SplitError(f"{file.path} has no split {split!r}: it has {', '.join(there)}")
        return [e for e in file.entries if split in (None, e.subset)], there
    # Lists lie beside the file; what is deeper is of something else.
    files = Files(file.path.parent)
    for text in sorted(file.path.parent.glob("*.txt")):
        files.add(PurePosixPath(text.name))
    known = [PurePosixPath(entry.name) for entry in file.entries]
    by_path = dict(zip(known, file.entries, strict=True))
    if split is None:
        return file.entries, tuple(found_splits(files, known))
    chosen, splits = choose(files, known, split, file.defects)
    return [by_path[path] for path in chosen], splits


def _keypoint_names(file: _File, shapes: Sequence[Shape]) -> list[str]:
    """Names in the file's order, those that it does not list behind, by the alphabet."""
    found = {name for shape in shapes for name in shape.points}
    listed = [name for name in file.points if name in found]
    return listed + sorted(found - set(listed))


def _item(
    file: _File,
    entry: _Entry,
    image: Path,
    labels: Mapping[str, int],
    keypoint_names: Sequence[str] | None,
    masks: Masks,
) -> Item | None:
    name = str(image)
    if not os.path.isfile(image):
        where = f"{file.path}, {entry.name}"
        file.defects.append(Defect(where, f"no image {name}", "image dropped"))
        return None
    objects = raw_objects(entry.shapes, labels, keypoint_names)
    count = None if keypoint_names is None else len(keypoint_names)
    image_id = f"{entry.subset}/{entry.name}" if entry.subset else entry.name
    return make_item(image, image_id, name, entry.size, objects, file.defects, masks, count)
