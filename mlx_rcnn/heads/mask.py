"""Mask head (He et al., 2017): which pixels of a RoI belong to the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config.detector import MaskRCNNConfig
from ..layers import Conv2d, ConvTranspose2d, make_norm
from ..ops import crop_masks, paste_masks
from ..ops.gradient import rows_of
from ..ops.halves import product
from ..ops.losses import binary_cross_entropy, normaliser
from ..structures import Targets
from .box import run_convs
from .branch import Branch, Result, Stage
from .rois import batch_rows, in_pieces, positives, rows_of_targets
from .sampling import SampledRoIs

MASK_THRESH = 0.5

# A 3x3 convolution of 256 channels on 14x14 unfolds to 1.8 MB a RoI.
ROIS_AT_ONCE = 64


class MaskRCNNHeads(nn.Module):
    """A stack of 3x3 convolutions with ReLU."""

    def __init__(
        self, in_channels: int, hidden_channels: int, num_convs: int = 4, norm: str | None = None
    ):
        super().__init__()
        inputs = ([in_channels] + [hidden_channels] * num_convs)[:num_convs]
        self.convs = [Conv2d(c, hidden_channels, 3, padding=1, bias=norm is None) for c in inputs]
        if norm is not None:
            self.norms = [make_norm(norm, hidden_channels) for _ in inputs]

    def __call__(self, x: mx.array, valid: mx.array | None = None) -> mx.array:
        """(R, s, s, C) -> (R, s, s, hidden_channels); a batch norm counts the (R,) valid RoIs."""
        return run_convs(self, x, valid)

    @property
    def uses_batch(self) -> bool:
        """Whether what becomes of a RoI now depends on the others."""
        return "norms" in self and any(norm.uses_batch for norm in self.norms)


class MaskRCNNPredictor(nn.Module):
    """Doubles the resolution and gives one mask logit a class; replace it for other classes.

    Args:
        in_channels (int): channels of the mask head.
        dim_reduced (int): channels after the transposed convolution.
        num_classes (int): with the background.
    """

    def __init__(self, in_channels: int, dim_reduced: int, num_classes: int):
        super().__init__()
        self.conv5_mask = ConvTranspose2d(in_channels, dim_reduced, 2)
        self.mask_fcn_logits = Conv2d(dim_reduced, num_classes, 1)

    def __call__(self, x: mx.array) -> mx.array:
        """(R, s, s, in_channels) -> logits (R, 2s, 2s, num_classes), float32."""
        return self.mask_fcn_logits(mx.maximum(self.conv5_mask(x), 0)).astype(mx.float32)

    def of_labels(self, x: mx.array, labels: mx.array) -> mx.array:
        """Logits of one class a RoI only.

        Args:
            x (R, s, s, in_channels): features of the mask head.
            labels (R,): the class of each RoI.

        Returns:
            (R, 2s, 2s): logits, float32.
        """
        x = mx.maximum(self.conv5_mask(x), 0)
        last = self.mask_fcn_logits
        weight = rows_of(last.weight.flatten(1), labels)  # (R, dim_reduced)
        y = product(x.flatten(1, 2), weight[..., None]).reshape(x.shape[:3])
        return y.astype(mx.float32) + rows_of(last.bias, labels).astype(mx.float32)[:, None, None]


def mask_loss(
    logits: mx.array,  # (R, s, s) of each RoI's class
    targets: mx.array,  # (R, s, s) in [0, 1]
    positive: mx.array,  # (R,) RoIs that count
    group: mx.distributed.Group | None = None,
) -> mx.array:
    """Mean binary cross-entropy over the pixels of the positives' class (Mask R-CNN, section 3)."""
    error = mx.mean(binary_cross_entropy(logits, targets), axis=(1, 2))
    # 0 without positives
    return mx.sum(mx.where(positive, error, 0.0)) / normaliser(mx.sum(positive), group)


