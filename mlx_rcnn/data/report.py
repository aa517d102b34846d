"""What is in a dataset: counts, sizes and defects, for reading before training."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..tables import display_width, pad
from .protocols import SizedDataset
from .sample import Defect

_AREAS = (32.0**2, 96.0**2)  # COCO's small, medium and large
_SHOWN = 20


@dataclass(frozen=True)
class DatasetReport:
    """The numbers of :func:`report`; ``str`` gives them as text.

    Args:
        images: how many.
        empty: images without an object.
        objects: by class name, crowds left out.
        crowds, difficult: objects marked so.
        image_sizes: (smallest, median, largest) by area, each (height, width).
        areas: objects that COCO calls small, medium and large, by the area of their box.
        per_image: the most objects of one image.
        defects: what was found wrong.
        keypoint_names: one a keypoint, where the data has keypoints.
        with_keypoints: objects with a visible keypoint, crowds left out.
        keypoints: visible keypoints in all.
    """

    images: int
    empty: int
    objects: dict[str, int]
    crowds: int
    difficult: int
    image_sizes: tuple[tuple[int, int], ...]
    areas: tuple[int, int, int]
    per_image: int
    defects: tuple[Defect, ...]
    keypoint_names: tuple[str, ...] | None = None
    with_keypoints: int = 0
    keypoints: int = 0

    def __str__(self) -> str:
        sizes = [f"{width}x{height}" for height, width in self.image_sizes]
        same = len(set(sizes)) == 1
        lines = [
            f"images   {self.images}, {self.empty} without an object; "
            + (sizes[0] if same else f"{sizes[0]} to {sizes[2]}, median {sizes[1]}"),
            f"objects  {sum(self.objects.values())}, at most {self.per_image} an image; "
            + "{} small, {} medium, {} large".format(*self.areas)
            + (f"; {self.difficult} difficult" if self.difficult else "")
            + (f"; {self.crowds} crowds" if self.crowds else ""),
        ]
        width = max(map(display_width, self.objects), default=0)
        lines += [f"  {pad(name, width)}  {count}" for name, count in self.objects.items()]
        if self.keypoint_names is not None:
            lines.append(
                f"keypoints  {len(self.keypoint_names)} of an object; {self.keypoints} visible, on "
                f"{self.with_keypoints} of {sum(self.objects.values())} objects"
            )
        if not self.defects:
            return "\n".join([*lines, "defects  none"])
        rules = Counter(defect.rule for defect in self.defects)
        counted = ", ".join(f"{count} {rule}" for rule, count in rules.items())
        lines.append(f"defects  {len(self.defects)}: {counted}")
        lines += [f"  {defect}" for defect in self.defects[:_SHOWN]]
        if len(self.defects) > _SHOWN:
            lines.append(f"  ... and {len(self.defects) - _SHOWN} more")
        return "\n".join(lines)


def report(dataset: SizedDataset) -> DatasetReport:
    """Count what is in a dataset.

    Args:
        dataset: of :func:`open_dataset`, or any with ``class_names`` and ``sizes`` whose samples
            have a target (those without a method ``target`` are loaded whole).

    Returns:
        The report.
    """
    counts = np.zeros(len(dataset.class_names), np.int64)
    areas = np.zeros(3, np.int64)
    empty = crowds = difficult = most = having = visible = 0
    target_of = getattr(dataset, "target", None)
    for i in range(len(dataset)):
        target = dataset[i].target if target_of is None else target_of(i)
        crowd = target["iscrowd"].astype(bool)
        boxes = target["boxes"][~crowd].astype(np.float64)
        counts += np.bincount(target["labels"][~crowd], minlength=len(counts))
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        areas += np.bincount(np.searchsorted(_AREAS, area, side="right"), minlength=3)
        crowds += int(crowd.sum())
        difficult += int(target.get("difficult", np.zeros(0)).sum())
        empty += not len(boxes)
        most = max(most, len(boxes))
        if "keypoints" in target:
            seen = (target["keypoints"][~crowd, :, 2] > 0).sum(axis=1)
            having, visible = having + int((seen > 0).sum()), visible + int(seen.sum())
    sizes = dataset.sizes
    order = np.argsort(sizes.prod(axis=1), kind="stable")
    chosen = sizes[order[[0, len(order) // 2, -1]]].tolist() if len(order) else []
    return DatasetReport(
        images=len(dataset),
        empty=empty,
        objects=dict(zip(dataset.class_names[1:], counts[1:].tolist(), strict=True)),
        crowds=crowds,
        difficult=difficult,
        image_sizes=tuple((int(h), int(w)) for h, w in chosen),
        areas=(int(areas[0]), int(areas[1]), int(areas[2])),
        per_image=most,
        defects=tuple(getattr(dataset, "defects", ())),
        keypoint_names=getattr(dataset, "keypoint_names", None),
        with_keypoints=having,
        keypoints=visible,
    )
