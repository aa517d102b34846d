"""Faster R-CNN: the two-stage flow with proposals of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..config.detector import FasterRCNNConfig
from ..heads.detections import DetectionRule, detection_rule
from ..outputs.detections import Detections
from ..rpn.network import RegionProposalNetwork
from ..structures import GivenTargets, Images, Prepared, Proposals
from .augmented import TestTimeAugment, find_augmented
from .detector import Begun
from .flow import Losses, TwoStageDetector
from .proposing import ProposalSteps


class FasterRCNN(ProposalSteps, TwoStageDetector):
    """A two-stage detector (Ren et al., 2015): a backbone, proposals, and a box head over them.

    Args:
        backbone: an MLX module or a config (see :class:`~mlx_rcnn.FasterRCNNConfig`), or a whole
            ``FasterRCNNConfig``, whose fields ``config`` then overrides.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): with the background, which is class 0.
        **config: further fields of :class:`~mlx_rcnn.FasterRCNNConfig`.

    Raises:
        TypeError, ValueError: a field that does not exist or breaks its rule.

    Attributes:
        backbone, rpn, roi_heads: the parts, under torchvision's names.
        config: what it was built from.
        class_names: one name a class, or ``None``.
        source: where its weights came from, or ``None``.
        origin: what the way back to their library needs (``convert/origin.py``), or ``None``.
        dtype: the type it was asked to run in, or ``None``: see :meth:`to_predict`.
    """

    config_class: type[FasterRCNNConfig] = FasterRCNNConfig
    config: FasterRCNNConfig

    def build(self) -> None:
        """Add the proposal network and the heads."""
        self.rpn = RegionProposalNetwork(self.config)
        super().build()

    def __call__(self, images: mx.array) -> tuple[mx.array, ...]:
        """Raw outputs for a batch that is already network input.

        Args:
            images (N, H, W, 3): normalised and padded.

        Returns:
            ``cls_logits`` (N, R, C) and ``bbox_deltas`` (N, R, 4 * C or 4) of the R proposals of
            each image, float32, and the outputs (N, R, ...) of each branch.
        """
        return self.raw_outputs(images)

    def predict(
        self,
        images: Images,
        *,
        score_thresh: float | Sequence[float] | None = None,
        nms_thresh: float | None = None,
        top_k: int | None = None,
        augment: TestTimeAugment | None = None,
    ) -> list[Detections]:
        """Detect objects.

        The images given are one batch: they are padded to a common size and go through together.

        Any number of threads may predict with one model at once, whatever mode it is in: it is not
        touched. What may not run meanwhile is what changes it: a training step, loading weights,
        a change of heads or of ``config``.

        Args:
            images: one or a list of paths, PIL images or (H, W, 3) arrays, uint8 or float in
                [0, 1]; or one (N, H, W, 3) float batch in [0, 1]; or what :meth:`prepare` made of
                any of these.
            score_thresh: least score, exclusive; one number, or one a class without the background.
                Default: ``config.box_score_thresh``.
            nms_thresh: IoU above which the worse box of a class goes. Default:
                ``config.box_nms_thresh``.
            top_k: most detections an image. Default: ``config.box_detections_per_img``.
            augment: sizes to look at each image in, mirrored too, and merge what is found (see
                :func:`~mlx_rcnn.models.predict_augmented`). Default: ``None``, at its own size.

        Returns:
            One dict an image: ``boxes`` (D, 4) float32 xyxy in pixels of the image given,
            ``scores`` (D,) float32, ``labels`` (D,) int32 in 1..C-1, best first. Branches add to
            it: see the models.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or thresholds that cannot be used.
            ValueError: weights or what is computed from them are not finite.
        """
        rule = detection_rule(self.config, score_thresh, nms_thresh, top_k)
        return self.find_or_augment(images, rule, augment)

    def find_or_augment(
        self, images: Images, rule: DetectionRule, augment: TestTimeAugment | None, **options: Any
    ) -> list[Detections]:
        """:meth:`find`, or :func:`~mlx_rcnn.models.augmented.find_augmented`.

        Args:
            images, augment: as :meth:`predict`.
            rule: which boxes become detections.
            **options: of the branches.

        Returns:
            As :meth:`predict`.

        Raises:
            ValueError, TypeError, FileNotFoundError: as :meth:`predict`.
        """
        if augment is None:
            return self.find(images, rule, **options)
        given = images.given if isinstance(images, Prepared) else images
        return find_augmented(self, given, rule, augment, **options)

    def get_loss(
        self,
        images: Images,
        targets: GivenTargets,
        *,
        key: mx.array | None = None,
        group: mx.distributed.Group | None = None,
        size_divisible: int | None = None,
    ) -> dict[str, mx.array]:
        """Losses of a batch, to be differentiated with ``mlx.nn.value_and_grad``.

        Every image is trained with the anchors and RoI scales that :meth:`predict` takes for it
        alone, whatever its neighbours and the padding.

        Args:
            images: as :meth:`predict`.
            targets: one dict an image: ``boxes`` (G, 4) xyxy pixels of the image given, ``labels``
                (G,) in 1..C-1, optional ``iscrowd`` (G,), left out; G may be 0. A Mask R-CNN needs
                ``masks`` (G, H, W), 0 or 1, too, and a Keypoint R-CNN ``keypoints`` (G, K, 3): x, y
                and a visibility; those of 0 are not learned from.
            key: of everything random (sampling, dropout, for each image the size drawn from
                several ``min_size``). Default: drawn from MLX's state, of which every thread has
                its own, new ones all the same: ``mx.random.seed`` counts in the thread it is
                called in, so that in a worker it must be called there, or ``key`` be given.
            group: of machines that share a batch: losses are normalised so that the average of
                their gradients is that of the whole batch. Default: this machine alone.
            size_divisible: padded sides are a multiple of it; a larger one makes fewer sizes.
                Default: the config's, as torchvision.

        Returns:
            Scalars ``rpn_cls_loss``, ``rpn_reg_loss``, ``roi_cls_loss``, ``roi_reg_loss``, those of
            the branches (``mask_loss``, ``keypoint_loss``), and their plain sum ``total_loss``,
            normalised as in torchvision.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or targets that cannot be used, naming
                the image and the box.
        """
        return self.losses(images, targets, key, group, size_divisible)

    def learn_proposals(
        self, begun: Begun, key: mx.array, group: mx.distributed.Group | None
    ) -> tuple[Losses, Proposals]:
        """See :meth:`TwoStageDetector.learn_proposals`."""
        batch, truth, features, strides = begun
        losses, outputs = self.proposal_losses(features, strides, truth, key, group)
        return losses, self.training_proposals(outputs, batch)
