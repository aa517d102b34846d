"""The steps of the box stage: from proposals to detections, and to the losses of a box head."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config.boxes import BoxConfig, FastRCNNConfig
from ..heads import DetectionRule, SampledRoIs, Stage, box_losses, sample_rois, select_detections
from ..heads.box import predictors_of
from ..heads.detections import CANDIDATES
from ..heads.res5 import ROIS_AT_ONCE as RES5_AT_ONCE
from ..heads.rois import batch_rows, in_pieces
from ..heads.sampling import box_loss
from ..ops import multiscale_roi_align, multiscale_roi_pool
from ..ops.nms import first_rounds, settle
from ..structures import Batch, Detections, Proposals, Targets
from .maps import Maps, MapSteps
from .results import drop_empty, not_finite
from .strides import Strides


class BoxOutputs(NamedTuple):
    """``cls_logits`` (N, P, C) and ``bbox_deltas`` (N, P, 4 * C or 4) of the ``proposals``."""

    cls_logits: mx.array
    bbox_deltas: mx.array
    proposals: Proposals


class Found(NamedTuple):
    """Evaluated detections of a batch, and what a branch goes on from."""

    detections: Detections
    stage: Stage[BoxConfig]


class Learned(NamedTuple):
    """The box head's losses by name, and the RoIs they are of, one sample a box stage."""

    losses: dict[str, mx.array]
    rois: tuple[SampledRoIs, ...]


class BoxSteps(MapSteps):
    """What is done with the part ``roi_heads``."""

    config: BoxConfig
    roi_heads: nn.Module

    @property
    def last_layer(self) -> nn.Module:
        """See :attr:`MapSteps.last_layer`."""
        layer: nn.Module = predictors_of(self.roi_heads)[0].cls_score
        return layer

    def stage(self, features: Maps, strides: Strides) -> Stage[BoxConfig]:
        """What works on RoIs over the maps of a batch."""
        raise NotImplementedError

    def box_outputs(
        self, stage: Stage[BoxConfig], proposals: Proposals
    ) -> tuple[mx.array, mx.array]:
        """Class logits (N, P, C) and deltas (N, P, 4 * C or 4) of proposals by one box head."""
        raise NotImplementedError

    def box_stage(
        self, stage: Stage[BoxConfig], proposals: Proposals, sizes: mx.array
    ) -> BoxOutputs:
        """What detections are made of: the box head's outputs, and the boxes they are of.

        Args:
            stage: of the batch.
            proposals: P an image.
            sizes (N, 2): (height, width) of the unpadded images.
        """
        return BoxOutputs(*self.box_outputs(stage, proposals), proposals)

    def box_training(
        self,
        stage: Stage[BoxConfig],
        proposals: Proposals,
        targets: Targets,
        sizes: mx.array,
        keys: tuple[mx.array, mx.array],
        group: mx.distributed.Group | None,
    ) -> Learned:
        """``roi_cls_loss`` and ``roi_reg_loss`` of a batch.

        Args:
            stage: of the batch.
            proposals: P an image, constants.
            targets: in pixels of the network input.
            sizes (N, 2): (height, width) of the unpadded images.
            keys: of the sampling and of the dropout.
            group: of the machines that share a batch.
        """
        raise NotImplementedError

    def detect(self, batch: Batch, rule: DetectionRule, given: Proposals | None = None) -> Found:
        """Evaluated detections of a batch.

        Where the last suppression says that its rounds or its candidates were not enough, it alone
        is done again, with more of both.

        Args:
            batch: the images.
            rule: which boxes become detections.
            given: proposals from elsewhere. Default: the model's own.

        Raises:
            ValueError: what was computed is not finite.
        """
        sizes = mx.array(batch.sizes.astype(np.float32))
        features = self.features(batch.pixels)
        strides = self.strides(features, batch)
        proposals = self.propose(features, batch, strides) if given is None else given
        stage = self.stage(features, strides)
        logits, deltas, boxes = self.box_stage(stage, proposals, sizes)
        least = max(CANDIDATES, 4 * rule.top_k)
        lost = mx.any(~mx.isfinite(logits) & boxes.valid[..., None])
        lost |= mx.any(mx.isnan(proposals.scores))

        def attempt(rounds: int) -> Detections:
            candidates = least * rounds // first_rounds()
            found = select_detections(logits, deltas, boxes, sizes, rule, candidates, rounds)
            found = drop_empty(found, batch) if self.config.clip_results else found
            mx.eval(found, lost)
            return found

        found = settle(attempt)
        if np.array(lost):
            raise ValueError(not_finite(self))
        return Found(found, stage)

    def propose(self, features: Maps, batch: Batch, strides: Strides) -> Proposals:
        """The model's own proposals.

        Raises:
            ValueError: it has none, they must be given.
        """
        raise ValueError(lacking_proposals(self))


