"""Region proposal network (Ren et al., 2015): which anchors hold an object, and where exactly."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..config.proposals import ProposingConfig
from ..layers import Conv2d, conv_relu
from ..ops import clip_boxes, decode_boxes, encode_boxes, nms_mask
from ..ops.losses import binary_cross_entropy, box_regression_error, normaliser
from ..ops.matching import BELOW, Sample, match, sample
from ..ops.nms import on_gpu, sort_scores, top_scores
from ..structures import Proposals, Targets
from .anchors import anchor_generator


class RPNHead(nn.Module):
    """A 3x3 convolution shared by all levels, then 1x1 objectness and box regression."""

    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1):
        super().__init__()
        self.conv = [
            [Conv2d(in_channels, in_channels, 3, padding=1, std=0.01)] for _ in range(conv_depth)
        ]
        self.cls_logits = Conv2d(in_channels, num_anchors, 1, std=0.01)
        self.bbox_pred = Conv2d(in_channels, 4 * num_anchors, 1, std=0.01)

    @property
    def num_anchors(self) -> int:
        """Anchors a cell."""
        count: int = self.cls_logits.weight.shape[0]
        return count

    def __call__(self, features: list[mx.array]) -> tuple[list[mx.array], list[mx.array]]:
        """Logits (N, h*w*A) and deltas (N, h*w*A, 4) of each map (N, h, w, C), as anchors lie."""
        logits, deltas = [], []
        for x in features:
            n = x.shape[0]
            for block in self.conv:
                x = conv_relu(x, block[0])
            logits.append(self.cls_logits(x).reshape(n, -1).astype(mx.float32))
            deltas.append(self.bbox_pred(x).reshape(n, -1, 4).astype(mx.float32))
        return logits, deltas


class RPNOutputs(NamedTuple):
    """One entry a level: ``logits`` (N, n), ``deltas`` (N, n, 4), ``anchors`` ((N,) n, 4)."""

    logits: list[mx.array]
    deltas: list[mx.array]
    anchors: list[mx.array]


class ProposalRule(NamedTuple):
    """Which anchors become proposals."""

    pre_nms_top_n: int  # best anchors kept of each level
    post_nms_top_n: int  # proposals kept of each image, over all levels
    # IoU above which a proposal is suppressed
    nms_thresh: float
    score_thresh: float = 0.0  # least sigmoid of the objectness
    min_size: float = 1e-3  # least width and height, which must be above 0 too
    ranking: str = "torchvision"  # see :class:`~mlx_rcnn.FasterRCNNConfig`
    clamp_both: bool = False  # clamp log sizes from below too


def proposal_rule(config: ProposingConfig, training: bool = False) -> ProposalRule:
    """The rule of a config as it is now, for prediction or for training."""
    most = (
        (config.rpn_pre_nms_top_n_train, config.rpn_post_nms_top_n_train)
        if training
        else (config.rpn_pre_nms_top_n_test, config.rpn_post_nms_top_n_test)
    )
    return ProposalRule(
        *most,
        config.rpn_nms_thresh,
        config.rpn_score_thresh,
        config.rpn_min_size,
        config.rpn_ranking,
        config.bbox_clamp_both,
    )


class RegionProposalNetwork(nn.Module):
    """The network's layers; anchors and rules are made from the config where they are used."""

    def __init__(self, config: ProposingConfig):
        super().__init__()
        per_cell = anchor_generator(config).per_cell
        self.head = RPNHead(config.feat_channels, per_cell, config.rpn_conv_depth)

    def __call__(self, features: list[mx.array], anchors: list[mx.array]) -> RPNOutputs:
        """Raw outputs of maps (N, h, w, C), finest first, with anchors (n, 4) or (N, n, 4) each."""
        return RPNOutputs(*self.head(features), anchors)


def select_proposals(
    outputs: RPNOutputs, sizes: mx.array, rule: ProposalRule, rounds: int | None = None
) -> Proposals:
    """The best anchors of each level, decoded, clipped, and suppressed within their level."""
    # As ``filter_proposals`` of torchvision's ``RegionProposalNetwork``.
    most = min(rule.pre_nms_top_n, max(a.shape[-2] for a in outputs.anchors))
    # boxes are clipped to ``sizes`` (N, 2), (height, width) of the unpadded images
    each = [_best_of_level(*level, sizes, rule, most) for level in zip(*outputs, strict=True)]
    images, levels = outputs.logits[0].shape[0], len(each)
    box, score, rank, ok = (  # (N, L, k, ...)
        mx.stack(list(v), axis=1) for v in zip(*each, strict=True)
    )
    counts = [min(most, a.shape[-2]) for a in outputs.anchors]
    keep, exact = _suppressed(box, ok, counts, rule.nms_thresh, rounds)
    keep = keep.reshape(images, levels * most)
    score, rank = (v.reshape(images, levels * most) for v in (score, rank))
    best = sort_scores(mx.where(keep, rank, -mx.inf))[:, : rule.post_nms_top_n]
    # P = ``rule.post_nms_top_n`` an image (fewer of fewer anchors), by falling score
    return Proposals(
        mx.take_along_axis(box.reshape(images, -1, 4), best[..., None], axis=1),
        mx.take_along_axis(score, best, axis=1),
        mx.take_along_axis(keep, best, axis=1),
        exact,
    )


