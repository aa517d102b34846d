"""Made-up pictures of shapes with exact masks and keypoints, for first steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..config.categories import BACKGROUND
from .geometry import mask_boxes
from .sample import Sample, Target

SHAPES = ("circle", "square", "triangle")
KEYPOINTS = ("centre", "left", "right", "top", "bottom")
SKELETON = ((0, 1), (0, 2), (0, 3), (0, 4))
# From the centre in radii, where the edge is met; the left and right of a triangle are its corners.
_OFFSETS = {
    1: ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)),
    2: ((0, 0), (-0.85, 0), (0.85, 0), (0, -0.85), (0, 0.85)),
    3: ((0, 0), (-1, 1), (1, 1), (0, -1), (0, 1)),
}
_LEAST = 0.25  # of a shape's own area must stay visible


class ShapesDataset:
    """Images of coloured shapes on a noisy ground; the same index gives the same image for ever.

    A pixel belongs to a shape if its centre lies inside; later shapes cover earlier ones, but never
    most of one. Masks are what is visible, boxes their tight bounds; keypoints are the centre and
    where the edge is met, of visibility 1 where another shape lies over them and else 2.

    Args:
        length: how many images.
        size: (height, width) in pixels. Default: ``(128, 160)``.
        seed: other seeds give other images. Default: ``0``.
        max_objects: 1 to this many shapes are placed. Default: ``4``.
        masks: whether samples carry masks. Default: ``True``.
        keypoints: whether samples carry the keypoints ``KEYPOINTS``. Default: ``False``.
    """

    class_names = (BACKGROUND, *SHAPES)
    category_ids = None

    def __init__(
        self,
        length: int,
        size: tuple[int, int] = (128, 160),
        *,
        seed: int = 0,
        max_objects: int = 4,
        masks: bool = True,
        keypoints: bool = False,
    ) -> None:
        if length < 1 or max_objects < 1:
            raise ValueError(f"length={length}, max_objects={max_objects}: expected at least 1")
        if min(size) < 16:
            raise ValueError(f"size={size}: expected sides of at least 16 pixels")
        self.length, self.size, self.seed = length, (int(size[0]), int(size[1])), seed
        self.max_objects, self.masks = max_objects, masks
        self.keypoint_names = KEYPOINTS if keypoints else None
        self.keypoint_skeleton = SKELETON if keypoints else None

    def __len__(self) -> int:
        return self.length

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2) int64: height and width of every image."""
        return np.tile(np.array(self.size, np.int64), (self.length, 1))

    def __getitem__(self, index: int) -> Sample:
        """Draw one image.

        Args:
            index: 0 to ``len(self) - 1``.

        Returns:
            The sample.

        Raises:
            IndexError: no such index.
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index {index}: expected 0 to {self.length - 1}")
        rng = np.random.default_rng([self.seed, index])
        height, width = self.size
        image = rng.integers(90, 166, 3) + rng.normal(0, 8, (height, width, 3))
        placed: list[_Shape] = []
        for _ in range(int(rng.integers(1, self.max_objects + 1))):
            label = int(rng.integers(1, len(SHAPES) + 1))
            mask, points = _draw(rng, label, height, width)
            colour = rng.choice([0, 255], 3) * rng.uniform(0.6, 1.0) + rng.uniform(0, 40)
            if not all((s.mask & ~mask).sum() >= _LEAST * s.area for s in placed):
                continue  # it would hide another
            placed = [_under(shape, mask) for shape in placed]
            placed.append(_Shape(label, mask, int(mask.sum()), points))
            image[mask] = colour + rng.normal(0, 8, (int(mask.sum()), 3))
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return Sample(pixels, self._target(placed), index, f"shapes {self.seed}/{index}")

    def _target(self, placed: list[_Shape]) -> Target:
        masks = np.array([shape.mask for shape in placed], np.uint8).reshape(-1, *self.size)
        target = {
            "boxes": mask_boxes(masks),
            "labels": np.array([shape.label for shape in placed], np.int32),
            "iscrowd": np.zeros(len(placed), np.uint8),
        }
        if self.keypoint_names:
            points = np.array([shape.points for shape in placed], np.float32)
            target["keypoints"] = points.reshape(-1, len(KEYPOINTS), 3)
        return {**target, "masks": masks} if self.masks else target


class _Shape(NamedTuple):
    """``mask`` (H, W) bool of what is visible, ``area`` in pixels of all, ``points`` (K, 3)."""

    label: int
    mask: np.ndarray
    area: int
    points: np.ndarray


def _under(shape: _Shape, mask: np.ndarray) -> _Shape:
    """What is left of a shape below a new one."""
    height, width = mask.shape
    points = shape.points.copy()
    columns = np.clip(points[:, 0].astype(int), 0, width - 1)
    rows = np.clip(points[:, 1].astype(int), 0, height - 1)
    points[mask[rows, columns], 2] = 1
    return shape._replace(mask=shape.mask & ~mask, points=points)


def _draw(
    rng: np.random.Generator, label: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mask (H, W) bool and keypoints (K, 3) of a shape at a random place inside the image."""
    radius = rng.uniform(0.12, 0.3) * min(height, width)
    x = rng.uniform(radius, width - radius)
    y = rng.uniform(radius, height - radius)
    points = np.full((len(KEYPOINTS), 3), 2.0)
    points[:, :2] = np.array([x, y]) + radius * np.array(_OFFSETS[label])
    columns, rows = np.arange(width) + 0.5 - x, (np.arange(height) + 0.5 - y)[:, None]
    if label == 1:
        return np.asarray(columns**2 + rows**2 <= radius**2), points
    if label == 2:
        return np.asarray(np.maximum(np.abs(columns), np.abs(rows)) <= radius * 0.85), points
    # Apex on top: at height t from 0 to 1 below it, half of t times the base.
    t = (rows + radius) / (2 * radius)
    return np.asarray((t >= 0) & (t <= 1) & (np.abs(columns) <= radius * t)), points
