"""Box head (Fast R-CNN): what class a proposal is, and how its box should move."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..layers import Linear
from ..ops import clip_boxes, decode_boxes, nms_mask
from ..ops.nms import ROUNDS, sort_scores, top_scores
from ..structures import Detections, Proposals


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

    def __call__(self, x: mx.array) -> mx.array:
        """(R, ph, pw, C) -> (R, hidden_dim)."""
        x = mx.maximum(self.fc6(x.reshape(x.shape[0], -1)), 0)
        return mx.maximum(self.fc7(x), 0)


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


class RoIHeads(nn.Module):
    """The heads over RoI features, under torchvision's attribute names.

    Args:
        config (FasterRCNNConfig): sizes of the box head.
    """

    def __init__(self, config: Any):
        super().__init__()
        height, width = config.pool_size
        self.box_head = TwoMLPHead(height * width * config.feat_channels, config.hidden_dim)
        self.box_predictor = FastRCNNPredictor(
            config.hidden_dim, config.num_classes, config.class_agnostic_bbox
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
    rounds: int = ROUNDS,
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
