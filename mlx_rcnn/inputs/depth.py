"""Values of any depth as 8 bits, where a picture is read by windows and must look alike in all."""

from __future__ import annotations

import numpy as np

from ..config.levels import Levels, read_levels
from .levels import Bounds, between, bounds_of, sample_step
from .pixels import ImageError, depth_of, float_divisor
from .tiff_plane import Plane


class Depth:
    """The one rule by which all windows of a picture become RGB of 8 bits, or floats in [0, 1]."""

    def __init__(self, name: str, plane: Plane, levels: str | None) -> None:
        # values at full resolution, looked at once, when the first window is converted and only if
        # the rule depends on them
        self._name, self._plane = name, plane
        self._levels: Levels | None = None if levels is None else read_levels(levels)
        self._shift: int | None = None
        self._divisor: np.float32 | None = None
        self._bounds: Bounds | None = None

    @property
    def result(self) -> np.dtype[np.generic]:
        """The type that windows have in the end."""
        floats = self._plane.dtype.kind == "f" and self._levels is None
        return np.dtype(np.float32 if floats else np.uint8)

    def rgb(self, values: np.ndarray) -> np.ndarray:
        """Values (h, w, 1 or 3) as RGB: uint8, or float32 in [0, 1] of floats without levels."""
        if values.dtype != np.uint8:
            if (self._shift, self._divisor, self._bounds) == (None, None, None):
                # An ImageError: values of the picture that are not finite; without levels also
                # below 0 or above 65535.
                self._look()
            values = self._converted(values)
        return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values.copy()

    def _converted(self, values: np.ndarray) -> np.ndarray:
        if self._bounds is not None:
            return between(values, self._bounds)
        if self._divisor is not None:
            shares: np.ndarray = np.clip(values.astype(np.float32) / self._divisor, 0, 1)
            return shares
        assert self._shift is not None
        return (values >> self._shift).astype(np.uint8)

    def _look(self) -> None:
        """Find the rule."""
        plane = self._plane
        if self._levels is not None and not self._levels.percent:
            self._bounds = bounds_of(np.zeros(0), self._levels)
            return
        low, high, samples = np.inf, -np.inf, []
        step = sample_step(plane.height, plane.width)
        for rows, columns in plane.blocks():
            block = plane.read(rows, columns)
            least, most = float(block.min()), float(block.max())
            if not np.isfinite([least, most]).all():
                raise ImageError(f"{self._name} holds NaN or infinite pixels: expected finite ones")
            low, high = min(low, least), max(high, most)
            if self._levels is not None:
                samples.append(block[-rows[0] % step :: step, -columns[0] % step :: step].ravel())
        if self._levels is not None:
            self._bounds = bounds_of(np.concatenate(samples), self._levels)
        elif plane.dtype.kind == "f":
            self._divisor = float_divisor(self._name, low, high)
        else:
            self._shift = depth_of(self._name, int(low), int(high), plane.colours > 1) - 8