class MaskBranch(Branch[MaskRCNNConfig]):
    """A mask of each detection (He et al., 2017)."""

    loss_name = "mask_loss"
    finds = ("masks",)
    mirrors = True

    def build(self, heads: nn.Module, config: MaskRCNNConfig) -> None:
        """See :meth:`Branch.build`."""
        inputs = heads.box_head.out_channels if config.res5_head else config.feat_channels
        hidden, convs = config.mask_hidden_channels, config.mask_num_convs
        heads.mask_head = MaskRCNNHeads(inputs, hidden, convs, config.mask_head_norm)
        heads.mask_predictor = MaskRCNNPredictor(
            hidden if convs else inputs, hidden, config.num_classes
        )

    def outputs(
        self,
        stage: Stage[MaskRCNNConfig],
        rois: mx.array,
        labels: mx.array | None = None,
        valid: mx.array | None = None,
    ) -> mx.array:
        """Mask logits (R, 28, 28, C) of RoIs (R, 5), or (R, 28, 28) of one label each."""
        heads, config = stage.heads, stage.config

        def run(piece: mx.array, rows: slice) -> mx.array:
            pooled = stage.pool(piece, config.mask_pool_size)
            pooled = heads.box_head.features(pooled) if config.res5_head else pooled
            x = heads.mask_head(pooled, None if valid is None else valid[rows])
            predictor = heads.mask_predictor
            logits: mx.array
            logits = predictor(x) if labels is None else predictor.of_labels(x, labels[rows])
            return logits

        # A batch norm's statistics are those of all valid RoIs (R,): they must go at once.
        whole = valid is not None and heads.mask_head.uses_batch
        return in_pieces(rois, rois.shape[0] if whole else ROIS_AT_ONCE, run)

    def loss(
        self,
        stage: Stage[MaskRCNNConfig],
        rois: Sequence[SampledRoIs],
        targets: Targets,
        group: mx.distributed.Group | None,
    ) -> mx.array:
        """See :meth:`Branch.loss`."""
        return self.loss_of(stage, rois[0], targets, group)

    def loss_of(
        self,
        stage: Stage[MaskRCNNConfig],
        rois: SampledRoIs,
        targets: Targets,
        group: mx.distributed.Group | None,
    ) -> mx.array:
        """The loss over the positives of one box stage."""
        assert targets.masks is not None
        most, flat, positive = positives(rois)
        logits = self.outputs(stage, flat, rois.labels[:, :most].reshape(-1), positive)
        masks = targets.masks.reshape(-1, *targets.masks.shape[2:])
        row = rows_of_targets(rois, most, targets.masks.shape[1])
        theirs = stage.config.mask_paste_rule == "detectron2"
        wanted = crop_masks(masks, row, flat[:, 1:], logits.shape[1], aligned=theirs)
        wanted = (wanted >= 0.5).astype(mx.float32) if theirs else wanted
        return mask_loss(logits, mx.stop_gradient(wanted), positive, group)

    def raw(self, stage: Stage[MaskRCNNConfig], rois: mx.array, labels: mx.array) -> mx.array:
        """Masks (R, 28, 28) in [0, 1], see :meth:`Branch.raw`."""
        return mx.sigmoid(self.outputs(stage, rois, labels))

    def traced(
        self,
        stage: Stage[MaskRCNNConfig],
        boxes: mx.array,
        labels: mx.array,
        size: tuple[int, int],
    ) -> dict[str, mx.array]:
        """``masks`` (D, 28, 28) in [0, 1] over each box, see :meth:`Branch.traced`."""
        return {"masks": self.raw(stage, batch_rows(boxes[None]), labels)}

    def turned(self, raw: mx.array) -> mx.array:
        """See :meth:`Branch.turned`."""
        return raw[:, :, ::-1]

    def nothing(self, stage: Stage[MaskRCNNConfig]) -> np.ndarray:
        """See :meth:`Branch.nothing`."""
        side = stage.config.mask_out_size
        return np.zeros((0, side, side), np.float32)

    def add_raw(
        self,
        raw: np.ndarray,
        result: Result,
        size: tuple[int, int],
        config: MaskRCNNConfig,
        options: Mapping[str, object],
    ) -> None:
        """Add ``masks``, pasted into the image or, with ``masks="raw"``, as they are."""
        if options.get("masks", "full") == "full":
            rule = config.mask_paste_rule
            raw = np.asarray(paste_masks(raw, result["boxes"], size, MASK_THRESH, rule=rule))
        result["masks"] = raw
