"""Made-up pictures of circles, squares and triangles with exact masks, for first steps."""

from __future__ import annotations

import numpy as np

from .sample import BACKGROUND, Sample, Target

SHAPES = ("circle", "square", "triangle")
_LEAST = 0.25  # of a shape's own area must stay visible


class ShapesDataset:
    """Images of coloured shapes on a noisy ground; the same index gives the same image for ever.

    A pixel belongs to a shape if its centre lies inside; later shapes cover earlier ones, but never
    most of one. Masks are what is visible, boxes their tight bounds.

    Args:
        length: how many images.
        size: (height, width) in pixels. Default: ``(128, 160)``.
        seed: other seeds give other images. Default: ``0``.
        max_objects: 1 to this many shapes are placed. Default: ``4``.
        masks: whether samples carry masks. Default: ``True``.
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
    ) -> None:
        if length < 1 or max_objects < 1:
            raise ValueError(f"length={length}, max_objects={max_objects}: expected at least 1")
        if min(size) < 16:
            raise ValueError(f"size={size}: expected sides of at least 16 pixels")
        self.length, self.size, self.seed = length, (int(size[0]), int(size[1])), seed
        self.max_objects, self.masks = max_objects, masks

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
        placed: list[tuple[int, np.ndarray, int]] = []
        for _ in range(int(rng.integers(1, self.max_objects + 1))):
            label = int(rng.integers(1, len(SHAPES) + 1))
            mask = _draw(rng, label, height, width)
            colour = rng.choice([0, 255], 3) * rng.uniform(0.6, 1.0) + rng.uniform(0, 40)
            left = [(m & ~mask).sum() >= _LEAST * area for _, m, area in placed]
            if not all(left):  # it would hide another
                continue
            placed = [(other, m & ~mask, area) for other, m, area in placed]
            placed.append((label, mask, int(mask.sum())))
            image[mask] = colour + rng.normal(0, 8, (int(mask.sum()), 3))
        pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return Sample(pixels, self._target(placed), index, f"shapes {self.seed}/{index}")

    def _target(self, placed: list[tuple[int, np.ndarray, int]]) -> Target:
        masks = np.array([mask for _, mask, _ in placed], np.uint8).reshape(-1, *self.size)
        target = {
            "boxes": mask_boxes(masks),
            "labels": np.array([label for label, _, _ in placed], np.int32),
            "iscrowd": np.zeros(len(placed), np.uint8),
        }
        return {**target, "masks": masks} if self.masks else target


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """Tight boxes around masks.

    Args:
        masks (G, H, W): zero outside.

    Returns:
        (G, 4) float32 xyxy, the far edges past the last pixel; zeros for an empty mask.
    """
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size:
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _draw(rng: np.random.Generator, label: int, height: int, width: int) -> np.ndarray:
    """(H, W) bool: one shape at a random place, wholly inside the image."""
    radius = rng.uniform(0.12, 0.3) * min(height, width)
    x = rng.uniform(radius, width - radius)
    y = rng.uniform(radius, height - radius)
    columns, rows = np.arange(width) + 0.5 - x, (np.arange(height) + 0.5 - y)[:, None]
    if label == 1:
        return np.asarray(columns**2 + rows**2 <= radius**2)
    if label == 2:
        return np.asarray(np.maximum(np.abs(columns), np.abs(rows)) <= radius * 0.85)
    # Apex on top: at height t from 0 to 1 below it, half of t times the base.
    t = (rows + radius) / (2 * radius)
    return np.asarray((t >= 0) & (t <= 1) & (np.abs(columns) <= radius * t))
