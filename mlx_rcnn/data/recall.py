"""How many objects a dataset's proposals cover: the most that a classifier of them can find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..tables import pad
from .protocols import Annotated


@dataclass(frozen=True)
class ProposalRecall:
    """The numbers of :func:`proposal_recall`; ``str`` gives them as a table.

    Args:
        recall (L, I): float64, the share of objects covered by the best ``limits[l]`` proposals of
            their image at an IoU of ``ious[i]`` or more; NaN without objects.
        limits (L,): how many proposals an image.
        ious (I,): the overlaps.
        images, objects: how many were counted.
        per_image: proposals an image, on average.
    """

    recall: np.ndarray
    limits: tuple[int, ...]
    ious: tuple[float, ...]
    images: int
    objects: int
    per_image: float

    def __str__(self) -> str:
        rows = [["proposals", *(f"IoU {iou:g}" for iou in self.ious)]]
        for limit, shares in zip(self.limits, self.recall.tolist(), strict=True):
            rows.append([str(limit), *(f"{share:.3f}" for share in shares)])
        lines = ["  ".join(pad(cell, 9, right=True) for cell in row) for row in rows]
        lines.append(
            f"{self.objects} objects of {self.images} images, {self.per_image:.0f} proposals an "
            "image"
        )
        return "\n".join(lines)


def proposal_recall(
    dataset: Annotated,
    ious: Sequence[float] = (0.5, 0.7, 0.9),
    limits: Sequence[int] = (100, 300, 1000, 2000),
) -> ProposalRecall:
    """The share of annotated objects that proposals cover, as in Uijlings et al. (2013).

    An object is covered if any of its image's first proposals has that IoU with it, whatever else
    that proposal covers. Crowds and objects marked difficult are left out.

    Args:
        dataset: of :func:`with_proposals`; any with a method ``target`` that gives ``boxes``,
            ``iscrowd`` and ``proposals``.
        ious: in (0, 1]. Default: ``(0.5, 0.7, 0.9)``.
        limits: how many of the proposals, the first. Default: ``(100, 300, 1000, 2000)``.

    Returns:
        The table.

    Raises:
        ValueError: a dataset without proposals, or a number out of range.
    """
    if not all(0 < iou <= 1 for iou in ious) or not all(limit >= 1 for limit in limits):
        raise ValueError(f"ious={ious}, limits={limits}: expected 0 < iou <= 1 and at least 1")
    covered = np.zeros((len(limits), len(ious)), np.int64)
    objects = count = 0
    for i in range(len(dataset)):
        target = dataset.target(i)
        if "proposals" not in target:
            raise ValueError(f"image {i} has no proposals: expected a dataset of with_proposals")
        left_out = target["iscrowd"].astype(bool)
        if "difficult" in target:
            left_out |= target["difficult"].astype(bool)
        overlaps = _ious(target["boxes"][~left_out], target["proposals"])
        for row, limit in enumerate(limits):
            best = overlaps[:, :limit].max(axis=1, initial=0)
            covered[row] += (best[:, None] >= np.asarray(ious)).sum(axis=0)
        objects += len(overlaps)
        count += len(target["proposals"])
    with np.errstate(invalid="ignore"):
        recall = covered / np.float64(objects)
    images = len(dataset)
    return ProposalRecall(
        recall, tuple(limits), tuple(ious), images, objects, count / max(images, 1)
    )


def _ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(G, P) float64 of boxes (G, 4) and others (P, 4), all with an area."""
    a, b = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    areas = [(rows[..., 2:] - rows[..., :2]).prod(axis=-1) for rows in (a, b)]
    return np.asarray(shared / (areas[0] + areas[1] - shared))
