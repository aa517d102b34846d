"""How far apart the pixels of a feature map are, as anchors and RoIs see it.

``stride_rule="exact"`` takes the backbone's own strides, whatever the input's size and padding;
a backbone that has none (its maps are of one size) is left to the other rule.
``"torchvision"`` does as torchvision: anchors stand padded input // map size apart, and RoIs are
pooled at the power of two nearest to map height / unpadded height, both of the whole batch. For
some sizes neither is the true stride, but its checkpoints were trained with those numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from ..config.network import DetectorConfig

T = TypeVar("T")
Size = tuple[int, int]  # (height, width)
Scales = list[tuple[float, ...]]  # of the levels RoIs are pooled from; for each image, or for all
PROBES = (256, 512)  # sides of the inputs by which strides are told


class Strides(NamedTuple):
    """Those of each image of a batch; one entry stands for all of them."""

    # (down, right) of each level, in pixels of the network input
    anchors: list[tuple[tuple[float, float], ...]]
    scales: Scales  # map pixels per input pixel of each level that RoIs are pooled from


class KnownSizes:
    """(h, w) of each of a backbone's maps, by (H, W) of its input."""

    def __init__(self) -> None:
        self.maps: dict[Size, tuple[Size, ...]] = {}


class MapSizes:
    """A backbone's map sizes (h, w) by the size (H, W) of its input, each looked up once."""

    def __init__(self, shapes: Callable[[Size], Sequence[Size]], known: KnownSizes):
        self._shapes, self._known = shapes, known.maps

    def __call__(self, size: Size) -> tuple[Size, ...]:
        """(h, w) of each map of an input of (H, W)."""
        if size not in self._known:
            self._known[size] = tuple(self._shapes(size))
        return self._known[size]

    def strides(self) -> tuple[tuple[float, float], ...] | None:
        """By how much (down, right) an input must grow for each map to grow by a pixel, if any."""
        try:
            small, large = (self((side, side)) for side in PROBES)
        except Exception:  # whatever a user's own backbone says of a size it does not take
            return None  # ``None`` too if it takes inputs of one size only
        rise = [
            (high - low, right - left)
            for (low, left), (high, right) in zip(small, large, strict=True)
        ]
        if any(step <= 0 for both in rise for step in both):
            return None
        grown = PROBES[1] - PROBES[0]
        return tuple((grown / down, grown / right) for down, right in rise)


def batch_strides(
    config: DetectorConfig, known: MapSizes, maps: Sequence[Size], padded: Size, height: int
) -> Strides:
    """What prediction takes for a batch, ``padded`` (H, W), of greatest unpadded ``height``."""
    fixed = _fixed(config, known, len(maps))  # (h, w) of each map, finest first
    anchors = fixed or tuple((padded[0] // h, padded[1] // w) for h, w in maps)
    pooled = range(min(config.roi_levels, len(maps)))
    if fixed:
        return Strides([anchors], [tuple(1.0 / fixed[i][0] for i in pooled)])
    scales = tuple(2.0 ** round(math.log2(maps[i][0] / height)) for i in pooled)
    return Strides([anchors], [scales])


def image_strides(
    config: DetectorConfig, known: MapSizes, sizes: np.ndarray, levels: int
) -> Strides:
    """What prediction would take for each image of a batch alone, whatever the batch's padding."""
    if _fixed(config, known, levels):
        return batch_strides(config, known, [(1, 1)] * levels, (1, 1), 1)
    each = []
    for height, width in sizes.tolist():
        padded = (_padded(height, config), _padded(width, config))
        each.append(batch_strides(config, known, known(padded), padded, height))
    anchors, scales = [one.anchors[0] for one in each], [one.scales[0] for one in each]
    # an entry for each image, or one if they are alike
    return Strides(_alike(anchors), _alike(scales))


def _fixed(
    config: DetectorConfig, known: MapSizes, levels: int
) -> tuple[tuple[float, float], ...] | None:
    """Strides that depend on no input; ``None`` under torchvision's rule, or if there are none."""
    stride = config.anchor_stride
    if stride is None:
        return known.strides() if config.stride_rule == "exact" else None
    each = (stride,) * levels if isinstance(stride, int) else stride
    if len(each) != levels:
        raise ValueError(
            f"anchor_stride={stride!r}: expected one entry for each of the {levels} maps"
        )
    return tuple((s, s) for s in each)


def _padded(side: int, config: DetectorConfig) -> int:
    return -(-side // config.size_divisible) * config.size_divisible


def _alike(each: list[T]) -> list[T]:
    return each[:1] if all(one == each[0] for one in each) else each
