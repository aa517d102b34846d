"""Keypoint head (He et al., 2017, section 5): which pixel of a RoI each keypoint lies in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config.detector import KeypointRCNNConfig
from ..inputs.transform import keypoints_to_original
from ..layers import Conv2d, ConvTranspose2d, conv_relu, upsample_bilinear
from ..ops import heatmaps_to_keypoints, keypoint_probabilities
from ..ops.losses import cross_entropy, normaliser
from ..ops.peaks import heatmap_peaks
from ..structures import Batch, Detections, Targets
from .branch import Branch, Result, Stage
from .rois import batch_rows, in_pieces, positives, rows_of_targets, valid_rois
from .sampling import SampledRoIs

# A 3x3 convolution of 512 channels on 14x14 unfolds to 3.6 MB a RoI.
ROIS_AT_ONCE = 32


class KeypointRCNNHeads(nn.Module):
    """A stack of 3x3 convolutions with ReLU."""

    def __init__(self, in_channels: int, layers: Sequence[int]):
        super().__init__()
        inputs = [in_channels, *layers[:-1]]
        self.convs = [Conv2d(c, out, 3, padding=1) for c, out in zip(inputs, layers, strict=True)]

    def __call__(self, x: mx.array) -> mx.array:
        """(R, s, s, C) -> (R, s, s, layers[-1])."""
        for conv in self.convs:
            x = conv_relu(x, conv)
        return x


class KeypointRCNNPredictor(nn.Module):
    """Quadruples the resolution and gives a heatmap of logits a keypoint.

    Replace it to train for other keypoints.

    Args:
        in_channels (int): channels of the keypoint head.
        num_keypoints (int): K.
    """

    def __init__(self, in_channels: int, num_keypoints: int):
        super().__init__()
        self.kps_score_lowres = ConvTranspose2d(in_channels, num_keypoints, 4, stride=2, padding=1)

    @property
    def num_keypoints(self) -> int:
        """K, read from the weights."""
        return self.kps_score_lowres.out_channels

    def __call__(self, x: mx.array) -> mx.array:
        """(R, s, s, in_channels) -> logits (R, 4 s, 4 s, K), float32."""
        return upsample_bilinear(self.kps_score_lowres(x).astype(mx.float32))


def keypoint_targets(keypoints: mx.array, boxes: mx.array, size: int) -> tuple[mx.array, mx.array]:
    """(R, K) int32 cells, row * size + column, of (R, K, 3) keypoints, and which are valid."""
    # (R, 4) xyxy, the RoI of each row, of some area
    low, high = boxes[:, None, :2], boxes[:, None, 2:]  # (R, 1, 2)
    # A number over a tensor is that times a reciprocal in torch; it decides on which side of a
    # cell's edge a point falls.
    place = mx.floor((keypoints[..., :2] - low) * (mx.reciprocal(high - low) * size))
    # a keypoint on the right or bottom edge belongs to the last cell
    place = mx.where(keypoints[..., :2] == high, size - 1, place)
    # visible and inside the RoI
    valid = mx.all((place >= 0) & (place < size), axis=-1) & (keypoints[..., 2] > 0)
    cells = mx.where(valid, place[..., 1] * size + place[..., 0], 0)  # 0 where not valid
    return cells.astype(mx.int32), valid


def keypoint_loss(
    logits: mx.array, cells: mx.array, valid: mx.array, group: mx.distributed.Group | None = None
) -> mx.array:
    """Mean cross-entropy over the cells of a heatmap, one softmax a keypoint; 0 without any."""
    count = logits.shape[0] * logits.shape[3]  # logits (R, s, s, K), cells and valid (R, K)
    maps = logits.transpose(0, 3, 1, 2).reshape(count, -1)  # (R * K, s * s)
    error = cross_entropy(maps, cells.reshape(-1))
    return mx.sum(mx.where(valid.reshape(-1), error, 0.0)) / normaliser(mx.sum(valid), group)


class KeypointBranch(Branch[KeypointRCNNConfig]):
    """Where each keypoint of each detection lies (He et al., 2017, section 5)."""

    loss_name = "keypoint_loss"
    finds = ("keypoints", "keypoints_scores")

    def build(self, heads: nn.Module, config: KeypointRCNNConfig) -> None:
        """See :meth:`Branch.build`."""
        layers = config.keypoint_layers
        heads.keypoint_head = KeypointRCNNHeads(config.feat_channels, layers)
        heads.keypoint_predictor = KeypointRCNNPredictor(layers[-1], config.num_keypoints)

    def outputs(self, stage: Stage[KeypointRCNNConfig], rois: mx.array) -> mx.array:
        """Heatmaps (R, 56, 56, K) of RoIs (R, 5)."""
        heads, size = stage.heads, stage.config.keypoint_pool_size

        def run(piece: mx.array, _: slice) -> mx.array:
            heatmaps: mx.array = heads.keypoint_predictor(
                heads.keypoint_head(stage.pool(piece, size))
            )
            return heatmaps

        return in_pieces(rois, ROIS_AT_ONCE, run)

    def loss(
        self,
        stage: Stage[KeypointRCNNConfig],
        rois: Sequence[SampledRoIs],
        targets: Targets,
        group: mx.distributed.Group | None,
    ) -> mx.array:
        """See :meth:`Branch.loss`."""
        assert targets.keypoints is not None
        most, flat, positive = positives(rois[0])
        logits = self.outputs(stage, flat)
        row = rows_of_targets(rois[0], most, targets.keypoints.shape[1])
        keypoints = targets.keypoints.reshape(-1, *targets.keypoints.shape[2:])[row]
        safe = mx.where(positive[:, None], flat[:, 1:], mx.array([0.0, 0.0, 1.0, 1.0]))
        cells, valid = keypoint_targets(keypoints, safe, logits.shape[1])
        return keypoint_loss(logits, cells, valid & positive[:, None], group)

    def add_results(
        self,
        stage: Stage[KeypointRCNNConfig],
        detections: Detections,
        batch: Batch,
        results: Sequence[Result],
        options: Mapping[str, object],
    ) -> None:
        """Add ``keypoints`` and ``keypoints_scores``, looked for in pixels of the network input."""
        chosen = valid_rois(detections)
        heatmaps, boxes = self.nothing(stage), np.zeros((0, 4), np.float32)
        if chosen is not None:
            heatmaps, boxes = np.array(self.raw(stage, *chosen)), np.array(chosen[0][:, 1:])
        keypoints, scores = _found(heatmaps, boxes, stage.config)
        first = 0
        for i, result in enumerate(results):
            rows = slice(first, first + len(result["scores"]))
            first = rows.stop
            result["keypoints"] = keypoints_to_original(
                keypoints[rows], batch.sizes[i], batch.original_sizes[i]
            )
            result["keypoints_scores"] = scores[rows]

    def raw(self, stage: Stage[KeypointRCNNConfig], rois: mx.array, labels: mx.array) -> mx.array:
        """Heatmaps (R, 56, 56, K) of logits, the same for any label, see :meth:`Branch.raw`."""
        return self.outputs(stage, rois)

    def traced(
        self,
        stage: Stage[KeypointRCNNConfig],
        boxes: mx.array,
        labels: mx.array,
        size: tuple[int, int],
    ) -> dict[str, mx.array]:
        """``keypoints`` (D, K, 3) and ``keypoints_scores`` (D, K), see :meth:`Branch.traced`."""
        heatmaps = self.raw(stage, batch_rows(boxes[None]), labels)
        keypoints, scores = heatmap_peaks(heatmaps, boxes, size)
        if stage.config.keypoint_score == "probability":
            scores = 1 / mx.sum(mx.exp(heatmaps - scores[:, None, None]), axis=(1, 2))
        return {"keypoints": keypoints, "keypoints_scores": scores}

    def nothing(self, stage: Stage[KeypointRCNNConfig]) -> np.ndarray:
        """See :meth:`Branch.nothing`."""
        return np.zeros((0, 1, 1, stage.heads.keypoint_predictor.num_keypoints), np.float32)

    def add_raw(
        self,
        raw: np.ndarray,
        result: Result,
        size: tuple[int, int],
        config: KeypointRCNNConfig,
        options: Mapping[str, object],
    ) -> None:
        """Add ``keypoints`` and ``keypoints_scores``, looked for in pixels of the image given."""
        result["keypoints"], result["keypoints_scores"] = _found(raw, result["boxes"], config)


def _found(
    heatmaps: np.ndarray, boxes: np.ndarray, config: KeypointRCNNConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (D, K, 3) in the frame of the boxes (D, 4), and their scores (D, K)."""
    keypoints, scores = heatmaps_to_keypoints(heatmaps, boxes)
    if config.keypoint_score == "probability":
        scores = keypoint_probabilities(heatmaps, scores)
    return keypoints, scores
