"""From images to network input, and boxes back.

The resize rules are those of the libraries whose checkpoints we run, to the bit where they work on
bytes: a grey level of difference in the input is enough to move detections.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from ..config.network import DetectorConfig
from ..ops import resize_opencv, resize_pillow, resize_torch
from ..structures import Batch, Prepared
from .images import load_image


def load_images(images: Any, levels: str | None = None) -> list[np.ndarray]:
    """Whatever ``predict`` takes, as a list of (H, W, 3) arrays, uint8 or float32 in [0, 1]."""
    if isinstance(images, list | tuple):
        if not images:
            raise ValueError("images is empty: expected at least one image")
        return [load_image(image, levels) for image in images]
    if getattr(images, "ndim", None) == 4:  # a batch (N, H, W, 3)
        if images.shape[0] == 0:
            raise ValueError(f"images has shape {tuple(images.shape)}: expected at least one image")
        return [load_image(image) for image in images]
    return [load_image(images, levels)]


def resized_size(height: int, width: int, config: DetectorConfig) -> tuple[int, int]:
    """(height, width) after the resize: short side ``min_size``, unless ``max_size`` is passed."""
    # the last one, if several
    least = config.min_size if isinstance(config.min_size, int) else config.min_size[-1]
    short, long = min(height, width), max(height, width)
    if config.resize_rule == "pillow":
        scale = least / short
        h, w = (least, scale * width) if height < width else (scale * height, least)
        if max(h, w) > config.max_size:
            scale = config.max_size / max(h, w)
            h, w = h * scale, w * scale
    else:
        scale = min(least / short, config.max_size / long)
        h, w = height * scale, width * scale
    # torchvision cuts fractions off, detectron2 (``"pillow"``) and mmdetection (``"opencv"``) round
    # half up
    half = 0.0 if config.resize_rule == "torch" else 0.5
    return max(math.floor(h + half), 1), max(math.floor(w + half), 1)  # at least one pixel


def draw_sizes(
    images: Sequence[np.ndarray], config: DetectorConfig, key: mx.array
) -> list[tuple[int, int]] | None:
    """(height, width) of each image at a ``min_size`` drawn for it; ``None`` if there is one."""
    if isinstance(config.min_size, int):
        return None
    # as torchvision's transform, which draws for each image too
    drawn = np.array(mx.random.randint(0, len(config.min_size), (len(images),), key=key))
    sides = np.array(config.min_size)[drawn].tolist()
    return [
        resized_size(image.shape[0], image.shape[1], replace(config, min_size=side))
        for image, side in zip(images, sides, strict=True)
    ]


def preprocess(
    images: Sequence[np.ndarray],
    config: DetectorConfig,
    sizes: Sequence[tuple[int, int]] | None = None,
    mirror: bool = False,
) -> Batch:
    """Resize, normalise and pad (H, W, 3) images as torchvision's ``GeneralizedRCNNTransform``."""
    pixels, resized, originals = _preprocessed(images, config, sizes, mirror)
    return Batch(mx.array(pixels), resized, originals)


def prepared(
    given: Any,
    config: DetectorConfig,
    sizes: Callable[[Sequence[np.ndarray]], Sequence[tuple[int, int]] | None],
) -> Prepared:
    """What :func:`preprocess` does, on the host alone, so that any thread may do it."""
    pictures = load_images(given, config.image_levels)
    return Prepared(given, pictures, *_preprocessed(pictures, config, sizes(pictures)))


def _preprocessed(
    images: Sequence[np.ndarray],
    config: DetectorConfig,
    sizes: Sequence[tuple[int, int]] | None = None,
    mirror: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fields of a batch, all of NumPy."""
    originals = np.array([image.shape[:2] for image in images])
    if sizes is None:
        sizes = [resized_size(int(h), int(w), config) for h, w in originals]
    resized = np.array(sizes)
    step = config.size_divisible
    # the greatest of each side, rounded up
    height, width = (-(-resized.max(axis=0) // step) * step).tolist()
    pixels = np.zeros((len(images), height, width, 3), np.float32)
    mean, std = np.array(config.image_mean), np.array(config.image_std)
    for place, image, (h, w) in zip(pixels, images, resized.tolist(), strict=True):
        small = _resize(image, (h, w), config.resize_rule)
        small = small[:, ::-1] if mirror else small  # left to right, after the resize
        unit = 1.0 if image.dtype == np.float32 and config.resize_rule == "torch" else 255.0
        out = place[:h, :w]
        # Normalising after the resize is the same up to rounding, and touches fewer pixels.
        np.multiply(small, (1.0 / (unit * std)).astype(np.float32), out=out)
        out -= (mean / std).astype(np.float32)
    if config.channel_order == "bgr":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return pixels, resized, originals


def _resize(image: np.ndarray, size: tuple[int, int], rule: str) -> np.ndarray:
    if rule == "torch":
        return resize_torch(image, size)
    if image.dtype != np.uint8:  # these two rules are defined on bytes
        image = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return resize_pillow(image, size) if rule == "pillow" else resize_opencv(image, size)


def keypoints_to_original(
    keypoints: np.ndarray, size: Sequence[int], original_size: Sequence[int]
) -> np.ndarray:
    """(D, K, 3) keypoints of the network input in pixels of the image given."""
    height, width = np.array(original_size, np.float32) / np.array(size, np.float32)
    # as torchvision's ``resize_keypoints``; the visibility stays
    return keypoints * np.array([width, height, 1], np.float32)


def boxes_to_original(
    boxes: np.ndarray, size: Sequence[int], original_size: Sequence[int], clip: bool = False
) -> np.ndarray:
    """(D, 4) xyxy of the network input in pixels of the image given, as ``resize_boxes``."""
    original = np.array(original_size, np.float32)
    ratio = original / np.array(size, np.float32)
    boxes = (boxes * ratio[[1, 0, 1, 0]]).astype(np.float32)
    # at its borders, as detectron2
    return np.clip(boxes, np.float32(0), original[[1, 0, 1, 0]]) if clip else boxes
