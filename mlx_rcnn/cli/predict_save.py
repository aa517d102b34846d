"""``predict --save``: detections as annotations that other tools open, as rows, and as pictures."""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.dataset import DetectionDataset
from ..data.items import Item
from ..data.writers.write import WRITERS, write_dataset
from ..files import replacing
from ..messages import nearest, one_line
from ..outputs.pictures import picture_stem, write_picture
from .errors import CommandError
from .predict_choice import SHOWN_SCORE

CSV, CROPS = "csv", "crops"
KINDS = (*WRITERS, CSV, CROPS)
COLUMNS = ("image", "label", "name", "score", "x1", "y1", "x2", "y2")
_UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*]')


def chosen_kinds(args: argparse.Namespace) -> tuple[str, ...]:
    """What ``--save`` names.

    Raises:
        CommandError: an unknown kind, or a folder that holds something already.
    """
    kinds = tuple(part.strip() for part in (args.save or "").split(",") if part.strip())
    for kind in kinds:
        if kind not in KINDS:
            raise CommandError(
                f"--save {kind}: expected some of {', '.join(KINDS)}{nearest(kind, KINDS)}"
            )
        folder = Path(args.out) / kind
        if kind != CSV and folder.exists() and any(folder.iterdir()):
            raise CommandError(
                f"--save {kind}: {folder} is not empty: remove it or give another --out"
            )
    if args.confidence is not None and not kinds:
        raise CommandError("--confidence goes with --save")
    return kinds


class Saver:
    """Collects what is found, image after image, and writes it at the end.

    Args:
        args: the parsed command line, its ``out`` and ``confidence``.
        kinds: of :func:`chosen_kinds`.
        model: its names.

    Raises:
        CommandError: annotations of a model without class names.
    """

    def __init__(self, args: argparse.Namespace, kinds: Sequence[str], model: Any) -> None:
        self.kinds, self.out = tuple(kinds), Path(args.out)
        self.least = SHOWN_SCORE if args.confidence is None else args.confidence
        self.names = model.class_names
        self.keypoints = getattr(model, "keypoint_names", None)
        self.skeleton = getattr(model, "keypoint_skeleton", None)
        self._items: list[Item] = []
        self._rows: list[tuple[Any, ...]] = []
        self._masks = getattr(model, "needs_masks", False)
        formats = [kind for kind in self.kinds if kind in WRITERS]
        if formats and self.names is None:
            raise CommandError(
                f"--save {formats[0]}: the model has no class names: give --set class_names=FILE"
            )

    def add(
        self,
        path: Path,
        image_id: int | str,
        image: np.ndarray,
        entries: Sequence[Mapping[str, Any]],
    ) -> None:
        """Keep what was found in an image.

        Args:
            path, image_id: of the image.
            image (H, W, 3): its pixels, for crops.
            entries: of :func:`~mlx_rcnn.outputs.coco.coco_results`.
        """
        if not self.kinds:
            return
        kept = [entry for entry in entries if entry["score"] >= self.least]
        boxes = np.array([entry["bbox"] for entry in kept], np.float64).reshape(-1, 4)
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        if CSV in self.kinds:
            for entry, box in zip(kept, boxes.tolist(), strict=True):
                label = entry["category_id"]
                row = (path, label, self._name(label), entry["score"], *(round(v, 4) for v in box))
                self._rows.append(row)
        if CROPS in self.kinds:
            self._crop(path, image, kept, boxes)
        if set(self.kinds) & set(WRITERS):
            self._items.append(_item(path, image_id, image, kept, boxes, self._masks))

    def _name(self, label: int) -> str:
        return self.names[label] if self.names else f"class {label}"

    def _crop(
        self, path: Path, image: np.ndarray, kept: Sequence[Mapping[str, Any]], boxes: np.ndarray
    ) -> None:
        height, width = image.shape[:2]
        for n, (entry, box) in enumerate(zip(kept, boxes, strict=True), 1):
            left, top = np.clip(np.floor(box[:2]), 0, [width - 1, height - 1]).astype(int)
            least = [left + 1, top + 1]
            right, bottom = np.clip(np.ceil(box[2:]), least, [width, height]).astype(int)
            name = _UNSAFE.sub("_", self._name(entry["category_id"]))
            target = self.out / CROPS / name / f"{picture_stem(path)}_{n}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            part = image[top:bottom, left:right]
            part = part if part.dtype == np.uint8 else np.rint(part * 255).astype(np.uint8)
            write_picture(target, Image.fromarray(part))

    def write(self) -> list[str]:
        """Write all of it.

        Returns:
            A line of what was written each, and of what a format could not hold.

        Raises:
            CommandError: it cannot be written.
        """
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
        with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(self._rows)
        return path

    def _dataset(self) -> DetectionDataset:
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
    image: np.ndarray,
    kept: Sequence[Mapping[str, Any]],
    boxes: np.ndarray,
    masks: bool,
) -> Item:
    height, width = image.shape[:2]
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
