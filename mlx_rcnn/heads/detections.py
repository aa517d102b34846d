"""Detections from the box head's outputs: decoded, suppressed, the best kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..config.boxes import BoxConfig
from ..ops import clip_boxes, decode_boxes, nms_mask
from ..ops.nms import sort_scores, top_scores
from ..ops.soft_nms import soft_nms
from ..structures import Detections, Proposals

CANDIDATES = 1024  # (proposal, class) pairs the suppression looks at, at first


class DetectionRule(NamedTuple):
    """Which (proposal, class) pairs become detections."""

    # scores must be greater; one number, or one a class 1..C-1
    score_thresh: float | tuple[float, ...]
    # IoU above which the worse detection of a class goes
    nms_thresh: float
    top_k: int  # detections kept of each image, D
    reg_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)  # factors of the deltas
    min_size: float = 1e-2  # least width and height
    clamp_both: bool = False  # clamp regressed log sizes from below too
    nms_kind: str = "hard"  # ``"hard"``, or ``"linear"`` or ``"gaussian"`` of Soft-NMS
    nms_sigma: float = 0.5  # of ``"gaussian"``
    agnostic: bool = False  # whether classes suppress each other


def detection_rule(
    config: BoxConfig,
    score_thresh: float | Sequence[float] | None = None,
    nms_thresh: float | None = None,
    top_k: int | None = None,
) -> DetectionRule:
    """The rule of a config as it is now, other thresholds in place of its own if they are given."""
    score = config.box_score_thresh if score_thresh is None else score_thresh
    overlap = config.box_nms_thresh if nms_thresh is None else nms_thresh
    most = config.box_detections_per_img if top_k is None else top_k
    scores = _numbers("score_thresh", score)
    # ValueError: a threshold outside [0, 1]; TypeError: one that is no number.
    for name, value in [("nms_thresh", overlap), *(("score_thresh", v) for v in scores)]:
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ValueError(f"top_k={most!r}: expected a positive integer")
    return DetectionRule(
        tuple(map(float, scores)) if np.ndim(score) else float(scores[0]),
        float(overlap),
        most,
        config.box_stages[-1].reg_weights,
        config.box_min_size,
        config.bbox_clamp_both,
        config.box_nms_kind,
        config.box_nms_sigma,
        config.box_nms_agnostic,
    )


def check_thresholds(rule: DetectionRule, num_classes: int) -> None:
    """Hold thresholds by class against the classes there are, by a ValueError."""
    each = rule.score_thresh
    if isinstance(each, tuple) and len(each) != num_classes - 1:
        raise ValueError(
            f"score_thresh has {len(each)} entries: expected one number, or {num_classes - 1}, one "
            "a class without the background"
        )


def _numbers(name: str, value: Any) -> list[float]:
    """One number or a sequence of them, as a list."""
    each = list(value) if np.ndim(value) == 1 else [value]
    for item in each:
        if isinstance(item, bool | str) or np.ndim(item):
            raise TypeError(f"{name}={value!r}: expected a number, or one a class")
    return each


def select_detections(
    cls_logits: mx.array,  # (N, P, C): class 0 is the background
    bbox_deltas: mx.array,  # (N, P, 4 * C or 4): class specific or not
    proposals: Proposals,
    sizes: mx.array,  # (N, 2) of the unpadded images
    rule: DetectionRule,
    candidates: int = CANDIDATES,  # (proposal, class) pairs considered
    rounds: int | None = None,  # of :func:`~mlx_rcnn.ops.nms_mask`
) -> Detections:
    """Decode, threshold, suppress within each class, and keep the best."""
    # As ``RoIHeads.postprocess_detections`` of torchvision, on the best pairs: suppression never
    # looks at a worse pair, so if those yield ``top_k`` detections or are all that pass the
    # threshold, the others cannot matter.
    found, all_there = _candidates(cls_logits, bbox_deltas, proposals, sizes, rule, candidates)
    return suppress(found, rule, all_there, rounds)


def pick_detections(
    cls_logits: mx.array,
    bbox_deltas: mx.array,
    proposals: Proposals,
    sizes: mx.array,
    rule: DetectionRule,
) -> Detections:
    """What :func:`select_detections` comes to once it is exact, without asking the host."""
    _, count, classes = cls_logits.shape
    lowest = min(rule.score_thresh) if isinstance(rule.score_thresh, tuple) else rule.score_thresh
    # It picks ``top_k`` times among all pairs that can pass the threshold: a proposal's scores add
    # up to 1 at the most, so few of its classes can.
    passing = int(min(classes - 1, 1.001 / max(lowest, 1e-6)))  # the sum may be rounded up
    most = max(count * passing, 1)
    found, all_there = _candidates(cls_logits, bbox_deltas, proposals, sizes, rule, most)
    best, exact = _lowering(found, rule, _least(found, rule), all_there)
    return _gathered(found, best, exact)


def _candidates(
    cls_logits: mx.array,
    bbox_deltas: mx.array,
    proposals: Proposals,
    sizes: mx.array,
    rule: DetectionRule,
    candidates: int,
) -> tuple[Candidates, mx.array]:
    """The best pairs that pass, decoded, and whether (N,) they are all."""
    images, count, classes = cls_logits.shape
    least = mx.array(rule.score_thresh)  # () or (C - 1,)
    scores = mx.softmax(cls_logits.astype(mx.float32), axis=-1)[..., 1:]
    passing = proposals.valid[..., None] & (scores > least)
    scores = mx.where(passing, scores, -1.0).reshape(images, -1)  # (N, P * (C - 1))
    candidates = min(candidates, scores.shape[1])
    pair = top_scores(scores, candidates)  # (N, K)
    row, label = pair // (classes - 1), pair % (classes - 1) + 1
    score = mx.take_along_axis(scores, pair, axis=1)
    deltas = bbox_deltas.reshape(images, -1, 4)
    which = row if deltas.shape[1] == count else row * classes + label
    boxes = decode_boxes(
        mx.take_along_axis(deltas, which[..., None], axis=1),
        mx.take_along_axis(proposals.boxes, row[..., None], axis=1),
        rule.reg_weights,
        clip_below=rule.clamp_both,
    )
    boxes = clip_boxes(boxes, sizes)
    valid = mx.all(boxes[..., 2:] - boxes[..., :2] >= rule.min_size, axis=-1) & (score > 0)
    all_there = mx.sum(passing, axis=(1, 2)) <= candidates
    return Candidates(boxes, score, label, valid), all_there


class Candidates(NamedTuple):
    """``boxes`` (N, K, 4), ``scores`` (N, K), falling, ``labels`` and ``valid`` (N, K)."""

    boxes: mx.array
    scores: mx.array
    labels: mx.array
    valid: mx.array


def suppress(
    found: Candidates, rule: DetectionRule, all_there: mx.array, rounds: int | None = None
) -> Detections:
    """Suppression within each class, and the best of what it leaves, in the frame given."""
    if rule.nms_kind == "hard":  # ``all_there`` (N,): whether no candidate of an image was left out
        best, exact = _dropping(found, rule, all_there, rounds)
    else:
        # scores are compared with the rule's once more where they are lowered
        best, exact = _lowering(found, rule, _least(found, rule), all_there)
    return _gathered(found, best, exact)


def _least(found: Candidates, rule: DetectionRule) -> mx.array:
    """The threshold of each candidate, (N, K), or the one of all, ()."""
    least = mx.array(rule.score_thresh)  # () or (C - 1,)
    return least[found.labels - 1] if least.ndim else least


def _gathered(found: Candidates, best: _Best, exact: mx.array) -> Detections:
    """The chosen candidates."""
    return Detections(
        mx.take_along_axis(found.boxes, best.rows[..., None], axis=1),
        best.scores,
        mx.take_along_axis(found.labels, best.rows, axis=1),
        best.keep,
        exact,
    )


class _Best(NamedTuple):
    """Rows (N, D) of the candidates by falling score, those scores, and which count."""

    rows: mx.array
    scores: mx.array
    keep: mx.array


def _dropping(
    found: Candidates, rule: DetectionRule, all_there: mx.array, rounds: int | None
) -> tuple[_Best, mx.array]:
    """Suppression proper of K candidates an image, and whether it is exact."""
    labels = None if rule.agnostic else found.labels
    keep, settled = nms_mask(found.boxes, found.valid, rule.nms_thresh, labels, rounds)
    enough = (mx.sum(keep, axis=1) >= rule.top_k) | all_there
    best = sort_scores(mx.where(keep, found.scores, -1.0))[:, : rule.top_k]
    score, keep = (mx.take_along_axis(v, best, axis=1) for v in (found.scores, keep))
    return _Best(best, score, keep), settled & mx.all(enough)


def _lowering(
    found: Candidates, rule: DetectionRule, least: mx.array, all_there: mx.array
) -> tuple[_Best, mx.array]:
    """Suppression by picks; one left out cannot matter while ``top_k`` picks beat the worst."""
    best, final = soft_nms(
        found.boxes,
        mx.where(found.valid, found.scores, -1.0),
        rule.top_k,
        rule.nms_kind,
        rule.nms_thresh,
        rule.nms_sigma,
        None if rule.agnostic else found.labels,
        least,
    )
    better = mx.sum(final >= found.scores[:, -1:], axis=1)
    return _Best(best, final, final > 0), mx.all((better >= rule.top_k) | all_there)
