"""Values of any depth as 8 bits, where a picture is read by windows and must look alike in all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .pixels import ImageError, depth_of, float_divisor


class Depth:
    """The one rule by which all windows of a picture become RGB of 8 bits, or floats in [0, 1].

    The rule is :func:`~mlx_rcnn.load_image`'s, by the largest value of the whole picture.

    Args:
        name: what messages call the picture.
        colours: whether it is RGB, of which more than 8 bits are 16 always.
    """

    def __init__(self, name: str, colours: bool) -> None:
        self.name, self.colours = name, colours
        self._shift: int | None = None
        self._divisor: np.float32 | None = None

    def known(self, dtype: np.dtype[Any]) -> bool:
        """Whether values of a type can be converted without having looked at all of them."""
        return dtype == np.uint8 or self._shift is not None or self._divisor is not None

    def look(self, blocks: Iterable[np.ndarray], dtype: np.dtype[Any]) -> None:
        """Find the rule from all values.

        Args:
            blocks: that cover the picture.
            dtype: of the values.

        Raises:
            ImageError: values below 0, above 65535, or not finite.
        """
        low, high = np.inf, -np.inf
        for block in blocks:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            if not np.isfinite([float(block.min()), float(block.max())]).all():
                raise ImageError(f"{self.name} holds NaN or infinite pixels: expected finite ones")
        if dtype.kind == "f":
            self._divisor = float_divisor(self.name, low, high)
        else:
            self._shift = depth_of(self.name, int(low), int(high), self.colours) - 8

    def rgb(self, values: np.ndarray) -> np.ndarray:
        """Values as RGB.

        Args:
            values (h, w, 1 or 3): of a window.

        Returns:
            (h, w, 3) uint8; float32 in [0, 1] of floats.
        """
        if values.dtype.kind == "f":
            assert self._divisor is not None
            values = np.clip(values.astype(np.float32) / self._divisor, 0, 1)
        elif values.dtype != np.uint8:
            assert self._shift is not None
            values = (values >> self._shift).astype(np.uint8)
        return (
            np.repeat(values, 3, axis=2) if values.shape[2] == 1 else np.ascontiguousarray(values)
        )
