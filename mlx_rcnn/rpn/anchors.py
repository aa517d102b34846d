"""Anchors: the boxes every pixel of a feature map starts from."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..config.proposals import ProposingConfig

SINGLE_MAP_SIZES = (128, 256, 512)  # Faster R-CNN, section 3.1.1
FINEST_LEVEL_SIZE = 32  # FPN, section 4.1: 32 on P2, doubling


class AnchorGenerator:
    """Anchors of all levels, as torchvision's ``detection.anchor_utils.AnchorGenerator``."""

    def __init__(
        self,
        # square roots of areas, in pixels of the network input: flat (every level has all), one
        # tuple a level, or ``None`` (see :class:`~mlx_rcnn.FasterRCNNConfig`)
        sizes: Sequence[float | Sequence[float]] | None,
        aspect_ratios: Sequence[float],  # height / width
        pyramid: bool = False,  # whether ``sizes=None`` means one size a level
        # pixels between anchors; ``None``: input size // map size, for each axis
        stride: int | Sequence[int] | None = None,
        rounding: bool = True,  # the corners of the cell anchors, half to even
        offset: float = 0.0,  # shift of the grid in strides
    ):
        self.sizes, self.aspect_ratios, self.pyramid = sizes, aspect_ratios, pyramid
        self.stride, self.rounding, self.offset = stride, rounding, offset
        levels = len(sizes) if sizes is not None and self._nested() else 1
        counts = {len(self.level_sizes(i)) for i in range(levels)}
        if len(counts) > 1:
            raise ValueError(f"anchor_sizes={sizes!r}: expected as many sizes on every level")
        self.per_cell = counts.pop() * len(aspect_ratios)

    def _nested(self) -> bool:
        return self.sizes is not None and any(isinstance(s, Sequence) for s in self.sizes)

    def level_sizes(self, level: int) -> tuple[float, ...]:
        """The sizes on one level (0 is the finest)."""
        if self.sizes is None:
            return (FINEST_LEVEL_SIZE * 2**level,) if self.pyramid else SINGLE_MAP_SIZES
        own = [self.sizes[level]] if self._nested() else self.sizes
        return tuple(v for size in own for v in (size if isinstance(size, Sequence) else (size,)))

    def cell_anchors(self, level: int) -> np.ndarray:
        """Anchors around the origin, (A, 4) float32 xyxy; ratios vary slower than sizes."""
        sizes = np.array(self.level_sizes(level), np.float32)
        high = np.sqrt(np.array(self.aspect_ratios, np.float32))
        wide = np.float32(1) / high
        w, h = (wide[:, None] * sizes).reshape(-1), (high[:, None] * sizes).reshape(-1)
        cell = np.stack([-w, -h, w, h], axis=1) / np.float32(2)
        return np.round(cell) if self.rounding else cell

    def __call__(
        self, map_sizes: Sequence[tuple[int, int]], input_size: tuple[int, int]
    ) -> list[mx.array]:
        """(h * w * A, 4) xyxy pixels of the network input for each map (h, w), finest first."""
        _check_levels("anchor_stride", self.stride, len(map_sizes))
        strides = []
        for level, (h, w) in enumerate(map_sizes):
            if self.stride is None:
                strides.append((input_size[0] // h, input_size[1] // w))
            else:
                one = self.stride if isinstance(self.stride, int) else self.stride[level]
                strides.append((one, one))
        return self.grid(map_sizes, strides)  # the anchor varies fastest, then x, then y

    def grid(
        self, map_sizes: Sequence[tuple[int, int]], strides: Sequence[tuple[float, float]]
    ) -> list[mx.array]:
        """Anchors of each map (h, w) at its stride (down, right), pixels of the network input."""
        _check_levels("anchor_sizes", self.sizes if self._nested() else None, len(map_sizes))
        anchors = []
        for level, ((h, w), (down, right)) in enumerate(zip(map_sizes, strides, strict=True)):
            y = (np.arange(h, dtype=np.float32) + np.float32(self.offset)) * np.float32(down)
            x = (np.arange(w, dtype=np.float32) + np.float32(self.offset)) * np.float32(right)
            shift = np.stack([*np.meshgrid(x, y)] * 2, axis=-1).reshape(-1, 1, 4)
            anchors.append(mx.array((shift + self.cell_anchors(level)).reshape(-1, 4)))
        return anchors


def anchor_generator(config: ProposingConfig) -> AnchorGenerator:
    """The anchors of a config as it is now."""
    return AnchorGenerator(
        config.anchor_sizes,
        config.aspect_ratios,
        config.use_fpn,
        config.anchor_stride,
        config.anchor_rounding,
        config.anchor_offset,
    )


def _check_levels(name: str, value: object, levels: int) -> None:
    if isinstance(value, Sequence) and len(value) != levels:
        raise ValueError(f"{name}={value!r}: expected one entry for each of the {levels} maps")
