"""Rare classes seen more often: how many times an epoch each image comes up."""

from __future__ import annotations

import numpy as np

from .protocols import Dataset


def repeat_factors(dataset: Dataset, thresh: float) -> np.ndarray:
    """LVIS's repeat factors (Gupta, Dollar and Girshick, 2019, appendix B.2), as in detectron2.

    A class in a share f of the images has the factor max(1, sqrt(thresh / f)), and an image the
    greatest of its classes. Crowds, which nothing is learned from, do not count.

    Args:
        dataset: with ``len``, and ``target(i)`` or indexing that gives a
            :class:`~mlx_rcnn.data.Sample`.
        thresh: share of the images, 0 to 1; 0.001 for LVIS.

    Returns:
        (N,) float64, at least 1.
    """
    target_of = getattr(dataset, "target", None) or (lambda i: dataset[i].target)
    found = []
    for index in range(len(dataset)):
        target = target_of(index)
        crowd = np.asarray(target.get("iscrowd", np.zeros(len(target["labels"]))), bool)
        found.append(np.unique(np.asarray(target["labels"])[~crowd]))
    images = np.bincount(np.concatenate([np.zeros(0, np.int64), *found]).astype(np.int64))
    factors = np.sqrt(np.maximum(1.0, thresh * len(found) / np.maximum(images, 1)))
    return np.array([factors[labels].max(initial=1.0) for labels in found])


def draw_repeats(factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rising indices of an epoch: each image its factor rounded, always as many in all."""
    # Systematic sampling: the factors end to end on a line, and a comb of step 1 at a random place
    # on it. So epochs are equally long, where rounding each image by itself has them differ.
    count = epoch_images(factors)
    ends = np.cumsum(factors) * (count / factors.sum())
    ends[-1] = count  # whatever the sum was rounded to
    teeth = rng.random() + np.arange(count)
    return np.searchsorted(ends, teeth, side="right")


def epoch_images(factors: np.ndarray) -> int:
    """Images of an epoch: the factors' sum, rounded down."""
    return int(np.floor(factors.sum() + 1e-6))
