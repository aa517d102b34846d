"""Keypoint R-CNN: Faster R-CNN, and where each keypoint of each detection lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..config.detector import KeypointRCNNConfig
from ..heads import KeypointRCNNHeads, KeypointRCNNPredictor, keypoint_loss, keypoint_targets
from ..heads.keypoint import ROIS_AT_ONCE
from ..heads.rois import batch_rows, in_pieces, rows_of_targets, rows_with_positives, valid_rois
from ..inputs.transform import keypoints_to_original, load_images, preprocess
from ..ops import heatmaps_to_keypoints, keypoint_probabilities
from .faster_rcnn import FasterRCNN, to_results
from .strides import Scales
from .training_pass import training_pass, with_total


class KeypointRCNN(FasterRCNN):
    """Faster R-CNN with a keypoint branch (He et al., 2017, section 5).

    Args:
        backbone: as for :class:`FasterRCNN`, or a :class:`~mlx_rcnn.KeypointRCNNConfig`.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): with the background.
        **config: further fields of :class:`~mlx_rcnn.KeypointRCNNConfig`.

    Attributes:
        keypoint_names: one name a keypoint, or ``None``.
        keypoint_skeleton: pairs of keypoints to join, or ``None``.
    """

    config_class = KeypointRCNNConfig
    config: KeypointRCNNConfig
    needs_keypoints = True

    def __init__(
        self, backbone: Any, feat_channels: Any = None, num_classes: Any = None, **config: Any
    ):
        super().__init__(backbone, feat_channels, num_classes, **config)
        layers = self.config.keypoint_layers
        self.roi_heads.keypoint_head = KeypointRCNNHeads(self.config.feat_channels, layers)
        self.roi_heads.keypoint_predictor = KeypointRCNNPredictor(
            layers[-1], self.config.num_keypoints
        )

    @property
    def keypoint_names(self) -> tuple[str, ...] | None:
        """One name a keypoint; ``None`` if unknown, as after a head swap."""
        return self.config.keypoint_names if self._own_keypoints() else None

    @property
    def keypoint_skeleton(self) -> tuple[tuple[int, int], ...] | None:
        """Pairs of keypoints to join when drawn; ``None`` if unknown, as after a head swap."""
        return self.config.keypoint_skeleton if self._own_keypoints() else None

    def _own_keypoints(self) -> bool:
        """Whether the predictor still has the keypoints that the config speaks of."""
        count: int = self.roi_heads.keypoint_predictor.num_keypoints
        return count == self.config.num_keypoints

    def __call__(self, images: mx.array) -> tuple[mx.array, ...]:
        """Raw outputs for a batch that is already network input.

        Args:
            images (N, H, W, 3): normalised and padded.

        Returns:
            ``cls_logits`` (N, R, C), ``bbox_deltas`` (N, R, 4 * C or 4) and ``keypoint_logits``
            (N, R, 56, 56, K) of the R proposals of each image, float32.
        """
        model = self.to_predict()
        raw = model._raw(images)
        heatmaps = model._keypoints(raw.features, batch_rows(raw.proposals.boxes), raw.scales)
        n, count, _ = raw.proposals.boxes.shape
        return raw.logits, raw.deltas, heatmaps.reshape(n, count, *heatmaps.shape[1:])

    def predict(
        self,
        images: Any,
        *,
        score_thresh: float | None = None,
        nms_thresh: float | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """Detect objects and their keypoints.

        Args:
            images: as :meth:`FasterRCNN.predict`.
            score_thresh, nms_thresh, top_k: as :meth:`FasterRCNN.predict`.

        Returns:
            One dict an image: ``boxes``, ``scores``, ``labels``, ``keypoints`` (D, K, 3) float32 of
            x, y in pixels of the image given and a visibility that is always 1, and
            ``keypoints_scores`` (D, K) float32, logits (torchvision's examples draw those above 2)
            or, with ``keypoint_score="probability"``, probabilities.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or thresholds that cannot be used.
        """
        limits = self._limits(score_thresh, nms_thresh, top_k)
        batch = preprocess(load_images(images), self.config)
        model = self.to_predict()
        features, scales, detections = model.detect(batch, limits)
        chosen = valid_rois(detections)
        count = self.roi_heads.keypoint_predictor.num_keypoints
        heatmaps, boxes = np.zeros((0, 1, 1, count), np.float32), np.zeros((0, 4), np.float32)
        if chosen is not None:
            rois, _ = chosen
            heatmaps = np.array(model._keypoints(features, rois, scales))
            boxes = np.array(rois[:, 1:])
        keypoints, found = heatmaps_to_keypoints(heatmaps, boxes)
        if self.config.keypoint_score == "probability":
            found = keypoint_probabilities(heatmaps, found)
        results = to_results(detections, batch, self.config.clip_results)
        first = 0
        for i, result in enumerate(results):
            rows = slice(first, first + len(result["scores"]))
            first = rows.stop
            result["keypoints"] = keypoints_to_original(
                keypoints[rows], batch.sizes[i], batch.original_sizes[i]
            )
            result["keypoints_scores"] = found[rows]
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
        """Losses of a batch; as :meth:`FasterRCNN.get_loss`, with ``keypoint_loss``.

        Args:
            images: as :meth:`predict`.
            targets: also ``keypoints`` (G, K, 3): x, y in pixels of the image given, and a
                visibility; those of 0 are not learned from, as are those outside a proposal.
            key: of everything random.
            group: of machines that share a batch.
            size_divisible: of the padded sides.

        Returns:
            The scalars of :meth:`FasterRCNN.get_loss` and ``keypoint_loss``, which ``total_loss``
            includes; it is 0 where no keypoint is visible.

        Raises:
            ValueError, TypeError, FileNotFoundError: as :meth:`FasterRCNN.get_loss`.
        """
        found = training_pass(self, images, targets, key, group, size_divisible)
        rois, goals = found.rois, found.targets
        assert goals.keypoints is not None
        most = rows_with_positives(rois)
        flat, positive = batch_rows(rois.boxes[:, :most]), rois.positive[:, :most].reshape(-1)
        logits = self._keypoints(found.features, flat, found.scales)
        row = rows_of_targets(rois, most, goals.keypoints.shape[1])
        keypoints = goals.keypoints.reshape(-1, *goals.keypoints.shape[2:])[row]
        safe = mx.where(positive[:, None], flat[:, 1:], mx.array([0.0, 0.0, 1.0, 1.0]))
        cells, valid = keypoint_targets(keypoints, safe, logits.shape[1])
        loss = keypoint_loss(logits, cells, valid & positive[:, None], group)
        return with_total({**found.losses, "keypoint_loss": loss})

    def _keypoints(self, features: list[mx.array], rois: mx.array, scales: Scales) -> mx.array:
        """Heatmaps (R, 56, 56, K) of RoIs (R, 5)."""
        heads, size = self.roi_heads, self.config.keypoint_pool_size

        def run(piece: mx.array, _: slice) -> mx.array:
            hidden = heads.keypoint_head(self.pool(features, piece, scales, size))
            heatmaps: mx.array = heads.keypoint_predictor(hidden)
            return heatmaps

        return in_pieces(rois, ROIS_AT_ONCE, run)
