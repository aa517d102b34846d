"""The same arrays for each library, from NumPy alone."""

from __future__ import annotations

import numpy as np

from .cases import Options

Arrays = dict[str, np.ndarray]


def inputs(kind: str, options: Options) -> Arrays:
    """What a case works on: images (H, W, 3) uint8, boxes xyxy in pixels, float32, by name."""
    random = np.random.default_rng(0)
    number = {name: int(v) for name, v in options.items() if not isinstance(v, str)}
    if kind == "nms":
        return _crowd(random, number["lists"], number["boxes"])
    if kind.startswith("roi_"):
        height, width = number["height"], number["width"]
        stride = 16 if kind.startswith("roi_pool") else 4  # of the map; sides are 4 to 28 of it
        size = stride * height, stride * width
        boxes = _boxes(random, number["boxes"], *size, 4 * stride, 28 * stride)
        rows = np.concatenate([np.zeros((len(boxes), 1), np.float32), boxes], axis=1)
        shape = (1, height, width, number["channels"])
        return {"map": random.standard_normal(shape, np.float32), "boxes": rows}
    if kind == "paste":
        boxes = _boxes(random, number["masks"], number["height"], number["width"], 20, 600)
        masks = random.uniform(0, 1, (number["masks"], 28, 28)).astype(np.float32)
        return {"masks": masks, "boxes": boxes}
    image = scene(number["height"], number["width"])
    if kind != "train":
        return {"image": image}
    boxes = _boxes(random, 12, number["height"], number["width"], 40, 160)
    boxes = np.clip(boxes, 0, [number["width"], number["height"]] * 2).astype(np.float32)
    return {"image": image, "boxes": boxes, "labels": random.integers(1, 4, 12)}


def scene(height: int, width: int) -> np.ndarray:
    """Smooth blobs, (H, W, 3) uint8: noise would give no proposals to speak of."""
    random = np.random.default_rng(1)
    y, x = np.arange(height)[:, None], np.arange(width)
    image = np.full((height, width, 3), 110.0, np.float32)
    for _ in range(40):
        row, column = random.uniform(0, height), random.uniform(0, width)
        spread = random.uniform(0.01, 0.11) * height
        blob = np.exp(-((y - row) ** 2) / (2 * spread**2)) * np.exp(
            -((x - column) ** 2) / (2 * spread**2)
        )
        image += blob[..., None].astype(np.float32) * random.uniform(-120, 120, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def _boxes(
    random: np.random.Generator, count: int, height: int, width: int, least: float, most: float
) -> np.ndarray:
    """Boxes with sides evenly spread on a log scale, centred inside the image."""
    center = random.uniform(0, 1, (count, 2)) * [width, height]
    half = np.exp(random.uniform(np.log(least), np.log(most), (count, 2))) / 2
    return np.concatenate([center - half, center + half], axis=1).astype(np.float32)


def _crowd(random: np.random.Generator, lists: int, count: int) -> Arrays:
    """Boxes in clusters of ten, as proposals are, and what list each is of."""
    objects = -(-count // 10)
    side = 800 * max(1.0, (count / 1000) ** 0.5)  # as crowded, however many
    center = np.repeat(random.uniform(0, side, (lists, objects, 2)), 10, axis=1)[:, :count]
    center = center + random.normal(0, 8, center.shape)
    half = np.repeat(random.uniform(10, 50, (lists, objects, 2)), 10, axis=1)[:, :count]
    half = half * random.uniform(0.8, 1.2, half.shape)
    boxes = np.concatenate([center - half, center + half], axis=2).reshape(-1, 4)
    return {
        "boxes": boxes.astype(np.float32),
        "scores": random.uniform(0, 1, lists * count).astype(np.float32),
        "idxs": np.repeat(np.arange(lists), count),
    }
