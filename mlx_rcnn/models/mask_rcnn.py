"""Mask R-CNN: Faster R-CNN, and a mask of each detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..config.detector import MaskRCNNConfig
from ..heads import MaskRCNNHeads, MaskRCNNPredictor, mask_loss
from ..heads.mask import ROIS_AT_ONCE
from ..heads.rois import batch_rows, in_pieces, rows_of_targets, rows_with_positives, valid_rois
from ..inputs.transform import load_images, preprocess
from ..ops import crop_masks, paste_masks
from ..structures import Detections
from .faster_rcnn import FasterRCNN, to_results
from .strides import Scales
from .training_pass import training_pass, with_total

MASK_THRESH = 0.5


class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a mask branch (He et al., 2017).

    Args:
        backbone: as for :class:`FasterRCNN`, or a :class:`~mlx_rcnn.MaskRCNNConfig`.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): with the background.
        **config: further fields of :class:`~mlx_rcnn.MaskRCNNConfig`.
    """

    config_class = MaskRCNNConfig
    config: MaskRCNNConfig
    needs_masks = True

    def __init__(
        self, backbone: Any, feat_channels: Any = None, num_classes: Any = None, **config: Any
    ):
        super().__init__(backbone, feat_channels, num_classes, **config)
        own, heads = self.config, self.roi_heads
        inputs = heads.box_head.out_channels if own.res5_head else own.feat_channels
        hidden, convs = own.mask_hidden_channels, own.mask_num_convs
        heads.mask_head = MaskRCNNHeads(inputs, hidden, convs, own.mask_head_norm)
        heads.mask_predictor = MaskRCNNPredictor(
            hidden if convs else inputs, hidden, own.num_classes
        )

    def __call__(self, images: mx.array) -> tuple[mx.array, ...]:
        """Raw outputs for a batch that is already network input.

        Args:
            images (N, H, W, 3): normalised and padded.

        Returns:
            ``cls_logits`` (N, R, C), ``bbox_deltas`` (N, R, 4 * C or 4) and ``mask_logits``
            (N, R, 28, 28, C) of the R proposals of each image, float32.
        """
        model = self.to_predict()
        raw = model._raw(images)
        masks = model._mask(raw.features, batch_rows(raw.proposals.boxes), raw.scales)
        n, count, _ = raw.proposals.boxes.shape
        return raw.logits, raw.deltas, masks.reshape(n, count, *masks.shape[1:])

    def predict(
        self,
        images: Any,
        *,
        score_thresh: float | None = None,
        nms_thresh: float | None = None,
        top_k: int | None = None,
        masks: str = "full",
    ) -> list[dict[str, np.ndarray]]:
        """Detect objects and their masks.

        Args:
            images: as :meth:`FasterRCNN.predict`.
            score_thresh, nms_thresh, top_k: as :meth:`FasterRCNN.predict`.
            masks: ``"full"`` pastes each mask into an image (D, H, W) bool, ``"raw"`` gives the
                network's (D, 28, 28) probabilities over each box. Default: ``"full"``.

        Returns:
            One dict an image: ``boxes``, ``scores``, ``labels`` and ``masks``.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or options that cannot be used.
        """
        if masks not in ("full", "raw"):
            raise ValueError(f"masks={masks!r}: expected 'full' or 'raw'")
        limits = self._limits(score_thresh, nms_thresh, top_k)
        batch = preprocess(load_images(images), self.config)
        model = self.to_predict()
        features, scales, detections = model.detect(batch, limits)
        probabilities = model._mask_probabilities(features, scales, detections)
        results = to_results(detections, batch, self.config.clip_results)
        first = 0
        for result, size in zip(results, batch.original_sizes.tolist(), strict=True):
            part = probabilities[first : first + len(result["scores"])]
            first += len(part)
            if masks == "full":
                rule = self.config.mask_paste_rule
                part = np.asarray(
                    paste_masks(part, result["boxes"], tuple(size), MASK_THRESH, rule=rule)
                )
            result["masks"] = part
        return results

    def get_loss(
        self,
        images: Any,
        targets: Sequence[Mapping[str, Any]],
        *,
        key: mx.array | None = None,
        group: mx.distributed.Group | None = None,
        size_divisible: int | None = None,
    ) -> dict[str, mx.array]:
        """Losses of a batch; as :meth:`FasterRCNN.get_loss`, with ``mask_loss``.

        Args:
            images: as :meth:`predict`.
            targets: also ``masks`` (G, H, W), 0 or 1, of the image given.
            key: of everything random.
            group: of machines that share a batch.
            size_divisible: of the padded sides.

        Returns:
            The scalars of :meth:`FasterRCNN.get_loss` and ``mask_loss``, which ``total_loss``
            includes.

        Raises:
            ValueError, TypeError, FileNotFoundError: as :meth:`FasterRCNN.get_loss`.
        """
        found = training_pass(self, images, targets, key, group, size_divisible)
        rois, goals = found.rois, found.targets
        assert goals.masks is not None
        most = rows_with_positives(rois)
        flat = batch_rows(rois.boxes[:, :most])
        labels, positive = rois.labels[:, :most].reshape(-1), rois.positive[:, :most].reshape(-1)
        logits = self._mask(found.features, flat, found.scales, labels, positive)
        masks = goals.masks.reshape(-1, *goals.masks.shape[2:])
        row = rows_of_targets(rois, most, goals.masks.shape[1])
        wanted = crop_masks(masks, row, flat[:, 1:], logits.shape[1])
        loss = mask_loss(logits, mx.stop_gradient(wanted), positive, group)
        return with_total({**found.losses, "mask_loss": loss})

    def _mask(
        self, features: list[mx.array], rois: mx.array, scales: Scales,
        labels: mx.array | None = None, valid: mx.array | None = None,
    ) -> mx.array:  # fmt: skip
        """Mask logits (R, 28, 28, C) of RoIs (R, 5), or (R, 28, 28) of one label each."""
        heads = self.roi_heads

        def run(piece: mx.array, rows: slice) -> mx.array:
            pooled = self.pool(features, piece, scales, self.config.mask_pool_size)
            pooled = heads.box_head.features(pooled) if self.config.res5_head else pooled
            x = heads.mask_head(pooled, None if valid is None else valid[rows])
            predictor = heads.mask_predictor
            logits: mx.array
            logits = predictor(x) if labels is None else predictor.of_labels(x, labels[rows])
            return logits

        # A batch norm's statistics are those of all valid RoIs (R,): they must go at once.
        whole = valid is not None and heads.mask_head.uses_batch
        return in_pieces(rois, rois.shape[0] if whole else ROIS_AT_ONCE, run)

    def _mask_probabilities(
        self, features: list[mx.array], scales: Scales, detections: Detections
    ) -> np.ndarray:
        """(sum of D, 28, 28) of the valid detections, image after image."""
        side, chosen = self.config.mask_out_size, valid_rois(detections)
        if chosen is None:
            return np.zeros((0, side, side), np.float32)
        rois, labels = chosen
        return np.array(mx.sigmoid(self._mask(features, rois, scales, labels)))
