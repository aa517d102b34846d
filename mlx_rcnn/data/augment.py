"""Random changes to an image, which its boxes and masks follow.

Each is a callable ``(image, target, rng) -> (image, target)``; arguments are never changed in
place, and the same generator state gives the same result. Sizes and coordinates are in pixels, x
to the right and y down; a box's edges lie between pixels: flipping a width W maps x to W - x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from .sample import Target, select
from .shapes import mask_boxes

Augmentation = Callable[[np.ndarray, Target, np.random.Generator], tuple[np.ndarray, Target]]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow and torchvision
_FILL = (124, 116, 104)  # ImageNet's mean: normalised, it is close to the zeros of padding


class Compose:
    """One change after the other.

    Args:
        steps: the changes, first to last.
    """

    def __init__(self, steps: Sequence[Augmentation]) -> None:
        self.steps = tuple(steps)

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Apply all steps."""
        for step in self.steps:
            image, target = step(image, target, rng)
        return image, target


class HorizontalFlip:
    """Mirror left and right.

    Args:
        p: how often. Default: ``0.5``.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _probability(p)

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Flip with probability ``p``."""
        if rng.random() >= self.p:
            return image, target
        width = np.float32(image.shape[1])
        boxes = target["boxes"]
        left, right = width - boxes[:, 2], width - boxes[:, 0]
        flipped = np.stack([left, boxes[:, 1], right, boxes[:, 3]], 1)
        out = {**target, "boxes": flipped}
        if "masks" in target:
            out["masks"] = np.ascontiguousarray(target["masks"][:, :, ::-1])
        return np.ascontiguousarray(image[:, ::-1]), out


class VerticalFlip:
    """Mirror top and bottom.

    Args:
        p: how often. Default: ``0.5``.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _probability(p)

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Flip with probability ``p``."""
        if rng.random() >= self.p:
            return image, target
        height = np.float32(image.shape[0])
        boxes = target["boxes"]
        top, bottom = height - boxes[:, 3], height - boxes[:, 1]
        flipped = np.stack([boxes[:, 0], top, boxes[:, 2], bottom], 1)
        out = {**target, "boxes": flipped}
        if "masks" in target:
            out["masks"] = np.ascontiguousarray(target["masks"][:, ::-1])
        return np.ascontiguousarray(image[::-1]), out


class RandomShortSide:
    """Scale so that the short side is one of ``sizes``, as detectron2's ``ResizeShortestEdge``.

    A detector resizes what it is given to its own ``min_size``: give it several of those
    (``min_size=(320, 384, 448)``), or use this with a step after it that needs pixels.

    Args:
        sizes: short sides in pixels, one drawn an image.
        max_size: the long side is at most this. Default: ``1333``.
    """

    def __init__(self, sizes: Sequence[int], max_size: int = 1333) -> None:
        if not sizes or min(sizes) < 1 or max_size < 1:
            raise ValueError(f"sizes={sizes}, max_size={max_size}: expected at least 1 pixel")
        self.sizes, self.max_size = tuple(sizes), max_size

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Scale to a size drawn."""
        short, long = sorted(image.shape[:2])
        scale = min(int(rng.choice(self.sizes)) / short, self.max_size / long)
        return resize(image, target, _scaled(image, scale))


class ScaleJitterCrop:
    """Large-scale jitter (Ghiasi et al., 2021): scale at random, then a crop of a fixed size.

    The image is scaled to fit ``size`` and then by a factor drawn from ``scale``; a crop of at most
    ``size`` is taken at random, and what is smaller is filled up at the right and the bottom, since
    a detector would enlarge it again. As torchvision's ScaleJitter and FixedSizeCrop.

    Objects that the crop does not hold are dropped; with masks, boxes are those of what is left of
    the mask.

    Args:
        size: (height, width) of the result. Default: the image's own.
        scale: smallest and largest factor. Default: ``(0.1, 2.0)``.
        fill: RGB of what is filled up. Default: ImageNet's mean.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        scale: Sequence[float] = (0.1, 2.0),
        fill: tuple[int, int, int] = _FILL,
    ) -> None:
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size={size}: expected (height, width) of at least 1 pixel")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={scale}: expected 0 < smallest <= largest")
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.scale, self.fill = (float(scale[0]), float(scale[1])), fill

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Scale, crop and fill up."""
        size = self.size or image.shape[:2]
        fit = min(size[0] / image.shape[0], size[1] / image.shape[1])
        factor = fit * float(rng.uniform(*self.scale))
        image, target = resize(image, target, _scaled(image, factor))
        room = [max(have - want, 0) for have, want in zip(image.shape[:2], size, strict=True)]
        top, left = (int(rng.integers(r + 1)) for r in room)
        image, target = crop(image, target, (top, left), size)
        return pad(image, target, size, self.fill)


class ColourJitter:
    """Brightness, contrast, saturation and hue, each changed half of the time, in this order.

    Args:
        brightness, contrast, saturation: the factor lies in 1 - x to 1 + x. Defaults: ``0.125``,
            ``0.5`` and ``0.5``, those of SSD (Liu et al., 2016).
        hue: the shift lies in -x to x turns of the colour circle. Default: ``0.05``.
    """

    def __init__(
        self,
        brightness: float = 0.125,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 0.05,
    ) -> None:
        for name, value in (("brightness", brightness), ("contrast", contrast),
                            ("saturation", saturation), ("hue", 2 * hue)):  # fmt: skip
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected 0 to {0.5 if name == 'hue' else 1}")
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.hue = saturation, hue

    def scaled(self, strength: float) -> ColourJitter:
        """The same with all four amounts times ``strength``."""
        amounts = (self.brightness, self.contrast, self.saturation, self.hue)
        return ColourJitter(*(strength * amount for amount in amounts))

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Change the colours; the target is left alone."""
        amounts = (self.brightness, self.contrast, self.saturation)
        factors = [1 + float(rng.uniform(-a, a)) if rng.random() < 0.5 else 1.0 for a in amounts]
        turn = float(rng.uniform(-self.hue, self.hue)) if rng.random() < 0.5 else 0.0
        if factors != [1.0] * 3:
            brightness, contrast, saturation = factors
            pixels = image.astype(np.float32) * np.float32(brightness)
            pixels += np.float32(1 - contrast) * ((pixels @ _GREY).mean() - pixels)
            pixels += np.float32(1 - saturation) * ((pixels @ _GREY)[..., None] - pixels)
            image = np.rint(pixels).clip(0, 255).astype(np.uint8)
        if turn:
            hsv = np.array(Image.fromarray(image).convert("HSV"))
            hsv[..., 0] += np.uint8(round(turn * 256) % 256)  # wraps, as hue does
            image = np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
        return image, target


