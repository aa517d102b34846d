"""Test-time augmentation: each image at several sizes and mirrored, and what is found merged.

As detectron2's ``GeneralizedRCNNWithTTA``. Every view goes through the network alone, so that the
memory is that of the largest; for masks each goes through a second time, with the merged boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..config.checks import SWITCH, Sizes, Whole, check_fields, setting
from ..heads.branch import Branch, Result
from ..heads.detections import (
    Candidates,
    DetectionRule,
    check_thresholds,
    detection_rule,
    suppress,
)
from ..inputs.transform import load_images, preprocess, resized_size
from ..memory import bounded_cache
from ..ops.nms import settle, sort_scores
from ..outputs.detections import Detections
from ..structures import Batch, Images
from .detector import Detector
from .flow import BoxDetector
from .results import named_results, to_results

SIZES = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)  # detectron2's
MAX_SIZE = 4000


class View(NamedTuple):
    """One way of looking at an image: a short ``side``, ``None`` for the model's own, mirrored."""

    side: int | None
    mirror: bool


@dataclass(frozen=True)
class TestTimeAugment:
    """How images are varied for a prediction.

    Args:
        sizes (tuple of int): short sides in pixels of the network input; ``None``: the model's own
            ``min_size`` and ``max_size`` alone. Default: 400, 500, ... 1200.
        flip (bool): each size mirrored left to right too. Default: ``True``.
        max_size (int): a size is less where the long side would exceed this. Default: ``4000``.

    Raises:
        TypeError, ValueError: a field against its rule.
    """

    sizes: tuple[int, ...] | None = setting(SIZES, Sizes(whole=True, none=True))
    flip: bool = setting(True, SWITCH)
    max_size: int = setting(MAX_SIZE, Whole())

    def __post_init__(self) -> None:
        if isinstance(self.sizes, int):
            object.__setattr__(self, "sizes", (self.sizes,))
        check_fields(self)
        for side in self.sizes or ():
            if side > self.max_size:
                raise ValueError(f"sizes={self.sizes!r}: expected at most max_size={self.max_size}")

    @property
    def views(self) -> tuple[View, ...]:
        """All sizes, each as it is and then mirrored."""
        sides: tuple[int | None, ...] = (None,) if self.sizes is None else self.sizes
        return tuple(View(side, m) for side in sides for m in (False, True)[: 1 + self.flip])


def check_augment(model: Detector, augment: TestTimeAugment) -> None:
    """Refuse, before anything is computed, a model that cannot predict so."""
    if not isinstance(augment, TestTimeAugment):
        raise TypeError(f"augment={augment!r}: expected a TestTimeAugment")
    if getattr(model, "needs_proposals", False) or not hasattr(model, "branches"):
        raise ValueError(
            f"a {type(model).__name__} has no test-time augmentation: expected a Faster R-CNN, or "
            "a model built on one"
        )
    if augment.flip and not all(branch.mirrors for branch in model.branches):
        raise ValueError(
            f"a {type(model).__name__} cannot look at mirrored images: that needs to know which "
            "keypoints are left and right of a pair; expected flip=False"
        )


def predict_augmented(
    model: BoxDetector,
    images: Images,
    *,
    sizes: Sequence[int] | None = SIZES,
    flip: bool = True,
    score_thresh: float | Sequence[float] | None = None,
    nms_thresh: float | None = None,
    top_k: int | None = None,
    masks: str = "full",
) -> list[Detections]:
    """What ``predict`` gives, merged over several sizes of each image and their mirror images.

    Each view is predicted by itself. Boxes go back to the image given and all of them through the
    model's suppression once more, a class at a time; the best ``top_k`` stay. Masks are the average
    over all views of the probabilities in those boxes; heatmaps of keypoints likewise.

    With Soft-NMS scores are lowered within each view, and once more among all. A single view is
    what ``predict`` gives at that size.

    Args:
        model: a :class:`~mlx_rcnn.FasterRCNN` or what is derived from it.
        images: as :meth:`FasterRCNN.predict`, together one batch at each size.
        sizes, flip: see :class:`TestTimeAugment`.
        score_thresh, nms_thresh, top_k: as :meth:`FasterRCNN.predict`, of each view and of all.
        masks: as :meth:`MaskRCNN.predict`; nothing to other models.

    Returns:
        As the model's ``predict``, in pixels of the image given.

    Raises:
        ValueError, TypeError, FileNotFoundError: images or options that cannot be used.
    """
    augment = TestTimeAugment(None if sizes is None else tuple(sizes), flip)
    if masks not in ("full", "raw"):
        raise ValueError(f"masks={masks!r}: expected 'full' or 'raw'")
    rule = detection_rule(model.config, score_thresh, nms_thresh, top_k)
    return find_augmented(model, images, rule, augment, masks=masks)


