"""What stands between and around the box heads of a cascade (Cai and Vasconcelos, 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from ..config.boxes import BoxStage
from ..config.detector import MaskRCNNConfig
from ..ops import clip_boxes, decode_boxes
from ..structures import Proposals, Targets
from .branch import Stage
from .mask import MaskBranch
from .sampling import SampledRoIs

TINY = 1e-37  # above float32's least normal number, which a GPU may take for 0
ONE = MaskBranch()  # the mask head of one stage


def refine_boxes(
    proposals: Proposals,
    # (N, P, C): class specific deltas are those of the best class but the background
    cls_logits: mx.array,
    bbox_deltas: mx.array,  # (N, P, 4 * C or 4)
    sizes: mx.array,  # (N, 2) of the unpadded images, to which boxes are clipped
    rule: BoxStage,  # of the stage they were computed in
    clamp_both: bool = False,  # clamp log sizes from below too
) -> Proposals:
    """The P boxes an image that the next stage starts from, as constants."""
    n, count = proposals.boxes.shape[:2]
    deltas = mx.stop_gradient(bbox_deltas).reshape(n, count, -1, 4)
    best = mx.zeros((n, count), dtype=mx.int32)
    if deltas.shape[2] > 1:
        best = mx.argmax(cls_logits[..., 1:], axis=-1).astype(mx.int32) + 1
    deltas = mx.take_along_axis(deltas, best[..., None, None], axis=2)[:, :, 0]
    boxes = decode_boxes(deltas, proposals.boxes, rule.reg_weights, clip_below=clamp_both)
    return proposals._replace(boxes=clip_boxes(boxes, sizes))  # scores and which are valid stay


def without_empty(proposals: Proposals) -> Proposals:
    """Without boxes that have no width or height, which only training leaves out."""
    boxes = proposals.boxes
    whole = mx.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    return proposals._replace(valid=proposals.valid & whole)


def average_scores(cls_logits: Sequence[mx.array], kind: str) -> mx.array:
    """(N, P, C) class logits whose softmax is the average over the stages."""
    if kind == "logit":
        return mx.mean(mx.stack(list(cls_logits)), axis=0)  # mmdetection
    # their softmax, as detectron2
    mean = mx.mean(mx.stack([mx.softmax(v, axis=-1) for v in cls_logits]), axis=0)
    return mx.log(mx.maximum(mean, TINY))


class StageMaskBranch(MaskBranch):
    """A mask head a box stage, whose probabilities are averaged (mmdetection)."""

    def build(self, heads: nn.Module, config: MaskRCNNConfig) -> None:
        """See :meth:`~mlx_rcnn.heads.Branch.build`."""
        parts = []
        for _ in config.box_stages:
            ONE.build(heads, config)
            parts.append((heads.mask_head, heads.mask_predictor))
        heads.mask_head, heads.mask_predictor = (list(v) for v in zip(*parts, strict=True))

    def outputs(
        self,
        stage: Stage[MaskRCNNConfig],
        rois: mx.array,
        labels: mx.array | None = None,
        valid: mx.array | None = None,
    ) -> mx.array:
        """Logits of the average, of RoIs (R, 5): (R, 28, 28, C), or (R, 28, 28) of one label."""
        stages = range(len(stage.config.box_stages))
        each = [ONE.outputs(stage.of(k), rois, labels, valid) for k in stages]
        mean = mx.mean(mx.sigmoid(mx.stack(each)), axis=0)
        return mx.log(mx.maximum(mean, TINY)) - mx.log(mx.maximum(1 - mean, TINY))

    def raw(self, stage: Stage[MaskRCNNConfig], rois: mx.array, labels: mx.array) -> mx.array:
        """See :meth:`~mlx_rcnn.heads.Branch.raw`."""
        stages = range(len(stage.config.box_stages))
        each = [ONE.outputs(stage.of(k), rois, labels) for k in stages]
        return mx.mean(mx.sigmoid(mx.stack(each)), axis=0)

    def loss(
        self,
        stage: Stage[MaskRCNNConfig],
        rois: Sequence[SampledRoIs],
        targets: Targets,
        group: mx.distributed.Group | None,
    ) -> mx.array:
        """The sum over the stages, each over its own positives and with its weight."""
        rules = stage.config.box_stages
        each = [
            rule.loss_weight * ONE.loss_of(stage.of(k), rois[k], targets, group)
            for k, rule in enumerate(rules)
        ]
        return mx.sum(mx.stack(each))
