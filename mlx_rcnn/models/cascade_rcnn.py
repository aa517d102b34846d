"""Cascade R-CNN: Faster R-CNN with a box head after the other, each over better boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx

from ..config.boxes import BoxConfig
from ..config.detector import CascadeMaskRCNNConfig, CascadeRCNNConfig
from ..heads import Branch, MaskBranch, SampledRoIs, Stage, box_losses, sample_rois
from ..heads.cascade import StageMaskBranch, average_scores, refine_boxes, without_empty
from ..heads.sampling import box_loss, match_rois
from ..structures import Proposals, Targets
from .boxing import BoxOutputs, Learned
from .faster_rcnn import FasterRCNN
from .mask_rcnn import MaskRCNN


class CascadeRCNN(FasterRCNN):
    """Box heads in a row, each trained at a higher IoU (Cai and Vasconcelos, 2018).

    Args:
        backbone: as for :class:`FasterRCNN`, or a :class:`~mlx_rcnn.CascadeRCNNConfig`.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): with the background.
        **config: further fields of :class:`~mlx_rcnn.CascadeRCNNConfig`.

    ``roi_heads.box_head`` and ``roi_heads.box_predictor`` are lists, one a stage. Called on network
    input it gives the stages' average as ``cls_logits``, and the last stage's ``bbox_deltas``.
    ``roi_cls_loss`` and ``roi_reg_loss`` are sums over the stages, each with its weight.
    """

    config_class: type[CascadeRCNNConfig] = CascadeRCNNConfig
    config: CascadeRCNNConfig

    def box_stage(
        self, stage: Stage[BoxConfig], proposals: Proposals, sizes: mx.array
    ) -> BoxOutputs:
        """See :meth:`~mlx_rcnn.models.boxing.BoxSteps.box_stage`."""
        each, last = [], len(self.config.box_stages) - 1
        for k in range(last + 1):
            logits, deltas = self.box_outputs(stage.of(k), proposals)
            each.append(logits)
            if k < last:
                proposals = self._refined(proposals, logits, deltas, sizes, k)
        return BoxOutputs(average_scores(each, self.config.cascade_scores), deltas, proposals)

    def box_training(
        self,
        stage: Stage[BoxConfig],
        proposals: Proposals,
        targets: Targets,
        sizes: mx.array,
        keys: tuple[mx.array, mx.array],
        group: mx.distributed.Group | None,
    ) -> Learned:
        """See :meth:`~mlx_rcnn.models.boxing.BoxSteps.box_training`."""
        config, rules = self.config, self.config.box_stages
        roi_keys, dropout_keys = (mx.random.split(key, len(rules)) for key in keys)
        classification = regression = mx.array(0.0)
        samples: list[SampledRoIs] = []
        for k, rule in enumerate(rules):
            if k == 0 or config.cascade_resample:
                rois = sample_rois(proposals, targets, config, roi_keys[k], rule)
            else:
                rois = match_rois(proposals, targets, rule)
            samples.append(rois)
            logits, deltas = self.training_outputs(
                _scaled(stage.of(k), config.cascade_grad_scale), rois, dropout_keys[k]
            )
            losses = box_losses(logits, deltas, rois, group, box_loss(config, rule))
            classification = classification + rule.loss_weight * losses[0]
            regression = regression + rule.loss_weight * losses[1]
            # The targets' own boxes are appended to each sample anew.
            own = rois.valid & ~rois.appended if config.cascade_resample else rois.valid
            sampled = Proposals(rois.boxes, own.astype(mx.float32), own, proposals.exact)
            proposals = without_empty(self._refined(sampled, logits, deltas, sizes, k))
        return Learned({"roi_cls_loss": classification, "roi_reg_loss": regression}, tuple(samples))

    def _refined(
        self, proposals: Proposals, logits: mx.array, deltas: mx.array, sizes: mx.array, k: int
    ) -> Proposals:
        rule, clamp = self.config.box_stages[k], self.config.bbox_clamp_both
        return refine_boxes(proposals, logits, deltas, sizes, rule, clamp)


def _scaled(stage: Stage[BoxConfig], scale: float) -> Stage[BoxConfig]:
    """A stage whose pooled features hand back so much of their gradient."""
    if scale == 1:
        return stage

    def pool(rois: mx.array, size: tuple[int, int]) -> mx.array:
        pooled = stage.pool(rois, size)
        return pooled * scale + mx.stop_gradient(pooled * (1 - scale))

    return replace(stage, pool=pool)


class CascadeMaskRCNN(CascadeRCNN, MaskRCNN):
    """A cascade with a mask branch.

    Args:
        backbone: as for :class:`FasterRCNN`, or a :class:`~mlx_rcnn.CascadeMaskRCNNConfig`.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): with the background.
        **config: further fields of :class:`~mlx_rcnn.CascadeMaskRCNNConfig`.
    """

    config_class: type[CascadeMaskRCNNConfig] = CascadeMaskRCNNConfig
    config: CascadeMaskRCNNConfig

    @property
    def branches(self) -> tuple[Branch[Any], ...]:  # type: ignore[override]
        """One mask head, or one a stage."""
        return (StageMaskBranch() if self.config.cascade_mask_heads else MaskBranch(),)