def _suppressed(
    box: mx.array, ok: mx.array, counts: list[int], threshold: float, rounds: int | None
) -> tuple[mx.array, mx.array]:
    """(N, L, k) which boxes of each level stay, of level i ``counts[i]``, and whether exactly."""
    images, levels, most = ok.shape
    # A CPU's work grows with the square of a list: levels of half of it and less go by themselves.
    short = levels
    while not on_gpu() and short > 1 and 2 * counts[short - 1] <= most:
        short -= 1
    keeps, exacts = [], []
    for part in (slice(0, short), slice(short, levels))[: 1 + (short < levels)]:
        n = max(counts[part])
        keep, exact = nms_mask(
            box[:, part, :n].reshape(-1, n, 4),
            ok[:, part, :n].reshape(-1, n),
            threshold,
            None,
            rounds,
        )
        keeps.append(mx.pad(keep.reshape(images, -1, n), [(0, 0), (0, 0), (0, most - n)]))
        exacts.append(exact)
    return mx.concatenate(keeps, axis=1), mx.all(mx.stack(exacts))


def _best_of_level(
    logits: mx.array,
    deltas: mx.array,
    anchors: mx.array,
    sizes: mx.array,
    rule: ProposalRule,
    most: int,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Boxes (N, most, 4), scores, ranks and whether they count (N, most) of one level's anchors."""
    ranks = mx.sigmoid(logits) if rule.ranking == "mmdetection" else logits
    best = top_scores(ranks, min(most, anchors.shape[-2]))  # (N, k)
    delta = mx.take_along_axis(deltas, best[..., None], axis=1)
    alike = anchors.ndim == 2  # for all images
    anchor = anchors[best] if alike else mx.take_along_axis(anchors, best[..., None], axis=1)
    box = clip_boxes(decode_boxes(delta, anchor, clip_below=rule.clamp_both), sizes)
    logit = mx.take_along_axis(logits, best, axis=1)
    score = mx.sigmoid(logit)
    side = box[..., 2:] - box[..., :2]
    ok = mx.all((side >= rule.min_size) & (side > 0), axis=-1) & (score >= rule.score_thresh)
    rank = logit if rule.ranking == "detectron2" else score
    room = (0, most - best.shape[1])  # every level gets equal length
    return (
        mx.pad(box, [(0, 0), room, (0, 0)]),
        mx.pad(score, [(0, 0), room]),
        mx.pad(rank, [(0, 0), room]),
        mx.pad(ok, [(0, 0), room]),
    )


def rpn_losses(
    outputs: RPNOutputs,
    targets: Targets,
    config: ProposingConfig,
    key: mx.array,
    group: mx.distributed.Group | None = None,
) -> tuple[mx.array, mx.array]:
    """Objectness and box regression losses of a batch (Faster R-CNN, equation 1), two scalars."""
    logits, deltas = mx.concatenate(outputs.logits, axis=1), mx.concatenate(outputs.deltas, axis=1)
    every = mx.concatenate(outputs.anchors, axis=-2)
    classification = regression = count = mx.array(0.0)
    for i, k in enumerate(mx.random.split(key, logits.shape[0])):
        anchors = every if every.ndim == 2 else every[i]
        chosen, matched = _sampled(anchors, targets.boxes[i], targets.valid[i], config, k)
        positive, anchor = chosen.positive[:, None], anchors[chosen.rows]
        error = binary_cross_entropy(logits[i][chosen.rows], positive[:, 0].astype(mx.float32))
        classification = classification + mx.sum(mx.where(chosen.valid, error, 0.0))
        # Rows that are not positive aim at their own anchor: finite, and then left out.
        target = targets.boxes[i][mx.maximum(matched[chosen.rows], 0)]
        regression_targets = encode_boxes(mx.where(positive, target, anchor), anchor)
        error = box_regression_error(
            deltas[i][chosen.rows],
            regression_targets,
            anchor,
            config.rpn_reg_loss,
            config.rpn_smooth_l1_beta,
        )
        regression = regression + mx.sum(mx.where(chosen.positive, error, 0.0))
        count = count + mx.sum(chosen.valid)
    # as torchvision: sums over the sampled anchors of the batch by their number
    count = normaliser(count, group)
    return classification / count, regression / count


def _sampled(
    anchors: mx.array, boxes: mx.array, valid: mx.array, config: ProposingConfig, key: mx.array
) -> tuple[Sample, mx.array]:
    """The anchors of an image that are learned from, and the target each anchor is matched to."""
    matched = match(
        boxes,
        valid,
        anchors,
        config.rpn_fg_iou_thresh,
        config.rpn_bg_iou_thresh,
        allow_low_quality=True,
    )
    chosen = sample(
        matched >= 0,
        matched == BELOW,
        config.rpn_batch_size_per_image,
        config.rpn_positive_fraction,
        key,
    )
    return chosen, matched
