"""A detector as one function from pixels to detections, in fixed shapes: what an app runs.

The same steps as prediction goes through, less what asks the host: suppression takes as many rounds
as there are boxes, detections are picked one by one, and branches look at all rows, valid or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from ..config.network import DetectorConfig
from ..heads import DetectionRule
from ..heads.detections import pick_detections
from ..rpn.network import proposal_rule, select_proposals
from ..structures import Batch, Detections, Proposals
from .detector import Detector

FIRST = ("boxes", "scores", "labels", "valid")
EVERY_ROUND = 1 << 30  # of suppression: as many as there are boxes
Outputs = dict[str, mx.array]
Function = Callable[[mx.array, mx.array], Outputs]


def traceable(model: Detector, size: tuple[int, int], rule: DetectionRule | None) -> Function:
    """What a model does with one image of (height, width), for :func:`mlx.core.exporter`."""
    if model.needs_proposals:
        raise ValueError(
            f"a {type(model).__name__} needs proposals, which an exported function is not given: "
            "expected a model with proposals of its own, such as a FasterRCNN"
        )
    view: Any = model.to_predict()
    step = model.config.size_divisible
    padded = tuple(-(-side // step) * step for side in size)
    empty = Batch(mx.zeros((1, *padded, 3)), np.array([size]), np.array([size]))
    maps = view.features(empty.pixels)  # for their shapes; nothing is computed
    strides = view.strides(maps, empty)
    anchors = view.anchors(maps, strides)
    mx.eval(anchors)  # constants of the file, once for all traces of this size

    # From ``image`` (H, W, 3), uint8 or float in [0, 1], and ``content`` (2,), the (height, width)
    # of the photo at its top left corner; to run inside ``plain_operations``.
    def detect(image: mx.array, content: mx.array) -> Outputs:
        sizes = content.astype(mx.float32)[None]
        features = view.features(_network_input(image, content, padded, model.config))
        outputs = view.rpn(features, anchors)
        rule_of_proposals = proposal_rule(view.config)
        proposals = select_proposals(outputs, sizes, rule_of_proposals, EVERY_ROUND)
        if rule is None:
            return _named(_objects(proposals))
        stage = view.stage(features, strides)
        logits, deltas, boxes = view.box_stage(stage, proposals, sizes)
        found = pick_detections(logits, deltas, boxes, sizes, rule)
        if view.config.clip_results:
            whole = mx.all(found.boxes[..., 2:] > found.boxes[..., :2], axis=-1)
            found = found._replace(valid=found.valid & whole)
        named = _named(found)  # ``boxes`` (D, 4), ``scores``, ``labels`` and ``valid`` (D,)
        for branch in view.branches:
            named |= branch.traced(stage, named["boxes"], mx.maximum(named["labels"], 1), size)
        return named

    return detect


def _network_input(
    image: mx.array, content: mx.array, padded: tuple[int, ...], config: DetectorConfig
) -> mx.array:
    """One image (H, W, 3) normalised as :func:`~mlx_rcnn.inputs.transform.preprocess` does."""
    mean, std = np.array(config.image_mean), np.array(config.image_std)
    unit = 255.0
    if image.dtype != mx.uint8 and config.resize_rule == "torch":
        unit = 1.0
    elif image.dtype != mx.uint8:  # the other two rules are defined on bytes
        image = mx.round(mx.clip(image.astype(mx.float32), 0, 1) * 255)
    pixels = image.astype(mx.float32) * mx.array((1.0 / (unit * std)).astype(np.float32))
    pixels = pixels - mx.array((mean / std).astype(np.float32))
    height, width, _ = image.shape
    inside = (mx.arange(height) < content[0])[:, None] & (mx.arange(width) < content[1])
    pixels = mx.where(inside[..., None], pixels, 0.0)
    pixels = pixels[..., ::-1] if config.channel_order == "bgr" else pixels
    room = [(0, padded[0] - height), (0, padded[1] - width), (0, 0)]
    return mx.pad(pixels, room)[None]


def _objects(proposals: Proposals) -> Detections:
    """Proposals as detections of the one class there is."""
    labels = mx.ones(proposals.scores.shape, dtype=mx.int32)
    return Detections(proposals.boxes, proposals.scores, labels, proposals.valid, proposals.exact)


def _named(found: Detections) -> Outputs:
    """Those of the one image, zeros where there is none."""
    valid = found.valid[0]
    arrays = (found.boxes[0], found.scores[0], found.labels[0].astype(mx.int32))
    kept = [mx.where(valid[:, None] if v.ndim == 2 else valid, v, 0) for v in arrays]
    kept[2] = kept[2].astype(mx.int32)
    return dict(zip(FIRST, [*kept, valid], strict=True))
