"""YOLO annotations: a text file an image, a line an object, in fractions of the image.

A line is ``class x y width height`` (the centre and the sides of a box), ``class x1 y1 x2 y2 ...``
(an outline), or with ``kpt_shape`` in the ``data.yaml`` a box and its keypoints. Fractions count
from the left and the top of the upright image, as Ultralytics takes them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..categories import similar_names
from ..dataset import DetectionDataset
from ..fields import Notes
from ..items import Item, Masks, RawObject, check_class_names, make_item
from ..sample import Defect
from ..splits import SplitError, text_of
from .yolo_layout import NO_LABELS, YoloLayout, read_layout, split_images
from .yolo_paths import label_file
from .yolo_rows import Row, read_row, row_object

Rows = list[Row | tuple[str, str]]
_MISSING = "no label file"


@dataclass(frozen=True)
class _Source:
    layout: YoloLayout
    ids: dict[Path, str]
    masks: Masks
    keypoints: bool
    notes: Notes
    defects: list[Defect]


def open_yolo(
    path: Path,
    split: str | None = None,
    masks: Masks | None = False,
    keypoints: bool | None = False,
) -> DetectionDataset:
    """Read YOLO labels by a ``data.yaml``, a Darknet ``.data`` file or a folder; labels from 1."""
    layout = read_layout(path)
    # all splits by default, or without splits all images of the folder
    images = _chosen(layout, split)
    if not images:
        raise ValueError(f"no images in {layout.root}: expected some with YOLO labels")
    if keypoints and layout.pose is None:
        raise ValueError(f"{path} has no keypoints: expected kpt_shape in its data.yaml")
    read = {image: _read_rows(layout, image) for image in _once(images, layout)}
    if all(rows == _MISSING for rows in read.values()):
        first = label_file(next(iter(read)))
        raise ValueError(
            f"{layout.root}: none of {len(read)} images has YOLO labels: expected {first}, ..."
        )
    names = layout.names if layout.names is not None else _unnamed(layout, read)
    if masks is None:  # whether an object has an outline
        masks = any(isinstance(row, Row) and row.outline for rows in read.values() for row in rows)
    # with ``None`` if the ``data.yaml`` has a ``kpt_shape``
    with_keypoints = layout.pose is not None and keypoints is not False
    notes = Notes(layout.config or layout.root)
    source = _Source(layout, image_ids(list(read)), masks, with_keypoints, notes, layout.defects)
    items = [_item(source, image, rows) for image, rows in read.items()]
    _orphans(layout, read)
    layout.defects.extend(similar_names(names, layout.root))
    return DetectionDataset(
        [item for item in items if item is not None],
        check_class_names(names),  # in the file's order
        tuple(range(len(names))),
        (*notes.defects(), *layout.defects),
        "yolo",
        masks is True,
        tuple(layout.splits),
        layout.pose.names if layout.pose is not None and with_keypoints else None,
    )


def _chosen(layout: YoloLayout, split: str | None) -> list[Path]:
    if split is None:
        found = dict.fromkeys(image for s in layout.splits for image in split_images(layout, s))
        return list(found) or [layout.root / image for image in layout.files.images]
    if split not in layout.splits:
        known = ", ".join(layout.splits) or "none"
        raise SplitError(f"{layout.root} has no split {split!r}: it has {known}")
    images = split_images(layout, split)
    if not images:
        entries = ", ".join(layout.splits[split][:3])
        raise ValueError(f"{layout.config or layout.root}: {split}: no image in {entries}")
    return images


def _once(images: Sequence[Path], layout: YoloLayout) -> list[Path]:
    """Images of which no two have the same labels."""
    owner: dict[Path, Path] = {}
    for image in images:
        labels = label_file(image)
        first = owner.setdefault(labels, image)
        if first is not image:
            problem = f"shares its labels, {labels.name}, with {first.name}"
            layout.defects.append(Defect(str(image), problem, "image dropped"))
    return list(owner.values())


def _read_rows(layout: YoloLayout, image: Path) -> Rows | str:
    """The lines of an image's labels; what is wrong with a line, and its place."""
    path = label_file(image)
    if not os.path.isfile(path):
        return _MISSING
    try:
        lines = text_of(path).splitlines()
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    # Without names every class counts: how many there are is only known once all are read.
    classes = 100_000 if layout.names is None else len(layout.names)
    found: Rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path.name} line {number}"
            row = read_row(line, where, classes, layout.pose)
            found.append((where, row) if isinstance(row, str) else row)
    return found


def _unnamed(layout: YoloLayout, read: dict[Path, Rows | str]) -> list[str]:
    """Names for the classes of data that has none."""
    rows = [row for rows in read.values() if isinstance(rows, list) for row in rows]
    count = max((row.label for row in rows if isinstance(row, Row)), default=0)
    problem = "no data.yaml, classes.txt or .names file says what the classes are called"
    rule = f"named class_0 to class_{count - 1}" if count else "no class"
    layout.defects.append(Defect(str(layout.root), problem, rule))
    return [f"class_{i}" for i in range(count)]


def _item(source: _Source, image: Path, rows: Rows | str) -> Item | None:
    name, pose = str(image), source.layout.pose
    if isinstance(rows, str):
        if rows != _MISSING:
            source.defects.append(Defect(name, rows, "image dropped"))
            return None
        if os.path.isfile(image):  # else its own defect
            source.notes.add(_MISSING, "taken as an image without objects", image.name)
        rows = []
    for row in rows:
        if not isinstance(row, Row):
            source.defects.append(Defect(f"{name}, {row[0]}", row[1], "object dropped"))
    usable = [row for row in rows if isinstance(row, Row)]

    def objects(size: tuple[int, int]) -> list[RawObject]:
        return [row_object(row, size, pose, source.keypoints) for row in usable]

    count = len(pose.names) if pose is not None and source.keypoints else None
    return make_item(
        image, source.ids[image], name, None, objects, source.defects, source.masks, count
    )


def _orphans(layout: YoloLayout, read: dict[Path, Rows | str]) -> None:
    """Labels in the folders of those read that belong to no image."""
    known = {label_file(image) for image in read}
    known |= {label_file(layout.root / image) for image in layout.files.images}
    folders = {path.parent for path in known}
    lists = {layout.root / entry for entries in layout.splits.values() for entry in entries}
    for text in layout.files.text:
        path = layout.root / text
        ours = path.parent in folders and path not in known and path not in lists
        if ours and not text.name.lower().startswith(NO_LABELS):
            if len(text.parts) == 1 and text.stem.lower() in ("train", "val", "valid", "test"):
                continue
            layout.defects.append(Defect(str(path), "no image of this name", "labels left out"))


def image_ids(images: Sequence[Path]) -> dict[Path, str]:
    """An id an image, each once: its stem, or its path for stems that come up twice."""
    stems: dict[str, int] = {}
    for image in images:
        stems[image.stem] = stems.get(image.stem, 0) + 1
    return {i: i.stem if stems[i.stem] == 1 else i.with_suffix("").as_posix() for i in images}


def splits(path: Path) -> tuple[str, ...]:
    """The names of a YOLO data set's splits; ValueError for a ``data.yaml`` that cannot be read."""
    return tuple(read_layout(path).splits)
