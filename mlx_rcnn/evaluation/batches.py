"""Predict the images of a dataset batch by batch, here or on another machine."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..data.protocols import Dataset
from ..data.sample import Sample, Target
from ..inputs.images import ImageError
from ..outputs.coco import mask_option, results_of

Batch = dict[str, Any]
"""JSON, but for the targets of a dataset without ``ground_truth``: it goes to another machine."""


class Predicts(Protocol):
    """What is evaluated; see :func:`~mlx_rcnn.evaluation.collect` for what else it may say."""

    predict: Callable[..., Sequence[Mapping[str, np.ndarray]]]


def predictor(
    model: Predicts,
    dataset: Dataset,
    score_thresh: float | Sequence[float],
    augment: object,
) -> Callable[[range], Batch]:
    """What predicts the images of a range of places, anywhere and in any order."""
    options: dict[str, object] = {"score_thresh": score_thresh, **mask_option(model)}
    if augment is not None:
        options["augment"] = augment

    def predict(chosen: range) -> Batch:
        # what was found in each that can be read; of the others the problems; seconds spent in
        # ``predict``. All of it is JSON if ``dataset`` has a method ``ground_truth``.
        batch: Batch = {"images": [], "problems": [], "seconds": 0.0}
        kept, samples = _readable(batch, dataset, chosen)
        if not samples:
            return batch
        given = [[s.image for s in samples]]
        if getattr(model, "needs_proposals", False):
            given.append([s.target["proposals"] for s in samples])
        began = time.perf_counter()
        predictions = model.predict(*given, **options)
        batch["seconds"] = time.perf_counter() - began
        for i, sample, prediction in zip(kept, samples, predictions, strict=True):
            image: Batch = {
                "place": i,
                "size": sample.image.shape[:2],
                "id": sample.image_id,
                "found": results_of(model, prediction, 0, sample.image),
                "masks": "masks" in prediction and "masks" in sample.target,
                "keypoints": _keypoints(prediction, sample.target),
            }
            if not hasattr(dataset, "ground_truth"):
                image["target"] = sample.target
            batch["images"].append(image)
        return batch

    return predict


class LeftOut:
    """Counts the images that are left out, and stops at too many."""

    def __init__(self, count: int, most: float) -> None:
        self._count, self._most, self._so_far = count, most, 0

    def add(self, batch: Batch) -> None:
        """Warn of those of a batch; ImageError if they are more than a share of all, rounded up."""
        for problem in batch["problems"]:
            self._so_far += 1
            warnings.warn(f"{problem}: image left out", stacklevel=3)
            if self._so_far > math.ceil(self._most * self._count):
                raise ImageError(
                    f"{self._so_far} images cannot be read, more than max_unreadable "
                    f"{self._most:g} allows; the last: {problem}"
                )


def _readable(batch: Batch, dataset: Dataset, chosen: range) -> tuple[list[int], list[Sample]]:
    """The images of a batch that can be read; the others are named."""
    kept, samples = [], []
    for i in chosen:
        try:
            samples.append(dataset[i])
            kept.append(i)
        except (ImageError, OSError) as error:
            batch["problems"].append(" ".join(str(error).split()))
    return kept, samples


def _keypoints(prediction: Mapping[str, np.ndarray], target: Target) -> int | None:
    """How many keypoints an object has, ``None`` unless both sides have them."""
    if "keypoints" not in prediction or "keypoints" not in target:
        return None
    found, true = prediction["keypoints"].shape[1], target["keypoints"].shape[1]
    if found != true:
        raise ValueError(f"the model finds {found} keypoints, but the data has {true} of an object")
    return int(found)
