"""What a dataset gives: a sample, and the defects found in its annotations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Target = dict[str, np.ndarray]


class Sample(NamedTuple):
    """One image with its objects.

    ``target`` holds ``boxes`` (G, 4) float32 xyxy in pixels of ``image``, ``labels`` (G,) int32 in
    1..C-1, ``iscrowd`` (G,) uint8, and where the data has them ``difficult`` (G,) uint8,
    ``masks`` (G, H, W) uint8 of 0 and 1, and ``keypoints`` (G, K, 3) float32 of x, y in the same
    pixels and a visibility: 0 none, then x and y are 0, 1 hidden, 2 seen. G may be 0.
    ``proposals`` (P, 4) float32, boxes in the same pixels where objects may be, has rows of its own
    (see :func:`~mlx_rcnn.data.with_proposals`).

    Args:
        image (H, W, 3): uint8, RGB.
        target: the arrays above.
        image_id: the dataset's own id of the image.
        name: what to call the image in messages, usually its path.
    """

    image: np.ndarray
    target: Target
    image_id: int | str
    name: str


class Defect(NamedTuple):
    """Something wrong in a dataset, and what was done about it.

    Args:
        where: the file, and the object in it if it is about one.
        problem: what is wrong.
        rule: what was done: ``"image dropped"``, ``"object dropped"``, ``"box clipped"``,
            ``"keypoints dropped"`` (the object stays) or ``"edge dropped"`` (of a skeleton).
    """

    where: str
    problem: str
    rule: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem} ({self.rule})"


class DatasetError(ValueError):
    """A dataset with defects, where none are accepted; the message lists them all.

    Args:
        defects: what was found, at least one.
    """

    def __init__(self, defects: tuple[Defect, ...]) -> None:
        lines = "\n".join(f"  {defect}" for defect in defects)
        super().__init__(f"{len(defects)} defect{'s' * (len(defects) > 1)}:\n{lines}")
        self.defects = defects


def select(target: Target, keep: np.ndarray) -> Target:
    """A target's rows that ``keep``, (K,) indices or a (G,) mask, chooses; ``proposals`` stay."""
    return {name: rows if name == "proposals" else rows[keep] for name, rows in target.items()}