class PooledBoxSteps(BoxSteps):
    """Those of a box head over RoI features, which are pooled from maps."""

    config: FastRCNNConfig

    def stage(self, features: Maps, strides: Strides) -> Stage[BoxConfig]:
        """See :meth:`BoxSteps.stage`."""
        config, scales = self.config, strides.scales
        levels = features[: len(scales[0])]

        def of_one(
            maps: Maps, rois: mx.array, size: tuple[int, int], each: tuple[float, ...]
        ) -> mx.array:
            if config.roi_pooling == "pool":
                return multiscale_roi_pool(maps, rois, size, each)
            ratio, aligned = config.roi_sampling_ratio, config.roi_aligned
            return multiscale_roi_align(maps, rois, size, each, ratio, aligned)

        def pool(rois: mx.array, size: tuple[int, int]) -> mx.array:
            """RoIs (R, 5); with scales of each image they stand image after image."""
            if len(scales) == 1:
                return of_one(levels, rois, size, scales[0])
            count = rois.shape[0] // len(scales)
            alone = rois * mx.array([0.0, 1.0, 1.0, 1.0, 1.0])  # each is the first of its own maps
            pooled = [
                of_one([v[i : i + 1] for v in levels], alone[i * count :][:count], size, each)
                for i, each in enumerate(scales)
            ]
            return mx.concatenate(pooled)

        return Stage(self.roi_heads, config, pool)

    def box_outputs(
        self, stage: Stage[BoxConfig], proposals: Proposals
    ) -> tuple[mx.array, mx.array]:
        """See :meth:`BoxSteps.box_outputs`."""
        n, count = proposals.boxes.shape[:2]

        def run(piece: mx.array, _: slice) -> mx.array:
            hidden: mx.array = stage.heads.box_head(stage.pool(piece, self.config.pool_size))
            return hidden

        rois = batch_rows(proposals.boxes)
        at_once = RES5_AT_ONCE if self.config.res5_head else max(n * count, 1)
        logits, deltas = stage.heads.box_predictor(in_pieces(rois, at_once, run))
        return logits.reshape(n, count, -1), deltas.reshape(n, count, -1)

    def training_outputs(
        self, stage: Stage[BoxConfig], rois: SampledRoIs, dropout_key: mx.array
    ) -> tuple[mx.array, mx.array]:
        """As :meth:`box_outputs` of the sampled RoIs, with dropout."""
        n, count = rois.labels.shape
        pooled = stage.pool(batch_rows(rois.boxes), self.config.pool_size)
        valid = rois.valid.reshape(-1)
        hidden = stage.heads.box_head(pooled, self.config.dropout, dropout_key, valid)
        logits, deltas = stage.heads.box_predictor(hidden)
        return logits.reshape(n, count, -1), deltas.reshape(n, count, -1)

    def box_training(
        self,
        stage: Stage[BoxConfig],
        proposals: Proposals,
        targets: Targets,
        sizes: mx.array,
        keys: tuple[mx.array, mx.array],
        group: mx.distributed.Group | None,
    ) -> Learned:
        """See :meth:`BoxSteps.box_training`."""
        rule = box_loss(self.config, self.config.box_stages[0])
        rois = sample_rois(proposals, targets, self.config, keys[0])
        logits, deltas = self.training_outputs(stage, rois, keys[1])
        classification, regression = box_losses(logits, deltas, rois, group, rule)
        return Learned({"roi_cls_loss": classification, "roi_reg_loss": regression}, (rois,))


def lacking_proposals(model: nn.Module) -> str:
    """What to say where a model without proposals of its own was given none."""
    name = type(model).__name__
    article = "an" if name == "RCNN" else "a"
    return (
        f"{article} {name} needs proposals: give predict(images, proposals) and "
        "get_loss(images, targets, proposals) an array (P, 4) of each image"
    )
