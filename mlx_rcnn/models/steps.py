"""The steps of the two-stage flow, each a method that prediction and training share."""

from __future__ import annotations

from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..config.detector import FasterRCNNConfig
from ..heads import DetectionRule, SampledRoIs, Stage, select_detections
from ..heads.detections import CANDIDATES
from ..heads.res5 import ROIS_AT_ONCE as RES5_AT_ONCE
from ..heads.rois import batch_rows, in_pieces
from ..layers import EvaluatedModule, inference
from ..ops import multiscale_roi_align
from ..ops.nms import first_rounds, settle
from ..rpn.anchors import anchor_generator
from ..rpn.network import ProposalRule, RPNOutputs, proposal_rule, select_proposals
from ..structures import Batch, Detections, Proposals
from .results import drop_empty, not_finite
from .strides import KnownSizes, MapSizes, Size, Strides, batch_strides

Maps = list[mx.array]  # (N, h, w, C), finest first


class Found(NamedTuple):
    """Evaluated detections of a batch, and what a branch goes on from."""

    detections: Detections
    stage: Stage


class Steps(EvaluatedModule):
    """What is done with the parts ``backbone``, ``rpn`` and ``roi_heads``, under a ``config``."""

    config: FasterRCNNConfig
    backbone: Any
    rpn: Any
    roi_heads: Any

    def __setattr__(self, key: str, value: Any) -> None:
        super().__setattr__(key, value)
        if key == "backbone":
            self._known_sizes = KnownSizes()

    def features(self, pixels: mx.array) -> Maps:
        """The backbone's maps (N, h, w, C) in the weights' dtype, checked against the config.

        Args:
            pixels (N, H, W, 3): network input.

        Raises:
            ValueError, TypeError: an input of another shape, or maps that are not the config's.
        """
        if pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ValueError(f"images: expected (N, H, W, 3) network input, got {pixels.shape}")
        maps = self.backbone(pixels.astype(self.rpn.head.cls_logits.weight.dtype))
        features = [maps] if isinstance(maps, mx.array) else list(maps)
        if self.config.use_fpn and isinstance(maps, mx.array):
            raise ValueError("use_fpn=True: expected a list of maps from the backbone, got one map")
        for feature in features:
            if not isinstance(feature, mx.array):
                raise TypeError(
                    f"backbone returned a {type(maps).__name__} of {type(feature).__name__}: "
                    "expected one map (N, h, w, C) or a list of them"
                )
            if feature.ndim != 4 or feature.shape[-1] != self.config.feat_channels:
                raise ValueError(
                    f"feat_channels={self.config.feat_channels}: the backbone returned a map of "
                    f"shape {feature.shape}, expected (N, h, w, {self.config.feat_channels})"
                )
        return features

    @property
    def map_sizes(self) -> MapSizes:
        """The sizes of the backbone's maps by its input's; nothing is computed for them."""

        def shapes(size: Size) -> list[Size]:
            maps = inference(self).features(mx.zeros((1, *size, 3)))
            return [(f.shape[1], f.shape[2]) for f in maps]

        return MapSizes(shapes, self._known_sizes)

    def strides(self, features: Maps, batch: Batch) -> Strides:
        """Those that prediction takes for a batch, whose maps ``features`` are."""
        maps = [(f.shape[1], f.shape[2]) for f in features]
        _, height, width, _ = batch.pixels.shape
        most = int(batch.sizes[:, 0].max())
        return batch_strides(self.config, self.map_sizes, maps, (height, width), most)

    def anchors(self, features: Maps, strides: Strides) -> list[mx.array]:
        """Anchors of each level, (n, 4), or (N, n, 4) where the images' strides differ."""
        generator = anchor_generator(self.config)
        sizes = [(f.shape[1], f.shape[2]) for f in features]
        each = [generator.grid(sizes, one) for one in strides.anchors]
        return each[0] if len(each) == 1 else [mx.stack([*v]) for v in zip(*each, strict=True)]

    def propose(self, features: Maps, batch: Batch, strides: Strides) -> Proposals:
        """Exact proposals: only their suppression is repeated where it has not settled."""
        outputs = self.rpn(features, self.anchors(features, strides))
        return _settled(outputs, batch, proposal_rule(self.config))

    def training_proposals(self, outputs: RPNOutputs, batch: Batch) -> Proposals:
        """Proposals of a batch as constants, exact."""
        fixed = RPNOutputs(*([mx.stop_gradient(v) for v in part] for part in outputs))
        return _settled(fixed, batch, proposal_rule(self.config, training=True))

    def stage(self, features: Maps, strides: Strides) -> Stage:
        """What works on RoIs over the maps of a batch."""
        config, scales = self.config, strides.scales
        levels = features[: len(scales[0])]

        def of_one(
            maps: Maps, rois: mx.array, size: tuple[int, int], each: tuple[float, ...]
        ) -> mx.array:
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

    def box_outputs(self, stage: Stage, proposals: Proposals) -> tuple[mx.array, mx.array]:
        """Class logits (N, P, C) and deltas (N, P, 4 * C or 4) of the proposals."""
        n, count = proposals.boxes.shape[:2]

        def run(piece: mx.array, _: slice) -> mx.array:
            hidden: mx.array = stage.heads.box_head(stage.pool(piece, stage.config.pool_size))
            return hidden

        rois = batch_rows(proposals.boxes)
        at_once = RES5_AT_ONCE if stage.config.res5_head else n * count
        logits, deltas = stage.heads.box_predictor(in_pieces(rois, at_once, run))
        return logits.reshape(n, count, -1), deltas.reshape(n, count, -1)

    def training_outputs(
        self, stage: Stage, rois: SampledRoIs, dropout_key: mx.array
    ) -> tuple[mx.array, mx.array]:
        """As :meth:`box_outputs` of the sampled RoIs, with dropout."""
        n, count = rois.labels.shape
        pooled = stage.pool(batch_rows(rois.boxes), stage.config.pool_size)
        valid = rois.valid.reshape(-1)
        hidden = stage.heads.box_head(pooled, stage.config.dropout, dropout_key, valid)
        logits, deltas = stage.heads.box_predictor(hidden)
        return logits.reshape(n, count, -1), deltas.reshape(n, count, -1)

    def detect(self, batch: Batch, rule: DetectionRule) -> Found:
        """Evaluated detections of a batch.

        Where the last suppression says that its rounds or its candidates were not enough, it alone
        is done again, with more of both.

        Raises:
            ValueError: what was computed is not finite.
        """
        sizes = mx.array(batch.sizes.astype(np.float32))
        features = self.features(batch.pixels)
        strides = self.strides(features, batch)
        proposals = self.propose(features, batch, strides)
        stage = self.stage(features, strides)
        logits, deltas = self.box_outputs(stage, proposals)
        least = max(CANDIDATES, 4 * rule.top_k)
        lost = mx.any(~mx.isfinite(logits) & proposals.valid[..., None])
        lost |= mx.any(mx.isnan(proposals.scores))

        def attempt(rounds: int) -> Detections:
            candidates = least * rounds // first_rounds()
            found = select_detections(logits, deltas, proposals, sizes, rule, candidates, rounds)
            found = drop_empty(found, batch) if self.config.clip_results else found
            mx.eval(found, lost)
            return found

        found = settle(attempt)
        if np.array(lost):
            raise ValueError(not_finite(self))
        return Found(found, stage)


def _settled(outputs: RPNOutputs, batch: Batch, rule: ProposalRule) -> Proposals:
    sizes = mx.array(batch.sizes).astype(mx.float32)
    return settle(lambda rounds: select_proposals(outputs, sizes, rule, rounds))