def find_augmented(
    model: BoxDetector,
    images: Images,
    rule: DetectionRule,
    augment: TestTimeAugment,
    **options: Any,
) -> list[Detections]:
    """What :func:`predict_augmented` does, for any rule and with options of the branches."""
    check_augment(model, augment)
    check_thresholds(rule, model.num_classes)
    given, views = load_images(images, model.config.image_levels), augment.views
    if len(views) == 1:
        one = model.find_in(_batch(model, given, views[0], augment), rule, **options)
        return named_results(model, one, images, given)
    with bounded_cache():
        net = model.to_predict()
        each = [_seen(net, _batch(net, given, v, augment), rule, v.mirror) for v in views]
        results = [merge_detections(of_image, rule) for of_image in zip(*each, strict=True)]
        for branch in net.branches:
            _add_branch(net, branch, given, augment, results, options)
    return named_results(model, results, images, given)


def merge_detections(found: Sequence[Result], rule: DetectionRule) -> Result:
    """The best of several predictions of one image, suppressed among each other, best first."""
    names = ("boxes", "scores", "labels")  # (D, 4) xyxy in one frame, (D,) and (D,)
    boxes, scores, labels = (mx.array(np.concatenate([f[k] for f in found])) for k in names)
    order = sort_scores(scores)  # of equal scores that of the earlier prediction is first
    there = mx.ones((1, len(order)), dtype=mx.bool_)
    rows = Candidates(boxes[order][None], scores[order][None], labels[order][None], there)
    whole = mx.array([True])  # no candidate was left out
    best = settle(lambda rounds: suppress(rows, rule, whole, rounds))
    keep = np.array(best.valid[0])
    return {k: np.array(v[0])[keep] for k, v in zip(names, best[:3], strict=True)}


def _batch(
    model: BoxDetector, images: Sequence[np.ndarray], view: View, augment: TestTimeAugment
) -> Batch:
    """Network input of all images, seen so."""
    config = model.config
    if view.side is not None:
        config = replace(config, min_size=view.side, max_size=augment.max_size)
    sizes = [resized_size(image.shape[0], image.shape[1], config) for image in images]
    return preprocess(images, config, sizes, view.mirror)


def _seen(net: BoxDetector, batch: Batch, rule: DetectionRule, mirror: bool) -> list[Result]:
    """What is found in one view, in pixels of the images given."""
    detections = net.detect(batch, rule).detections
    if mirror:
        widths = mx.array(batch.sizes[:, 1:].astype(np.float32))
        detections = detections._replace(boxes=_mirrored(detections.boxes, widths))
    return to_results(detections, batch, net.config.clip_results)


def _mirrored(boxes: mx.array, widths: mx.array) -> mx.array:
    """Boxes (N, D, 4) in images of ``widths`` (N, 1), seen in a mirror."""
    x1, y1, x2, y2 = (boxes[..., i] for i in range(4))
    return mx.stack([widths - x2, y1, widths - x1, y2], axis=-1)


def _add_branch(
    net: BoxDetector,
    branch: Branch[Any],
    images: Sequence[np.ndarray],
    augment: TestTimeAugment,
    results: Sequence[Result],
    options: dict[str, object],
) -> None:
    """Add what a branch finds in the merged boxes, averaged over the views."""
    counts = [len(result["scores"]) for result in results]
    labels = mx.array(np.concatenate([result["labels"] for result in results]))
    total: np.ndarray | int = 0
    for view in augment.views if sum(counts) else augment.views[:1]:
        batch = _batch(net, images, view, augment)
        features = net.features(batch.pixels)
        stage = net.stage(features, net.strides(features, batch))
        if not sum(counts):
            total = branch.nothing(stage)
            break
        raw = branch.raw(stage, _rois(results, batch, view.mirror), labels)
        total = total + np.array(branch.turned(raw) if view.mirror else raw)
    mean = total / np.float32(len(augment.views))
    parts = np.split(mean, np.cumsum(counts)[:-1])
    for result, part, image in zip(results, parts, images, strict=True):
        branch.add_raw(part, result, (image.shape[0], image.shape[1]), net.config, options)


def _rois(results: Sequence[Result], batch: Batch, mirror: bool) -> mx.array:
    """Boxes of the images given as RoIs (R, 5) in one view, image after image."""
    rows = []
    for i, result in enumerate(results):
        ratio = batch.sizes[i].astype(np.float32) / batch.original_sizes[i].astype(np.float32)
        boxes = result["boxes"] * ratio[[1, 0, 1, 0]]
        if mirror:
            x1, y1, x2, y2 = boxes.T
            width = np.float32(batch.sizes[i, 1])
            boxes = np.stack([width - x2, y1, width - x1, y2], axis=1)
        rows.append(np.concatenate([np.full((len(boxes), 1), i, np.float32), boxes], axis=1))
    return mx.array(np.concatenate(rows))
