"""Fast R-CNN, and what every detector over proposals from elsewhere is asked."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..config.boxes import FastRCNNConfig
from ..heads.detections import detection_rule
from ..inputs.proposals import prepare_proposals
from ..outputs.detections import Detections
from ..structures import Batch, GivenTargets, Images
from ..structures import GivenProposals as Given
from .boxing import lacking_proposals
from .flow import BoxDetector, TwoStageDetector


class GivenProposals(BoxDetector):
    """A detector over proposals that are given."""

    needs_proposals = True

    def __call__(self, images: mx.array, proposals: Given) -> tuple[mx.array, ...]:
        """Raw outputs for a batch that is already network input.

        Args:
            images (N, H, W, 3): normalised and padded.
            proposals: (P, 4) of each image, xyxy pixels of the network input.

        Returns:
            ``cls_logits`` (N, R, C) and ``bbox_deltas`` (N, R, 4 * C or 4) of the proposals in the
            order given, R the greatest P rounded up to a multiple of 64; rows past an image's own
            mean nothing.
        """
        sizes = np.tile(images.shape[1:3], (images.shape[0], 1))
        return self.raw_outputs(images, prepare_proposals(proposals, Batch(images, sizes, sizes)))

    def predict(
        self,
        images: Images,
        proposals: Given | None = None,
        *,
        score_thresh: float | Sequence[float] | None = None,
        nms_thresh: float | None = None,
        top_k: int | None = None,
    ) -> list[Detections]:
        """Detect objects among proposals.

        Args:
            images: as :meth:`FasterRCNN.predict`.
            proposals: one array (P, 4) an image, xyxy pixels of the image given, clipped to it; P
                may differ and be 0.
            score_thresh, nms_thresh, top_k: as :meth:`FasterRCNN.predict`.

        Returns:
            As :meth:`FasterRCNN.predict`.

        Raises:
            ValueError, TypeError, FileNotFoundError: images, proposals or thresholds that cannot be
                used; none were given.
        """
        if proposals is None:
            raise ValueError(lacking_proposals(self))
        rule = detection_rule(self.config, score_thresh, nms_thresh, top_k)
        return self.find(images, rule, proposals)

    def get_loss(
        self,
        images: Images,
        targets: GivenTargets,
        proposals: Given | None = None,
        *,
        key: mx.array | None = None,
        group: mx.distributed.Group | None = None,
        size_divisible: int | None = None,
    ) -> dict[str, mx.array]:
        """Losses of a batch: ``roi_cls_loss``, ``roi_reg_loss`` and ``total_loss``.

        Args:
            images, targets, key, group, size_divisible: as :meth:`FasterRCNN.get_loss`.
            proposals: as :meth:`predict`. Default: each target's ``proposals``.

        Returns:
            As :meth:`FasterRCNN.get_loss`.

        Raises:
            ValueError, TypeError, FileNotFoundError: images, targets or proposals that cannot be
                used; none were given.
        """
        if proposals is None:
            each = [target.get("proposals") for target in targets]
            proposals = [boxes for boxes in each if boxes is not None]
            if len(proposals) < len(each):
                raise ValueError(lacking_proposals(self))
        return self.losses(images, targets, key, group, size_divisible, proposals)


class FastRCNN(GivenProposals, TwoStageDetector):
    """A backbone, and a box head over proposals that are given (Girshick, 2015).

    Args:
        backbone: as for :class:`FasterRCNN`, or a :class:`~mlx_rcnn.FastRCNNConfig`.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): with the background.
        **config: further fields of :class:`~mlx_rcnn.FastRCNNConfig`.
    """

    config_class: type[FastRCNNConfig] = FastRCNNConfig
    config: FastRCNNConfig
