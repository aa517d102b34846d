"""R-CNN's head: linear layers over a classifier's units and last map, and what they learn from."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn

from ..config.boxes import RCNNConfig
from ..layers import EvaluatedModule, Linear
from ..ops import box_iou
from ..ops.losses import cross_entropy, normaliser
from ..structures import Targets
from .sampling import SampledRoIs

SPEED = 10.0  # of the regression, see RCNNPredictor.regress
RIDGE_PAIRS = 10_000  # of each class, over which config.ridge is spread


def classifier_of(backbone: nn.Module) -> nn.Module:
    """The classifier in a backbone of this package, or a module that is one; else TypeError."""
    net: nn.Module = backbone.net if "net" in backbone else backbone
    if not all(hasattr(net, name) for name in ("pooled", "units", "unit_channels")):
        raise TypeError(
            f"backbone {type(backbone).__name__}: expected a classifier, with pooled, units and "
            "unit_channels, such as those of VGGConfig, AlexNetConfig and ResNetConfig"
        )
    return net


class RCNNPredictor(nn.Module):
    """Class logits and box deltas of crops; replace it to train for other classes."""

    # ``units`` of the classifier's last hidden layer, ``values`` of its last pooled map, flattened
    def __init__(self, units: int, values: int, num_classes: int):
        super().__init__()
        self.cls_score = Linear(units, num_classes, std=0.01)
        self.bbox_pred = Linear(values, 4 * num_classes, std=0.0)

    def __call__(self, units: mx.array, pooled: mx.array) -> tuple[mx.array, mx.array]:
        """(R, units) and (R, h, w, c) -> logits (R, C) and deltas (R, 4 * C), float32."""
        deltas = self.bbox_pred(pooled.flatten(1))
        return self.cls_score(units).astype(mx.float32), deltas.astype(mx.float32)

    def regress(self, pooled: mx.array) -> tuple[mx.array, mx.array]:
        """Deltas (R, 4 * C) of (R, h, w, c) to be learned, and their weights, to be penalised."""
        # no gradient reaches the map
        values = mx.stop_gradient(pooled.flatten(1).astype(mx.float32))
        # The gradient of the weights is multiplied by 10 over the greatest square of what they
        # multiply, as in normalised least mean squares, so that one learning rate does for maps of
        # any scale: with a momentum of 0.9 all up to 0.19 are stable.
        scale = SPEED / mx.maximum(mx.max(mx.sum(values**2, axis=1)), 1e-6)
        weight = _slowed(self.bbox_pred.weight.astype(mx.float32), scale)
        return mx.addmm(self.bbox_pred.bias.astype(mx.float32), values, weight.T), weight


def _slowed(weight: mx.array, scale: mx.array) -> mx.array:
    """The same weight to the bit, whose gradient is multiplied by a scale."""
    share = weight * scale
    return mx.stop_gradient(weight) + (share - mx.stop_gradient(share))


class RCNNHeads(EvaluatedModule):
    """The part ``roi_heads`` of an R-CNN."""

    def __init__(self, config: RCNNConfig, units: int, values: int):
        super().__init__()
        self.box_predictor = RCNNPredictor(units, values, config.num_classes)
        if config.rcnn_scores == "svm":
            self.svms = Linear(units, config.num_classes - 1, std=0.0)

    def outputs(self, units: mx.array, pooled: mx.array) -> tuple[mx.array, mx.array]:
        """Logits (R, C) and deltas (R, 4 * C) of units (R, u) and maps (R, h, w, c), float32."""
        logits, deltas = self.box_predictor(units, pooled)
        if "svms" in self:
            logits = svm_logits(self.svms(units).astype(mx.float32))
        return logits, deltas


def svm_logits(margins: mx.array) -> mx.array:
    """(..., C) logits whose softmax is the sigmoid of each of C - 1 margins, over their number."""
    # Margins of C - 1 SVMs are no distribution over classes; their sigmoids, which keep the order,
    # become one when they are divided by C - 1 and the rest goes to the background.
    negative = -mx.logaddexp(margins, 0.0)  # log sigmoid(-margin)
    rest = mx.logsumexp(negative, axis=-1, keepdims=True)
    return mx.concatenate([rest, negative + margins], axis=-1) - math.log(margins.shape[-1])


def rcnn_losses(
    logits: mx.array,  # (N * S, C) of the sampled crops
    deltas: mx.array,  # (N * S, 4 * C)
    rois: SampledRoIs,
    targets: Targets,
    config: RCNNConfig,
    weight: mx.array,  # (4 * C, h * w * c) of the regression
    group: mx.distributed.Group | None = None,
) -> tuple[mx.array, mx.array]:
    """What fine-tuning and the box regression minimise (R-CNN, section 2.3 and appendix C)."""
    labels, valid = rois.labels.reshape(-1), rois.valid.reshape(-1)
    error = mx.where(valid, cross_entropy(logits, labels), 0.0)
    # the mean cross-entropy of the crops
    classification = mx.sum(error) / normaliser(mx.sum(valid), group)
    near = mx.stack(
        [_overlaps(boxes, targets.boxes[i], rois.matched[i]) for i, boxes in enumerate(rois.boxes)]
    )
    # crops and targets that overlap by more than the threshold
    pairs = (rois.positive & (near > config.box_reg_iou_thresh)).reshape(-1)
    own = mx.take_along_axis(deltas.reshape(len(labels), -1, 4), labels[:, None, None], axis=1)
    error = mx.sum((own[:, 0] - rois.regression_targets.reshape(-1, 4)) ** 2, axis=1)
    # the mean squared error of the deltas of pairs
    regression = mx.sum(mx.where(pairs, error, 0.0)) / normaliser(mx.sum(pairs), group)
    classes = logits.shape[1] - 1
    # the mean over the classes of their squared weights
    penalty = mx.sum(weight[4:] ** 2) / classes
    return classification, regression + config.ridge / RIDGE_PAIRS * penalty


def _overlaps(boxes: mx.array, targets: mx.array, matched: mx.array) -> mx.array:
    """IoU (S,) of boxes (S, 4) with the rows of targets (M, 4) they are matched to."""
    return box_iou(boxes[:, None], targets[matched][:, None])[:, 0, 0]
