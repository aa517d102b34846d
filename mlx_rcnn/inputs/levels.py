"""Values of any depth between two levels, as 8 bits."""

from __future__ import annotations

import numpy as np

from ..config.levels import Levels, read_levels

SAMPLED = 1 << 22
"""Pixels of which percentiles are taken at the most, spread evenly."""

Bounds = tuple[float, float]


def sample_step(height: int, width: int) -> int:
    """Each so-manieth row and column gives at most :data:`SAMPLED` pixels."""
    return max(1, int(np.ceil(np.sqrt(height * width / SAMPLED))))


def bounds_of(values: np.ndarray, levels: Levels) -> Bounds:
    """The values that are black and white, of a sample of the picture's."""
    if not levels.percent:
        return levels.low, levels.high
    low, high = np.percentile(values.astype(np.float64), [levels.low, levels.high])
    return float(low), float(high)


def between(values: np.ndarray, bounds: Bounds) -> np.ndarray:
    """uint8: black up to the low bound, white from the high one, between them in proportion."""
    low, high = bounds
    # a flat picture, whose bounds are one value, is all black
    span = high - low if high > low else 1.0
    shares = np.clip((values.astype(np.float64) - low) / span, 0, 1)
    return np.rint(shares * 255).astype(np.uint8)


def levelled(values: np.ndarray, text: str) -> np.ndarray:
    """A picture (H, W, ...) of more than 8 bits between levels, as uint8 of the same shape."""
    step = sample_step(*values.shape[:2])
    return between(values, bounds_of(values[::step, ::step], read_levels(text)))
