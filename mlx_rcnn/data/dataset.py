"""The dataset that annotations of every format become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..inputs.image_files import load_image_file
from ..inputs.images import ImageError
from ..structures import Entry
from .annotations import coco_annotations
from .items import Item
from .polygons import segmentation_mask
from .sample import DatasetError, Defect, Sample, Target


@dataclass(frozen=True)
class DetectionDataset:
    """Images on disk with checked annotations; safe to index from several threads.

    Args:
        items: one an image.
        class_names: by label, the background first.
        category_ids: the dataset's own id of labels 1..C-1 (COCO and
            YOLO; -1 for a class it lacks).
        defects: what was found wrong, and done about it.
        format: ``"voc"``, ``"coco"``, ``"yolo"``, ``"labelme"`` or ``"cvat"``.
        masks: whether samples carry masks.
        splits: the splits that the source has.
        keypoint_names: one a keypoint, where samples carry keypoints.
        keypoint_skeleton: pairs of keypoints to join when drawn, counted from 0, if it is known.
        levels: of images of more than 8 bits, as :func:`~mlx_rcnn.load_image` takes them.
    """

    items: Sequence[Item]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] | None = None
    defects: tuple[Defect, ...] = ()
    format: str = "voc"
    masks: bool = False
    splits: tuple[str, ...] = ()
    keypoint_names: tuple[str, ...] | None = None
    keypoint_skeleton: tuple[tuple[int, int], ...] | None = None
    levels: str | None = None
    # Labels of `items` to labels of `class_names`; 0 for classes that no object has.
    _labels: np.ndarray | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Load one image with its objects.

        Args:
            index: 0 to ``len(self) - 1``.

        Returns:
            The sample; ``target`` has ``iscrowd`` and ``difficult``, and ``masks``,
            ``keypoints`` and ``proposals`` if asked for.

        Raises:
            IndexError: no such index.
            ImageError: the file is damaged, or no longer of the size found before.
        """
        item = self.items[index]
        image = load_pixels(item.path, item.upright, self.levels)
        if image.shape[:2] != item.size:
            height, width = image.shape[:2]
            raise ImageError(
                f"{item.path} is {width}x{height}, expected {item.size[1]}x{item.size[0]}"
            )
        target = self.target(index)
        if self.masks:
            segmentations = item.segmentations or []
            masks = [segmentation_mask(s, *item.size) for s in segmentations]
            target["masks"] = np.array(masks, np.uint8).reshape(len(masks), *item.size)
        return Sample(image, target, item.image_id, item.name)

    def target(self, index: int) -> Target:
        """The objects of one image without masks, and without loading it.

        Args:
            index: 0 to ``len(self) - 1``.

        Returns:
            ``boxes``, ``labels``, ``iscrowd``, ``difficult`` and perhaps ``keypoints`` and
            ``proposals``, see :class:`Sample`.
        """
        target = {name: rows.copy() for name, rows in self.items[index].target.items()}
        if self._labels is not None:
            target["labels"] = self._labels[target["labels"]]
        proposals = self.items[index].proposals
        if proposals is not None:
            target["proposals"] = proposals.copy()
        return target

    def ground_truth(self, index: int) -> list[Entry]:
        """The objects of one image as an evaluator of COCO results takes them.

        COCO annotations come back as they are in the file, those included that training drops, so
        that the metrics are those of pycocotools on that file.

        Args:
            index: 0 to ``len(self) - 1``.

        Returns:
            Dicts of ``category_id`` (the label), ``bbox`` [x, y, width, height], ``area``,
            ``iscrowd``, ``difficult`` and, with masks, ``segmentation``, with keypoints
            ``keypoints`` (3 * K numbers) and ``num_keypoints``.
        """
        item = self.items[index]
        if item.truth is None:
            return coco_annotations(self.target(index))
        truth = []
        for entry in item.truth:
            label = entry["category_id"]
            if self._labels is not None:
                label = int(self._labels[label])
            if label:
                truth.append({**entry, "category_id": label})
        return truth

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2) int64: height and width of every image, in pixels."""
        return np.array([item.size for item in self.items], np.int64).reshape(-1, 2)

    def with_classes(self, class_names: Sequence[str]) -> DetectionDataset:
        """The same data with the labels of a model.

        Args:
            class_names: the model's, by label, the background first.

        Returns:
            A dataset whose labels are indices of ``class_names``.

        Raises:
            ValueError: objects of a class that ``class_names`` lacks.
        """
        known: dict[str, int] = {}
        for label, name in enumerate(class_names):
            if label:
                known.setdefault(name, label)
        lookup = np.array([0, *(known.get(name, 0) for name in self.class_names[1:])], np.int32)
        counts = np.zeros(len(lookup), np.int64)
        for i in range(len(self)):
            counts += np.bincount(self.target(i)["labels"], minlength=len(lookup))
        lacking = [
            f"{self.class_names[label]!r} ({counts[label]})"
            for label in range(1, len(lookup))
            if counts[label] and not lookup[label]
        ]
        if lacking:
            raise ValueError(
                f"the data has classes that the model lacks (objects): {', '.join(lacking)}; "
                f"the model has {', '.join(list(known)[:20])}{', ...' * (len(known) > 20)}"
            )
        ids = None
        if self.category_ids is not None:
            own = {int(new): self.category_ids[old - 1] for old, new in enumerate(lookup) if new}
            ids = tuple(own.get(label, -1) for label in range(1, len(class_names)))
        chained = lookup if self._labels is None else lookup[self._labels]
        return replace(self, class_names=tuple(class_names), category_ids=ids, _labels=chained)

    def with_levels(self, levels: str | None) -> DetectionDataset:
        """The same data, its images of more than 8 bits read by other levels.

        Args:
            levels: of :func:`~mlx_rcnn.load_image`; with ``None`` images whose values have no rule
                of their own, such as floats below 0, are left out and listed in ``defects``.

        Returns:
            The dataset.
        """
        if levels is not None:
            return replace(self, levels=levels)
        lacking = [item.needs_levels for item in self.items if item.needs_levels]
        items = [item for item in self.items if not item.needs_levels]
        defects = (*self.defects, *lacking)
        return replace(self, items=items, defects=defects, levels=None)

    def strict(self) -> DetectionDataset:
        """The dataset itself, if nothing is wrong with it.

        Returns:
            ``self``.

        Raises:
            DatasetError: there are defects; all are listed.
        """
        if self.defects:
            raise DatasetError(self.defects)
        return self


def load_pixels(path: Path, upright: bool = True, levels: str | None = None) -> np.ndarray:
    """The pixels of an image as samples have them: (H, W, 3) uint8, RGB."""
    image = load_image_file(path, upright, levels)
    if image.dtype != np.uint8:
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return image
