"""Box head (Fast R-CNN): what class a proposal is, and how its box should move."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..assign import BELOW, match, sample
from ..config import FasterRCNNConfig
from ..layers import Conv2d, EvaluatedModule, Linear, conv_norm, make_norm
from ..losses import cross_entropy, normaliser, smooth_l1
from ..ops import clip_boxes, decode_boxes, encode_boxes, nms_mask
from ..ops.nms import sort_scores, top_scores
from ..structures import Detections, Proposals, Targets
from .res5 import Res5Head


class TwoMLPHead(nn.Module):
    """Two linear layers with ReLU over the flattened RoI features.

    Args:
        in_features (int): ph * pw * C, flattened in that order.
        hidden_dim (int): units of both layers.
    """

    def __init__(self, in_features: int, hidden_dim: int):
        super().__init__()
        self.fc6 = Linear(in_features, hidden_dim)
        self.fc7 = Linear(hidden_dim, hidden_dim)

    def __call__(
        self, x: mx.array, dropout: float = 0.0, key: mx.array | None = None,
        valid: mx.array | None = None,
    ) -> mx.array:  # fmt: skip
        """(R, ph, pw, C) -> (R, hidden_dim).

        Args:
            x: RoI features.
            dropout: share of units dropped after each layer. Default: none.
            key: of the dropout.
            valid (R,): which RoIs count; it makes no difference here.
        """
        x = x.flatten(1)
        keys = mx.random.split(key, 2) if dropout and key is not None else (None, None)
        for layer, k in zip((self.fc6, self.fc7), keys, strict=True):
            x = mx.maximum(layer(x), 0)
            if k is not None:
                x = x * mx.random.bernoulli(1 - dropout, x.shape, key=k) / (1 - dropout)
        return x


class FastRCNNConvFCHead(nn.Module):
    """3x3 convolutions, then one linear layer over what they leave, with ReLU throughout.

    Args:
        in_channels (int): C of the RoI features and of every convolution.
        pool_size ((int, int)): (ph, pw) of the RoI features.
        num_convs (int): convolutions.
        hidden_dim (int): units of the linear layer.
        norm (str): ``"batch"``, ``"frozen"`` or ``"group"`` after each convolution, or ``None`` for
            biases instead. Default: ``None``.
    """

    def __init__(
        self, in_channels: int, pool_size: tuple[int, int], num_convs: int, hidden_dim: int,
        norm: str | None = None,
    ):  # fmt: skip
        super().__init__()
        self.convs = [
            Conv2d(in_channels, in_channels, 3, padding=1, bias=norm is None)
            for _ in range(num_convs)
        ]
        if norm is not None:
            self.norms = [make_norm(norm, in_channels) for _ in range(num_convs)]
        self.fc = Linear(pool_size[0] * pool_size[1] * in_channels, hidden_dim)

    def __call__(
        self, x: mx.array, dropout: float = 0.0, key: mx.array | None = None,
        valid: mx.array | None = None,
    ) -> mx.array:  # fmt: skip
        """(R, ph, pw, C) -> (R, hidden_dim).

        Args:
            x: RoI features.
            dropout: share of units dropped at the end. Default: none.
            key: of the dropout.
            valid (R,): RoIs that a batch norm takes its statistics over. Default: all.
        """
        norms = self.norms if "norms" in self else [None] * len(self.convs)
        for conv, norm in zip(self.convs, norms, strict=True):
            x = conv_norm(x, conv, norm, valid=valid)
        x = mx.maximum(self.fc(x.flatten(1)), 0)
        if dropout and key is not None:
            x = x * mx.random.bernoulli(1 - dropout, x.shape, key=key) / (1 - dropout)
        return x


class FastRCNNPredictor(nn.Module):
    """Class logits and box deltas of each RoI; replace it to train for other classes.

    Args:
        in_channels (int): features of the box head.
        num_classes (int): with the background.
        class_agnostic (bool): one regression for all classes. Default: ``False``.
    """

    def __init__(self, in_channels: int, num_classes: int, class_agnostic: bool = False):
        super().__init__()
        self.cls_score = Linear(in_channels, num_classes, std=0.01)
        self.bbox_pred = Linear(in_channels, 4 * (1 if class_agnostic else num_classes), std=0.001)

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """(R, in_channels) -> logits (R, C) and deltas (R, 4 * C or 4), float32."""
        return self.cls_score(x).astype(mx.float32), self.bbox_pred(x).astype(mx.float32)


class RoIHeads(EvaluatedModule):
    """The heads over RoI features, under torchvision's attribute names.

    Args:
        config (FasterRCNNConfig): sizes of the box head.
    """

    def __init__(self, config: FasterRCNNConfig):
        super().__init__()
        height, width = config.pool_size
        hidden = config.hidden_dim
        self.box_head: nn.Module
        if config.res5_head:
            self.box_head = Res5Head(config.backbone)
            hidden = self.box_head.out_channels
        elif config.box_head_convs:
            self.box_head = FastRCNNConvFCHead(
                config.feat_channels, config.pool_size, config.box_head_convs, hidden,
                config.box_head_norm,
            )  # fmt: skip
        else:
            self.box_head = TwoMLPHead(height * width * config.feat_channels, hidden)
        self.box_predictor = FastRCNNPredictor(
            hidden, config.num_classes, config.class_agnostic_bbox
        )


def select_detections(
    cls_logits: mx.array,
    bbox_deltas: mx.array,
    proposals: Proposals,
    sizes: mx.array,
    score_thresh: float,
    nms_thresh: float,
    top_k: int,
    bbox_reg_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0),
    min_size: float = 1e-2,
    candidates: int = 1024,
    rounds: int | None = None,
    clamp_both: bool = False,
) -> Detections:
    """Decode, threshold, suppress within each class, and keep the best.

    As ``RoIHeads.postprocess_detections`` of torchvision, on the ``candidates`` best (proposal,
    class) pairs: suppression never looks at a worse pair, so if those yield ``top_k`` detections or
    are all that pass the threshold, the others cannot matter.

    Args:
        cls_logits (N, P, C): class 0 is the background.
        bbox_deltas (N, P, 4 * C or 4): class specific or not.
        proposals: P an image.
        sizes (N, 2): (height, width) of the unpadded images.
        score_thresh: scores must be greater.
        nms_thresh: IoU above which the worse detection of a class goes.
        top_k: detections kept of each image, D.
        bbox_reg_weights: factors of the deltas.
        min_size: least width and height. Default: ``1e-2``.
        candidates: pairs considered. Default: ``1024``.
        rounds: of :func:`~mlx_rcnn.ops.nms_mask`.
        clamp_both: clamp regressed log sizes from below too. Default: ``False``.

    Returns:
        The detections, boxes in pixels of the network input.
    """
    images, count, classes = cls_logits.shape
    scores = mx.softmax(cls_logits.astype(mx.float32), axis=-1)[..., 1:]
    passing = proposals.valid[..., None] & (scores > score_thresh)
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
        bbox_reg_weights,
        clip_below=clamp_both,
    )
    boxes = clip_boxes(boxes, sizes)
    valid = mx.all(boxes[..., 2:] - boxes[..., :2] >= min_size, axis=-1) & (score > score_thresh)
    keep, settled = nms_mask(boxes, valid, nms_thresh, label, rounds)
    enough = (mx.sum(keep, axis=1) >= top_k) | (mx.sum(passing, axis=(1, 2)) <= candidates)
    best = sort_scores(mx.where(keep, score, -1.0))[:, :top_k]
    return Detections(
        mx.take_along_axis(boxes, best[..., None], axis=1),
        mx.take_along_axis(score, best, axis=1),
        mx.take_along_axis(label, best, axis=1),
        mx.take_along_axis(keep, best, axis=1),
        settled & mx.all(enough),
    )


class SampledRoIs(NamedTuple):
    """Proposals to learn from, S an image, positives first.

    ``boxes`` (N, S, 4); ``labels`` (N, S), 0 for background; ``matched`` (N, S), the target's row;
    ``goals`` (N, S, 4), regression targets; ``positive`` and ``valid`` (N, S).
    """

    boxes: mx.array
    labels: mx.array
    matched: mx.array
    goals: mx.array
    positive: mx.array
    valid: mx.array


def sample_rois(
    proposals: Proposals, targets: Targets, config: FasterRCNNConfig, key: mx.array
) -> SampledRoIs:
    """Match proposals, and the targets' own boxes, to the targets, and draw a balanced sample.

    As ``RoIHeads.select_training_samples`` of torchvision.

    Args:
        proposals: of the network, taken as given.
        targets: in pixels of the network input.
        config: the fields ``box_*_iou_thresh``, ``box_batch_size_per_image``,
            ``box_positive_fraction`` and ``bbox_reg_weights``.
        key: of the sampling.

    Returns:
        S = ``box_batch_size_per_image`` rows an image, or as many as there are candidates.
    """
    rows = []
    for i, k in enumerate(mx.random.split(key, proposals.boxes.shape[0])):
        candidates = mx.concatenate([proposals.boxes[i], targets.boxes[i]])
        exists = mx.concatenate([proposals.valid[i], targets.valid[i]])
        matched = match(
            targets.boxes[i], targets.valid[i], candidates, config.box_fg_iou_thresh,
            config.box_bg_iou_thresh, allow_low_quality=False,
        )  # fmt: skip
        chosen = sample(
            exists & (matched >= 0), exists & (matched == BELOW),
            config.box_batch_size_per_image, config.box_positive_fraction, k,
        )  # fmt: skip
        boxes, row = candidates[chosen.rows], mx.maximum(matched[chosen.rows], 0)
        safe = mx.where(chosen.valid[:, None], boxes, mx.array([0.0, 0.0, 1.0, 1.0]))
        target = mx.where(chosen.positive[:, None], targets.boxes[i][row], safe)
        goals = encode_boxes(target, safe, config.bbox_reg_weights)
        labels = mx.where(chosen.positive, targets.labels[i][row], 0)
        rows.append((boxes, labels, row, goals, chosen.positive, chosen.valid))
    return SampledRoIs(*(mx.stack(list(column)) for column in zip(*rows, strict=True)))


def box_losses(
    cls_logits: mx.array,
    bbox_deltas: mx.array,
    rois: SampledRoIs,
    group: mx.distributed.Group | None = None,
) -> tuple[mx.array, mx.array]:
    """Classification and box regression losses (Fast R-CNN, equation 1), as torchvision's.

    Args:
        cls_logits (N, S, C).
        bbox_deltas (N, S, 4 * C or 4).
        rois: the S sampled RoIs of each image.
        group: of the machines that share a batch. Default: none.

    Returns:
        Two scalars, sums over the sampled RoIs of the batch divided by their number: cross-entropy,
        and smooth L1 of the positives' own class.
    """
    labels, valid = rois.labels.reshape(-1), rois.valid.reshape(-1)
    count = normaliser(mx.sum(valid), group)
    error = cross_entropy(cls_logits.reshape(labels.shape[0], -1), labels)
    classification = mx.sum(mx.where(valid, error, 0.0)) / count
    deltas = bbox_deltas.reshape(labels.shape[0], -1, 4)
    own = labels if deltas.shape[1] > 1 else mx.zeros_like(labels)
    deltas = mx.take_along_axis(deltas, own[:, None, None], axis=1)[:, 0]
    error = smooth_l1(deltas, rois.goals.reshape(-1, 4))
    return classification, mx.sum(mx.where(rois.positive.reshape(-1, 1), error, 0.0)) / count
