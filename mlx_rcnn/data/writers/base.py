"""What writers of all formats share: the objects they write, their images, what is lost."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ...ops.rle import decode_rle, encode_rle
from ..outlines import mask_polygons
from ..polygons import Segmentation, usable_polygons
from ..sample import Target

ImageFiles = Literal["copy", "link", "refer"]
Shapes = Literal["auto", "boxes", "polygons"]
IMAGE_FILES: tuple[ImageFiles, ...] = ("copy", "link", "refer")
SHAPES: tuple[Shapes, ...] = ("auto", "boxes", "polygons")
NO_UNICODE = "backslashreplace"
"""How a path that is no Unicode gets into JSON, whose own escape that is."""
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and no Unicode


@dataclass(slots=True)
class Object:
    """One object to write."""

    # xyxy in pixels, as float64 of the fewest digits that are the same float32
    box: tuple[float, float, float, float]
    label: int  # 1..C-1
    crowd: bool = False
    difficult: bool = False
    # COCO's polygons or RLE
    segmentation: Segmentation | None = None
    keypoints: np.ndarray | None = None  # (K, 3)
    area: float | None = None  # in pixels squared; ``None`` where the data does not say


@dataclass(slots=True)
class Picture:
    """One image to write."""

    name: str  # of its file, unique in the folder; so is its stem
    size: tuple[int, int]  # (height, width)
    source: Path | None  # its file; ``None`` if its pixels are to be written
    objects: list[Object]
    upright: bool = True  # whether its size is that of the file turned by its EXIF orientation

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem


@dataclass
class Plan:
    """What is written, and how."""

    root: Path  # the folder
    class_names: Sequence[str]  # the background first
    category_ids: Sequence[int] | None = None  # the data's own ids of labels 1..C-1
    keypoint_names: Sequence[str] | None = None  # of each object
    skeleton: Sequence[tuple[int, int]] | None = None
    images: ImageFiles = "copy"  # how image files get there
    shapes: Shapes = "auto"  # how objects with an outline are written
    # what the format cannot hold, and how often
    lost: Counter[str] = field(default_factory=Counter)


class Writer:
    """Writes one format as its plan says; a subclass a format."""

    REFERS = False  # whether annotations hold paths, so that no link is needed
    TURNS = True  # whether annotations hold sizes, by which a reader tells which way up they are

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def folder(self, split: str | None) -> Path:
        """Where the images of a split go, relative to the root."""
        return Path("images", split or "")

    def add(self, picture: Picture, split: str | None) -> None:
        """Write the annotations of an image."""
        raise NotImplementedError

    def finish(self) -> str:
        """Write what is left; gives the path to open, relative to the root."""
        raise NotImplementedError

    def lose(self, what: str, count: int = 1) -> None:
        """Count what the format cannot hold."""
        if count:
            self.plan.lost[what] += count

    def without_crowds(self, picture: Picture) -> list[Object]:
        """The objects that are no crowds, of which the format knows nothing."""
        kept = [found for found in picture.objects if not found.crowd]
        self.lose("crowds left out", len(picture.objects) - len(kept))
        return kept

    def outlines(self, found: Object, size: tuple[int, int]) -> list[np.ndarray]:
        """An object's outline as polygons (2 * K,); none where it has none or boxes are wanted."""
        if found.segmentation is None or self.plan.shapes == "boxes":
            self.lose("outlines left out", int(found.segmentation is not None))
            return []
        if isinstance(found.segmentation, Mapping):
            return self.traced(decode_rle(found.segmentation))
        return usable_polygons(found.segmentation)

    def traced(self, mask: np.ndarray) -> list[np.ndarray]:
        """The outline of a mask along its pixels; holes are joined to it, which is said."""
        polygons, holes = mask_polygons(mask)
        self.lose("outlines with holes, which are joined to them by bridges", int(holes > 0))
        return polygons

    def outlined_box(self, found: Object, box: Sequence[float]) -> None:
        """Say where an object's box becomes that of its outline."""
        moved = np.abs(np.asarray(found.box) - np.asarray(box)).max() > 1
        self.lose("boxes become those of their outlines", int(moved))


def objects_of(target: Target, segmentations: Sequence[Segmentation | None] | None) -> list[Object]:
    """The objects of a target, with ``segmentations``, one an object, in place of its masks."""
    count = len(target["boxes"])
    none = np.zeros(count, np.uint8)
    crowd, difficult = target.get("iscrowd", none), target.get("difficult", none)
    if segmentations is None and "masks" in target:
        segmentations = [encode_rle(mask) if mask.any() else None for mask in target["masks"]]
    found = []
    for i in range(count):
        x1, y1, x2, y2 = (short(v) for v in target["boxes"][i])
        points = target["keypoints"][i] if "keypoints" in target else None
        segmentation = None if segmentations is None else segmentations[i]
        label = int(target["labels"][i])
        marks = bool(crowd[i]), bool(difficult[i])
        found.append(Object((x1, y1, x2, y2), label, *marks, segmentation, points))
    return found


def short(value: float) -> float:
    """The number of the fewest digits that is the same in float32: 10.1, not 10.10000038."""
    return float(str(np.float32(value)))


def digits(value: float) -> str:
    """A number as text, without more digits than it needs; whole numbers without a point."""
    return f"{value:.10g}"


class Names:
    """File names that differ in their stems, whatever their case; one an image in all splits."""

    def __init__(self) -> None:
        self.given: dict[Hashable, str] = {}
        self.taken: set[str] = set()
        self.renamed = 0

    def of(self, key: Hashable, wanted: str) -> str:
        """The ``wanted`` name of image ``key``, or with ``_2``, ``_3``, ... behind the stem."""
        if key in self.given:
            return self.given[key]
        clean = Path(_UNUSABLE.sub("_", wanted).strip() or "image")
        name, number = clean.name, 2
        while Path(name).stem.casefold() in self.taken:
            name, number = f"{clean.stem}_{number}{clean.suffix}", number + 1
        self.renamed += name != wanted
        self.taken.add(Path(name).stem.casefold())
        self.given[key] = name
        return name


def place_image(source: Path | np.ndarray, path: Path, how: ImageFiles) -> None:
    """Put a file, or (H, W, 3) pixels as PNG, where it belongs unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(source, Path):
        Image.fromarray(source).save(path, format="PNG")
    elif how == "copy":
        shutil.copyfile(source, path)
    elif how == "refer":  # a symbolic link
        os.symlink(source.resolve(), path)
    else:
        try:
            os.link(source.resolve(), path)  # a hard link, which another disk does not take
        except OSError as error:
            other = ", which is on another disk" if error.errno == errno.EXDEV else ""
            raise OSError(
                f"cannot hard-link {source}{other}: {error.strerror}; copy it in place"
            ) from error
