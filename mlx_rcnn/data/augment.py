"""Random changes to an image, which its boxes, masks, keypoints and proposals follow.

Each is a callable ``(image, target, rng) -> (image, target)``; arguments are never changed in
place, and the same generator state gives the same result. Sizes are in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from .geometry import FILL, crop, flip_horizontally, flip_vertically, pad, resize, rotate90
from .keypoints import mirror_partners
from .sample import Target, select

Augmentation = Callable[[np.ndarray, Target, np.random.Generator], tuple[np.ndarray, Target]]

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow and torchvision


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
        keypoint_names: of targets with keypoints, which swap their left and right by them; ``()``
            if none has a side. A side is the word left or right, the letter l or r as a word of its
            own or in front of a capitalised word (``L_Eye``, ``LShoulder``), or left and right at
            either end of a word (``leftshoulder``). Default: none, and targets have no keypoints.
        pairs: ``"left:right"`` names that swap; all others stay what they are. Default: told by the
            names.

    Raises:
        ValueError: a ``p`` that is no probability; a name with a side and no partner, or pairs of
            unknown names; when called, keypoints without names.
    """

    def __init__(
        self,
        p: float = 0.5,
        keypoint_names: Sequence[str] | None = None,
        pairs: Sequence[str] | None = None,
    ) -> None:
        self.p = probability(p)
        self.named = keypoint_names is not None
        self.partners = mirror_partners(keypoint_names, pairs) if keypoint_names else None

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Flip with probability ``p``."""
        if rng.random() >= self.p:
            return image, target
        if "keypoints" in target and not self.named:
            raise ValueError(
                "HorizontalFlip of keypoints: expected keypoint_names, to swap left and right"
            )
        return flip_horizontally(image, target, self.partners)


class VerticalFlip:
    """Mirror top and bottom.

    Args:
        p: how often. Default: ``0.5``.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(p)

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Flip with probability ``p``."""
        if rng.random() >= self.p:
            return image, target
        return flip_vertically(image, target)


class RandomRotate90:
    """Turn by 90, 180 or 270 degrees, for data that has no up, such as slides and aerial pictures.

    Args:
        p: how often; each angle is as likely. Default: ``0.75``, which leaves a quarter as it is.
    """

    def __init__(self, p: float = 0.75) -> None:
        self.p = probability(p)

    def __call__(
        self, image: np.ndarray, target: Target, rng: np.random.Generator
    ) -> tuple[np.ndarray, Target]:
        """Turn with probability ``p``."""
        if rng.random() >= self.p:
            return image, target
        return rotate90(image, target, int(rng.integers(1, 4)))


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
    the mask. Keypoints that it does not hold are no longer visible; proposals are cut to it.

    Args:
        size: (height, width) of the result. Default: the image's own.
        scale: smallest and largest factor. Default: ``(0.1, 2.0)``.
        fill: RGB of what is filled up. Default: ImageNet's mean.
        min_visible: objects of which the crop holds a smaller share, of the mask's pixels or else
            of the box, are dropped too, unless they are crowds. Default: ``0.0``.
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        scale: Sequence[float] = (0.1, 2.0),
        fill: tuple[int, int, int] = FILL,
        min_visible: float = 0.0,
    ) -> None:
        if not 0 <= min_visible <= 1:
            raise ValueError(f"min_visible={min_visible}: expected a share from 0 to 1")
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size={size}: expected (height, width) of at least 1 pixel")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={scale}: expected 0 < smallest <= largest")
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.scale, self.fill = (float(scale[0]), float(scale[1])), fill
        self.min_visible = min_visible

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
        whole = {**target, "whole": _areas(target)}
        image, target = crop(image, whole, (top, left), size)
        target = select(target, _areas(target) >= self.min_visible * target["whole"])
        del target["whole"]
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
        for name, value in (
            ("brightness", brightness),
            ("contrast", contrast),
            ("saturation", saturation),
            ("hue", 2 * hue),
        ):
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


def _areas(target: Target) -> np.ndarray:
    """Pixels of objects (G,) float64: of masks, or else of boxes; none of crowds."""
    if "masks" in target:
        found = np.count_nonzero(target["masks"], axis=(1, 2)).astype(np.float64)
    else:
        sides = target["boxes"][:, 2:].astype(np.float64) - target["boxes"][:, :2]
        found = sides[:, 0] * sides[:, 1]
    crowd = np.asarray(target.get("iscrowd", np.zeros(len(found))), bool)
    return np.where(crowd, 0.0, found)


def _scaled(image: np.ndarray, scale: float) -> tuple[int, int]:
    height, width = image.shape[:2]
    return max(round(height * scale), 1), max(round(width * scale), 1)


def probability(p: float) -> float:
    """``p`` itself, if it is one."""
    if 0 <= p <= 1:
        return p
    raise ValueError(f"p={p}: expected a probability from 0 to 1")
