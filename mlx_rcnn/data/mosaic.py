"""Four images put together into one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TypedDict

import numpy as np

from ..inputs.images import ImageError
from .augment import ScaleJitterCrop, probability
from .geometry import FILL
from .protocols import SizedDataset
from .sample import Sample, Target

_ROWS = ("boxes", "proposals")  # xyxy, which move with their image


class _Cut(TypedDict):
    """How each of the four is cut: keywords of ``ScaleJitterCrop``."""

    scale: Sequence[float]
    fill: tuple[int, int, int]
    min_visible: float


class Mosaic:
    """A mosaic of four images, as YOLOv4's (Bochkovskiy, Wang and Liao, 2020).

    A point in the middle half of the image divides it. The image itself fills the part above and
    left of it, three others drawn from the data set fill the rest; the result is as large as the
    image. Each is scaled to fit its part and then by a factor drawn from ``scale``, and of what is
    larger a crop is taken, of what is smaller the rest filled up: see
    :class:`~mlx_rcnn.data.ScaleJitterCrop`, also for what becomes of boxes, masks, keypoints and
    proposals that are cut. Objects of which little is left are dropped; crowds, which nothing is
    learned from, are not.

    Args:
        dataset: what the others are drawn from, each as likely, the image itself too; with ``len``
            and indexing that gives a :class:`Sample`. One that cannot be read is passed over.
        p: how often. Default: ``1.0``.
        scale: smallest and largest factor. Default: ``(1.0, 2.0)``, from the whole image to about
            its own size.
        min_visible: objects of which a smaller share is seen, of the mask's pixels or else of the
            box, are dropped. Default: ``0.1``, as YOLOv5's.
        fill: RGB of what is filled up. Default: ImageNet's mean.

    Raises:
        ValueError: a ``p`` or ``min_visible`` outside 0 to 1, or ``scale`` out of order.
    """

    def __init__(
        self,
        dataset: SizedDataset,
        p: float = 1.0,
        scale: Sequence[float] = (1.0, 2.0),
        min_visible: float = 0.1,
        fill: tuple[int, int, int] = FILL,
    ) -> None:
        self.dataset, self.p = dataset, probability(p)
        self.options: _Cut = {"scale": scale, "fill": fill, "min_visible": min_visible}
        ScaleJitterCrop((1, 1), **self.options)  # checks them

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Put four together with probability ``p``; an image of one row or column stays."""
        height, width = image.shape[:2]
        if rng.random() >= self.p or min(height, width) < 2:
            return image, target
        y, x = (int(rng.integers(-(-side // 4), side * 3 // 4 + 1)) for side in (height, width))
        parts = [(0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width)]
        pixels = np.empty_like(image)
        placed: list[Target] = []
        for place, (top, left, bottom, right) in enumerate(parts):
            own, found = self._draw(rng)[:2] if place else (image, target)
            cut = ScaleJitterCrop((bottom - top, right - left), **self.options)
            pixels[top:bottom, left:right], part = cut(own, found, rng)
            placed.append(_moved(part, (top, left), (height, width)))
        return pixels, {name: np.concatenate([part[name] for part in placed]) for name in target}

    def _draw(self, rng: np.random.Generator) -> Sample:
        """An image, or the next one that can be read; the loader names those that cannot."""
        first = int(rng.integers(len(self.dataset)))
        for turn in range(len(self.dataset)):
            with suppress(ImageError, OSError):
                found: Sample = self.dataset[(first + turn) % len(self.dataset)]
                return found
        raise ImageError("no image can be read")


def _moved(target: Target, corner: tuple[int, int], size: tuple[int, int]) -> Target:
    """A target in an image of ``size`` (height, width), at ``corner`` (top, left) of it."""
    top, left = corner
    shift = np.array([left, top] * 2, np.float32)
    out = {name: rows + shift if name in _ROWS else rows for name, rows in target.items()}
    if "masks" in target:
        masks = target["masks"]
        _, height, width = masks.shape
        out["masks"] = np.zeros((len(masks), *size), masks.dtype)
        out["masks"][:, top : top + height, left : left + width] = masks
    if "keypoints" in target:
        points = target["keypoints"]
        seen = points[..., 2:] > 0
        out["keypoints"] = np.where(seen, points + np.append(shift[:2], np.float32(0)), points)
    return out
