"""``predict --save``: detections as annotations that other tools open, as rows, and as pictures."""

from __future__ import annotations

import argparse
import csv
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...data.dataset import DetectionDataset
from ...data.items import Item
from ...data.writers.write import WRITERS, write_dataset
from ...files import replacing
from ...messages import nearest, one_line
from ...outputs.pictures import picture_file, picture_stem, write_file
from ..errors import CommandError
from ..sharing.unfinished import Unfinished
from .choice import SHOWN_SCORE

if TYPE_CHECKING:
    from ...models import Detector
    from ...structures import Entry
    from ..pages import Source

CSV, CROPS = "csv", "crops"
KINDS = (*WRITERS, CSV, CROPS)
COLUMNS = ("image", "label", "name", "score", "x1", "y1", "x2", "y2")
_UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*]')


def chosen_kinds(args: argparse.Namespace) -> tuple[str, ...]:
    """What ``--save`` names; a CommandError for an unknown kind."""
    kinds = tuple(part.strip() for part in (args.save or "").split(",") if part.strip())
    for kind in kinds:
        if kind not in KINDS:
            raise CommandError(
                f"--save {kind}: expected some of {', '.join(KINDS)}{nearest(kind, KINDS)}"
            )
    if args.confidence is not None and not kinds:
        raise CommandError("--confidence goes with --save")
    return kinds


def check_room(
    args: argparse.Namespace, kinds: Sequence[str], unfinished: Unfinished | None = None
) -> None:
    """Check that the folders of ``--save`` are empty, or empty those of an unfinished run."""
    written = set() if unfinished is None else unfinished.written
    for kind in kinds:
        folder = Path(args.out) / kind
        if kind == CSV or not folder.exists() or not any(folder.iterdir()):
            continue
        if unfinished is not None and kind == CROPS:  # one by one, as the images are done
            continue
        if unfinished is None or kind not in written or unfinished.older_than(folder):
            raise CommandError(
                f"--save {kind}: {folder} is not empty: remove it or give another --out"
            )
    if unfinished is not None and written:
        for kind in written:
            shutil.rmtree(Path(args.out) / kind, ignore_errors=True)
        unfinished.note(())


class Saver:
    """Collects what is found, image after image, and writes it at the end."""

    def __init__(self, args: argparse.Namespace, kinds: Sequence[str], model: Detector) -> None:
        self.kinds, self.out = tuple(kinds), Path(args.out)
        self.least = SHOWN_SCORE if args.confidence is None else args.confidence
        self.names = model.class_names
        self.keypoints = getattr(model, "keypoint_names", None)
        self.skeleton = getattr(model, "keypoint_skeleton", None)
        self._items: list[Item] = []
        self._rows: list[tuple[object, ...]] = []
        self._masks = getattr(model, "needs_masks", False)
        self.formats = [kind for kind in self.kinds if kind in WRITERS]
        if self.formats and self.names is None:
            kind = self.formats[0]
            raise CommandError(
                f"--save {kind}: the model has no class names: give --set class_names=FILE"
            )

    def add(
        self,
        path: Path,
        image_id: int | str,
        size: tuple[int, int],
        entries: Sequence[Entry],
    ) -> None:
        """Keep the ``coco_results`` of an image of ``size`` (height, width)."""
        if not self.kinds:
            return
        kept, boxes = self._kept(entries)
        if CSV in self.kinds:
            for entry, box in zip(kept, boxes.tolist(), strict=True):
                label = entry["category_id"]
                row = (path, label, self._name(label), entry["score"], *(round(v, 4) for v in box))
                self._rows.append(row)
        if self.formats:
            self._items.append(_item(path, image_id, size, kept, boxes, self._masks))

    def _kept(self, entries: Sequence[Entry]) -> tuple[list[Entry], np.ndarray]:
        """Entries that score enough, and their boxes (D, 4) xyxy."""
        kept = [entry for entry in entries if entry["score"] >= self.least]
        boxes = np.array([entry["bbox"] for entry in kept], np.float64).reshape(-1, 4)
        return kept, np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    def _name(self, label: int) -> str:
        return self.names[label] if self.names else f"class {label}"

    def crops(self, image: Source, entries: Sequence[Entry]) -> list[bytes]:
        """The part of an image (H, W, 3) in each box, as files, if they are asked for."""
        if CROPS not in self.kinds:
            return []
        height, width = image.shape[:2]
        files = []
        for box in self._kept(entries)[1]:
            left, top = np.clip(np.floor(box[:2]), 0, [width - 1, height - 1]).astype(int)
            least = [left + 1, top + 1]
            right, bottom = np.clip(np.ceil(box[2:]), least, [width, height]).astype(int)
            part = image[top:bottom, left:right]
            part = part if part.dtype == np.uint8 else np.rint(part * 255).astype(np.uint8)
            files.append(picture_file(Image.fromarray(part), ".png"))
        return files

    def write_crops(self, path: Path, entries: Sequence[Entry], files: Sequence[bytes]) -> None:
        """Write what :meth:`crops` gave."""
        for n, (entry, file) in enumerate(zip(self._kept(entries)[0], files, strict=False), 1):
            name = _UNSAFE.sub("_", self._name(entry["category_id"]))
            target = self.out / CROPS / name / f"{picture_stem(path)}_{n}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, file)

    def write(self) -> list[str]:
        """Write all, and give a line of each, and of what a format could not hold."""
        lines = []
        try:
            for kind in self.kinds:
                if kind == CSV:
                    lines.append(f"{CSV}: {self._table()}")
                elif kind == CROPS:
                    lines.append(f"{CROPS}: {self.out / CROPS}")
                else:
                    written = write_dataset(self._dataset(), self.out / kind, kind)
                    lines.append(f"{kind}: {written}")
        except (OSError, ValueError) as error:
            raise CommandError(f"--save: {one_line(error)}", 1) from error
        return lines

    def _table(self) -> Path:
        path = self.out / "detections.csv"
        with (
            replacing(path) as part,
            part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(self._rows)
        return path

    def _dataset(self) -> DetectionDataset:
        assert self.names is not None  # as a format of data sets is asked for
        return DetectionDataset(
            self._items,
            self.names,
            masks=self._masks,
            keypoint_names=self.keypoints,
            keypoint_skeleton=self.skeleton,
        )


def _item(
    path: Path,
    image_id: int | str,
    size: tuple[int, int],
    kept: Sequence[Entry],
    boxes: np.ndarray,
    masks: bool,
) -> Item:
    height, width = size
    boxes = np.clip(boxes, 0, [width, height] * 2)
    whole = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
    kept = [kept[i] for i in whole.tolist()]
    count = len(kept)
    target: dict[str, np.ndarray] = {
        "boxes": boxes[whole].astype(np.float32),
        "labels": np.array([entry["category_id"] for entry in kept], np.int32),
        "iscrowd": np.zeros(count, bool),
        "difficult": np.zeros(count, bool),
    }
    if kept and "keypoints" in kept[0]:
        points = np.array([entry["keypoints"] for entry in kept], np.float32)
        target["keypoints"] = points.reshape(count, -1, 3)
    segmentations = [entry["segmentation"] for entry in kept] if masks else None
    return Item(path, image_id, path.name, (height, width), target, segmentations=segmentations)
