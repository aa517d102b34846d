"""R-CNN: a classifier over warped crops of the image, one a proposal."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..config.boxes import BoxConfig, RCNNConfig
from ..heads import DetectionRule, Stage, sample_rois
from ..heads.crops import warp_crops
from ..heads.rcnn import RCNNHeads, classifier_of, rcnn_losses
from ..heads.rois import batch_rows
from ..layers import inference
from ..progress import bar
from ..structures import Batch, Proposals, Targets
from .boxing import Found, Learned
from .fast_rcnn import GivenProposals
from .maps import Maps, check_input
from .strides import Strides

MANY = 500  # crops from which a bar is shown


class RCNN(GivenProposals):
    """A classifier over crops of proposals that are given (Girshick et al., 2014).

    Crops are cut out of the images at their own size, so that ``min_size`` and ``max_size`` have no
    effect; a network input is an image at its own size, normalised.

    Args:
        backbone: a :class:`~mlx_rcnn.VGGConfig`, :class:`~mlx_rcnn.AlexNetConfig` or another
            backbone whose ``net`` is a classifier; ``num_classes`` above 0 in it gives it hidden
            layers, which an R-CNN fine-tunes. Or a :class:`~mlx_rcnn.RCNNConfig`.
        feat_channels (int): channels of the classifier's last map.
        num_classes (int): with the background.
        **config: further fields of :class:`~mlx_rcnn.RCNNConfig`.

    With ``rcnn_scores="svm"`` a detection's score is the sigmoid of its SVM's margin, which keeps
    the order, and ``cls_logits`` of a call are logarithms of these over C - 1.

    Raises:
        TypeError, ValueError: as :class:`FasterRCNN`; a backbone that is no classifier; another
            number of channels.
    """

    config_class: type[RCNNConfig] = RCNNConfig
    config: RCNNConfig

    def build(self) -> None:
        """See :meth:`~mlx_rcnn.models.detector.Detector.build`."""
        net, side = classifier_of(self.backbone), self.config.crop_size
        _, *shape = inference(net).pooled(mx.zeros((1, side, side, 3))).shape
        if shape[-1] != self.config.feat_channels:
            raise ValueError(
                f"feat_channels={self.config.feat_channels}: the classifier's last map has "
                f"{shape[-1]} channels"
            )
        self.roi_heads = RCNNHeads(self.config, net.unit_channels, int(np.prod(shape)))

    def input_sizes(
        self, images: Sequence[np.ndarray], key: mx.array | None = None
    ) -> list[tuple[int, int]]:
        """The images' own, see :meth:`~mlx_rcnn.models.detector.Detector.input_sizes`."""
        return [(image.shape[0], image.shape[1]) for image in images]

    def features(self, pixels: mx.array) -> Maps:
        """The images (N, H, W, 3) themselves, in the place of maps."""
        check_input(pixels)
        return [pixels]

    def stage(self, features: Maps, strides: Strides) -> Stage[BoxConfig]:
        """See :meth:`~mlx_rcnn.models.boxing.BoxSteps.stage`."""
        dtype, context = self.last_layer.weight.dtype, self.config.crop_context

        def pool(rois: mx.array, size: tuple[int, int]) -> mx.array:
            return warp_crops(features[0], rois, size[0], context).astype(dtype)

        return Stage(self.roi_heads, self.config, pool)

    def box_outputs(
        self, stage: Stage[BoxConfig], proposals: Proposals
    ) -> tuple[mx.array, mx.array]:
        """See :meth:`~mlx_rcnn.models.boxing.BoxSteps.box_outputs`; those not valid give 0.

        Many crops take minutes: on a terminal a bar tells how far they are.
        """
        net, side = classifier_of(self.backbone), self.config.crop_size
        n, count, _ = proposals.boxes.shape
        classes = self.num_classes
        # A crop of the padding would cost as much as any other; what is valid came from the host.
        chosen = np.flatnonzero(np.array(proposals.valid))
        found = mx.zeros((n * count, 5 * classes))
        if len(chosen):
            rows = mx.array(chosen.astype(np.int32))
            rois = batch_rows(proposals.boxes)[rows]
            step, done = self.config.crops_at_once, []
            hidden = None if len(chosen) >= MANY else True  # None: where there is no terminal
            with bar(total=len(chosen), unit="crop", leave=False, disable=hidden) as shown:
                for start in range(0, len(chosen), step):
                    piece = rois[start : start + step]
                    pooled = net.pooled(stage.pool(piece, (side, side)))
                    outputs = stage.heads.outputs(net.units(pooled), pooled)
                    done.append(mx.concatenate(outputs, axis=1))
                    mx.eval(done[-1])  # one piece in memory at a time
                    shown.update(len(piece))
            found[rows] = mx.concatenate(done)
        found = found.reshape(n, count, -1)
        return found[..., :classes], found[..., classes:]

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
        net, side = classifier_of(self.backbone), self.config.crop_size
        predictor = stage.heads.box_predictor
        rois = sample_rois(proposals, targets, self.config, keys[0])
        pooled = net.pooled(stage.pool(batch_rows(rois.boxes), (side, side)))
        logits = predictor.cls_score(net.units(pooled, keys[1])).astype(mx.float32)
        deltas, weight = predictor.regress(pooled)
        losses = rcnn_losses(logits, deltas, rois, targets, self.config, weight, group)
        return Learned(dict(zip(("roi_cls_loss", "roi_reg_loss"), losses, strict=True)), (rois,))

    def detect(self, batch: Batch, rule: DetectionRule, given: Proposals | None = None) -> Found:
        """See :meth:`~mlx_rcnn.models.boxing.BoxSteps.detect`."""
        if "svms" not in self.roi_heads:
            return super().detect(batch, rule, given)
        # svm_logits has divided the scores, which suppression and ranking do not mind.
        count = self.num_classes - 1
        least = rule.score_thresh
        least = tuple(v / count for v in least) if isinstance(least, tuple) else least / count
        found, stage = super().detect(batch, rule._replace(score_thresh=least), given)
        return Found(found._replace(scores=mx.minimum(found.scores * count, 1)), stage)
