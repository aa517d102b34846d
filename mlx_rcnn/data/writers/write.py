"""Write a data set in any of the formats, whole or not at all."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...files import new_folder
from ..protocols import Dataset
from .base import (
    IMAGE_FILES,
    SHAPES,
    ImageFiles,
    Names,
    Picture,
    Plan,
    Shapes,
    Writer,
    objects_of,
    place_image,
)
from .coco import CocoWriter
from .cvat import CvatWriter
from .labelme import LabelmeWriter
from .voc import VocWriter
from .yolo import YoloWriter

WRITERS: dict[str, type[Writer]] = {
    "voc": VocWriter,
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "labelme": LabelmeWriter,
    "cvat": CvatWriter,
}


@dataclass(frozen=True)
class WrittenDataset:
    """What :func:`write_dataset` wrote; ``str`` says it in lines.

    Args:
        path: to open it by.
        images, objects: how many.
        lost: what the format could not hold, one line a kind, such as ``"3 crowds left out"``.
    """

    path: Path
    images: int
    objects: int
    lost: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.images} images, {self.objects} objects"]
        return "\n".join([*lines, *(f"  {line}" for line in self.lost)])


def write_dataset(
    dataset: Dataset | Mapping[str, Dataset] | Mapping[str | None, Dataset],
    folder: str | os.PathLike[str],
    format: str,
    *,
    images: ImageFiles = "copy",
    shapes: Shapes = "auto",
) -> WrittenDataset:
    """Write a data set in another format, to be read again by :func:`open_dataset`.

    The folder is there with all in it, or not at all. To keep the outlines of data in which not
    every object has one, open it with ``masks="kept"``. Boxes come back as they were, in YOLO to a
    millionth of a pixel; masks to the pixel. What a format cannot hold is counted in ``lost``.

    Args:
        dataset: of :func:`open_dataset`, any with ``len``, indexing and ``class_names`` (images
            that are no files are written as PNG), or a dict of such by split.
        folder: that does not exist or is empty.
        format: ``"voc"``, ``"coco"``, ``"yolo"``, ``"labelme"`` or ``"cvat"``.
        images: ``"copy"``, ``"link"`` (hard links) or ``"refer"`` (paths in COCO and LabelMe,
            symbolic links in the others). Default: ``"copy"``.
        shapes: of objects with an outline: ``"auto"``, the best the format has, ``"boxes"`` or
            ``"polygons"`` (no RLE). Default: ``"auto"``.

    Returns:
        Where it is, and what was lost.

    Raises:
        ValueError: an unknown format, option or split name, splits of different classes or
            keypoints, or no image.
        FileExistsError: the folder is not empty.
        OSError: an image cannot be read, or something cannot be written.
    """
    parts: dict[str | None, Dataset] = {}
    parts.update(dataset.items() if isinstance(dataset, Mapping) else [(None, dataset)])
    for name, value, known in (
        ("format", format, tuple(WRITERS)),
        ("images", images, IMAGE_FILES),
        ("shapes", shapes, SHAPES),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}: expected one of {known}")
    _check(parts)
    root, first = Path(folder), next(iter(parts.values()))
    with new_folder(root) as part:
        plan = Plan(
            part,
            tuple(first.class_names),
            getattr(first, "category_ids", None),
            getattr(first, "keypoint_names", None),
            getattr(first, "keypoint_skeleton", None),
            images,
            shapes,
        )
        writer = WRITERS[format](plan)
        counts = _write(parts, writer)
        path = root / writer.finish()
    lost = tuple(f"{count} {what}" for what, count in plan.lost.items())
    return WrittenDataset(path, counts["images"], counts["objects"], lost)


def _check(parts: Mapping[str | None, Dataset]) -> None:
    for split in parts:
        if split is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", split):
            raise ValueError(f"split {split!r}: expected letters, digits, - and _")
    if not any(len(dataset) for dataset in parts.values()):
        raise ValueError("no images to write")
    kinds = {
        (tuple(dataset.class_names), getattr(dataset, "keypoint_names", None))
        for dataset in parts.values()
    }
    for name in [name for names, _ in kinds for name in names]:
        if not name.isprintable():
            raise ValueError(f"class {name!r}: expected a name without control characters")
    if len(kinds) > 1:
        raise ValueError("the splits differ in their classes or keypoints: expected the same")


def _write(parts: Mapping[str | None, Dataset], writer: Writer) -> Counter[str]:
    names, counts, seen = Names(), Counter[str](), set[str]()
    for split, dataset in parts.items():
        for i in range(len(dataset)):
            picture, pixels = _picture(dataset, i, names, writer, (split, i))
            folder = writer.plan.root / writer.folder(split)
            source = picture.source if picture.source is not None else pixels
            needed = pixels is not None or writer.plan.images != "refer" or not writer.REFERS
            if needed and source is not None:
                place_image(source, folder / picture.name, writer.plan.images)
            writer.add(picture, split)
            counts["images"] += picture.name not in seen
            counts["objects"] += len(picture.objects) * (picture.name not in seen)
            seen.add(picture.name)
    writer.lose(
        "images renamed, as names repeat, or hold control characters or no Unicode", names.renamed
    )
    return counts


def _picture(
    dataset: Dataset, index: int, names: Names, writer: Writer, key: Hashable
) -> tuple[Picture, np.ndarray | None]:
    """An image to write, and its pixels if those have to be."""
    items = getattr(dataset, "items", None)
    item = None if items is None else items[index]
    # A format without sizes takes every image for upright.
    if item is None or (not writer.TURNS and not item.upright):
        sample = dataset[index]
        stem = f"{len(names.given) + 1:06}" if item is None else item.path.stem
        name = names.of(key if item is None else item.path, f"{stem}.png")
        writer.lose("images written turned as annotated, as PNG", int(item is not None))
        segmentations = None if item is None else item.segmentations
        objects = objects_of(sample.target, segmentations)
        return Picture(name, sample.image.shape[:2], None, objects), sample.image
    name = names.of(item.path, item.path.name)
    assert hasattr(dataset, "target")  # what has items has it
    objects = objects_of(dataset.target(index), item.segmentations)
    for found, truth in zip(objects, item.truth or (), strict=False):
        found.area = truth.get("area") if found.segmentation is not None else None
    return Picture(name, item.size, item.path, objects, item.upright), None
