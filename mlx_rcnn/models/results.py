"""From detections in the network input to what ``predict`` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..inputs.transform import boxes_to_original
from ..messages import listing
from ..ops import clip_boxes
from ..outputs.detections import Detections as Results
from ..outputs.skeletons import skeleton_style
from ..structures import Batch, Detections, Images


def drop_empty(detections: Detections, batch: Batch) -> Detections:
    """Without those that have no width or height left in the image given (detectron2)."""
    ratio = batch.original_sizes.astype(np.float32) / batch.sizes.astype(np.float32)
    boxes = detections.boxes * mx.array(ratio[:, [1, 0, 1, 0]])[:, None]
    boxes = clip_boxes(boxes, mx.array(batch.original_sizes.astype(np.float32)))
    whole = mx.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    return detections._replace(valid=detections.valid & whole)


def to_results(
    detections: Detections, batch: Batch, clip: bool = False
) -> list[dict[str, np.ndarray]]:
    """Evaluated detections as one dict of NumPy arrays an image, in pixels of the image given."""
    boxes, scores, labels, valid = (np.array(v) for v in detections[:4])
    return [
        {
            "boxes": boxes_to_original(boxes[i][ok], batch.sizes[i], batch.original_sizes[i], clip),
            "scores": scores[i][ok],
            "labels": labels[i][ok],
        }
        for i, ok in enumerate(valid)
    ]


def named_results(
    model: nn.Module,
    found: Sequence[Mapping[str, np.ndarray]],
    images: Images,
    pictures: Sequence[np.ndarray],
) -> list[Results]:
    """What ``predict`` gives: each image's arrays with names, the image's size, and how to draw."""
    given: Sequence[object] = images if isinstance(images, list | tuple) else [images]
    if len(given) != len(pictures):  # one array of several
        given = [None] * len(pictures)
    return [
        named_result(model, arrays, image, (picture.shape[0], picture.shape[1]))
        for arrays, picture, image in zip(found, pictures, given, strict=True)
    ]


def named_result(
    model: nn.Module, arrays: Mapping[str, np.ndarray], image: object, size: tuple[int, int]
) -> Results:
    """One of :func:`named_results`, of an image of ``size`` (height, width) as it was given."""
    names = getattr(model, "class_names", None)
    return Results(arrays, names, size, image, skeleton_style(model))


def not_finite(model: nn.Module) -> str:
    """Why a network's outputs are not numbers, in a sentence for whoever loaded it."""
    named = tree_flatten(model.parameters())
    assert isinstance(named, list)
    bad = [name for name, value in named if not np.isfinite(np.array(mx.sum(value * 0.0)))]
    if bad:
        return (
            f"weights of the model are not finite: {listing(bad)}; did its training diverge, or is "
            "the type it was stored in too small for them? Expected an earlier checkpoint"
        )
    return (
        "the network's outputs are not finite though its weights are: expected a type with a wider "
        'range than the one it runs in, such as load(..., dtype="float32") or --dtype float32'
    )