def resize(image: np.ndarray, target: Target, size: tuple[int, int]) -> tuple[np.ndarray, Target]:
    """Scale an image with its boxes and masks.

    Args:
        image (H, W, 3): uint8.
        target: ``boxes`` and optionally ``masks``, which take the nearest pixel.
        size: (height, width) wanted.

    Returns:
        The image, antialiased bilinear by Pillow, and its target.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image, target
    pixels = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    ratio = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    out = {**target, "boxes": target["boxes"] * ratio}
    if "masks" in target:
        rows, columns = _nearest(height, size[0]), _nearest(width, size[1])
        out["masks"] = target["masks"][:, rows][:, :, columns]
    return pixels, out


def crop(
    image: np.ndarray, target: Target, corner: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, Target]:
    """Cut a window out of an image.

    Args:
        image (H, W, 3): uint8.
        target: rows of objects that have nothing left are dropped; with masks, boxes become those
            of what is left of the mask (crowds keep their own, as they need not have one).
        corner: (top, left).
        size: (height, width) at most; the window ends where the image does.

    Returns:
        The window and its target.
    """
    top, left = corner
    pixels = np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])
    height, width = pixels.shape[:2]
    shift = np.array([left, top] * 2, np.float32)
    limit = np.array([width, height] * 2, np.float32)
    boxes = np.clip(target["boxes"] - shift, 0, limit)
    out = {**target, "boxes": boxes}
    if "masks" in target:
        out["masks"] = target["masks"][:, top : top + size[0], left : left + size[1]]
        if pixels.shape != image.shape:
            crowd = target["iscrowd"].astype(bool)[:, None]
            out["boxes"] = boxes = np.where(crowd, boxes, mask_boxes(out["masks"]))
    return pixels, select(out, (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


def pad(
    image: np.ndarray,
    target: Target,
    size: tuple[int, int],
    fill: tuple[int, int, int] = _FILL,
) -> tuple[np.ndarray, Target]:
    """Fill an image up at the right and the bottom.

    Args:
        image (H, W, 3): uint8, at most ``size``.
        target: masks are filled up with zeros, boxes stay.
        size: (height, width) wanted.
        fill: RGB of the new pixels. Default: ImageNet's mean.

    Returns:
        The image of ``size`` and its target.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image, target
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = fill
    pixels[:height, :width] = image
    if "masks" in target:
        after = ((0, 0), (0, size[0] - height), (0, size[1] - width))
        target = {**target, "masks": np.pad(target["masks"], after)}
    return pixels, target


def _scaled(image: np.ndarray, scale: float) -> tuple[int, int]:
    height, width = image.shape[:2]
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _nearest(length: int, size: int) -> np.ndarray:
    """The source pixel under the centre of each new one."""
    index = np.floor((np.arange(size) + 0.5) * length / size).astype(np.int64)
    return np.minimum(index, length - 1)


def _probability(p: float) -> float:
    if 0 <= p <= 1:
        return p
    raise ValueError(f"p={p}: expected a probability from 0 to 1")
