"""The flow of every detector: from images to detections, and from images and targets to losses.

Prediction, raw outputs and training go through the same steps, each a method of its own::

    features -> propose -> box_stage -> detect -> branches                       (prediction)
    features -> proposal_losses -> training_proposals -> box_training -> branches  (training)

Proposals are a network's (``proposing``), or come from elsewhere; box heads stand once, or in a
cascade. What a model finds beside boxes is a :class:`~mlx_rcnn.heads.Branch` in ``branches``.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..config.boxes import BoxConfig, FastRCNNConfig
from ..heads import Branch, DetectionRule, RoIHeads
from ..heads.box import predictors_of
from ..heads.detections import check_thresholds
from ..heads.rois import batch_rows
from ..inputs.proposals import prepare_proposals
from ..memory import bounded_cache
from ..ops.gradient import nothing_read
from ..outputs.detections import Detections
from ..structures import Batch, GivenProposals, GivenTargets, Images, Proposals
from .boxing import BoxSteps, PooledBoxSteps, lacking_proposals
from .detector import Begun, Detector, key_or_new
from .results import named_results, to_results

Losses = dict[str, mx.array]


class BoxDetector(Detector, BoxSteps):
    """Proposals, what tells of each, and branches; the models tell the arguments."""

    config_class: type[BoxConfig]
    config: BoxConfig
    branches: tuple[Branch[Any], ...] = ()

    @property
    def num_classes(self) -> int:
        """Classes of the box predictor as it is now, with the background."""
        count: int = predictors_of(self.roi_heads)[0].cls_score.weight.shape[0]
        return count

    def raw_outputs(self, images: mx.array, given: Proposals | None = None) -> tuple[mx.array, ...]:
        """What a model called on network input gives.

        Args:
            images (N, H, W, 3): normalised and padded.
            given: R proposals an image. Default: the model's own.

        Returns:
            ``cls_logits`` (N, R, C) and ``bbox_deltas`` (N, R, 4 * C or 4), float32, and the
            outputs (N, R, ...) of each branch.
        """
        model = self.to_predict()
        features = model.features(images)
        sizes = np.tile(images.shape[1:3], (images.shape[0], 1))
        batch = Batch(images, sizes, sizes)
        strides = model.strides(features, batch)
        proposals = model.propose(features, batch, strides) if given is None else given
        stage = model.stage(features, strides)
        logits, deltas, boxes = model.box_stage(
            stage, proposals, mx.array(sizes).astype(mx.float32)
        )
        rois, (n, count) = batch_rows(boxes.boxes), boxes.boxes.shape[:2]
        further = [branch.outputs(stage, rois) for branch in self.branches]
        return logits, deltas, *(v.reshape(n, count, *v.shape[1:]) for v in further)

    def find(
        self,
        images: Images,
        rule: DetectionRule,
        proposals: GivenProposals | None = None,
        **options: Any,
    ) -> list[Detections]:
        """What ``predict`` does, for any rule and with options of the branches.

        Args:
            images: as ``predict``.
            rule: which boxes become detections.
            proposals: (P, 4) of each image, xyxy pixels of the image given. Default: the model's
                own.
            **options: of the branches.

        Returns:
            As ``predict``.

        Raises:
            ValueError, TypeError, FileNotFoundError: as ``predict``.
        """
        check_thresholds(rule, self.num_classes)
        ready = self.prepare(images)
        batch = ready.batch()
        given = None if proposals is None else prepare_proposals(proposals, batch)
        found = self.find_in(batch, rule, given, **options)
        return named_results(self, found, ready.given, ready.pictures)

    def find_in(
        self, batch: Batch, rule: DetectionRule, given: Proposals | None = None, **options: Any
    ) -> list[dict[str, np.ndarray]]:
        """What :meth:`find` does, in a batch that is network input already.

        Args:
            batch: the images.
            rule: which boxes become detections.
            given: proposals, in pixels of the network input. Default: the model's own.
            **options: of the branches.

        Returns:
            As ``predict``, in pixels of the images given.

        Raises:
            ValueError: weights or what is computed from them are not finite.
        """
        with bounded_cache():
            detections, stage = self.to_predict().detect(batch, rule, given)
            results = to_results(detections, batch, self.config.clip_results)
            for branch in self.branches:
                branch.add_results(stage, detections, batch, results, options)
        return results

    def losses(
        self,
        images: Images,
        targets: GivenTargets,
        key: mx.array | None,
        group: mx.distributed.Group | None,
        size_divisible: int | None,
        proposals: GivenProposals | None = None,
    ) -> Losses:
        """What ``get_loss`` does, with proposals from the model itself or from elsewhere.

        Args:
            images, targets, key, group, size_divisible: as ``get_loss``.
            proposals: (P, 4) of each image, xyxy pixels of the image given. Default: the model's
                own.
        """
        size_key, rpn_key, roi_key, dropout_key = mx.random.split(key_or_new(key), 4)
        with nothing_read(not self._reads_rois):
            begun = self.begin_training(images, targets, size_key, size_divisible)
            batch, truth, features, strides = begun
            if proposals is None:
                losses, given = self.learn_proposals(begun, rpn_key, group)
            else:
                losses, given = {}, prepare_proposals(proposals, batch)
        stage = self.stage(features, strides)
        sizes = mx.array(batch.sizes.astype(np.float32))
        box, rois = self.box_training(stage, given, truth, sizes, (roi_key, dropout_key), group)
        losses |= box
        losses |= {b.loss_name: b.loss(stage, rois, truth, group) for b in self.branches}
        return with_total(losses)

    @property
    def _reads_rois(self) -> bool:
        """Whether the host reads RoIs in a training step, and with them all before them."""
        config: Any = self.config
        pooled = getattr(config, "roi_pooling", "align") == "pool"
        return pooled or getattr(config, "roi_sampling_ratio", 1) <= 0 or bool(self.branches)

    def learn_proposals(
        self, begun: Begun, key: mx.array, group: mx.distributed.Group | None
    ) -> tuple[Losses, Proposals]:
        """The losses of the model's own proposals, and these.

        Raises:
            ValueError: it has none, they must be given.
        """
        raise ValueError(lacking_proposals(self))


class TwoStageDetector(BoxDetector, PooledBoxSteps):
    """Box heads over RoI features of the backbone's maps."""

    config_class: type[FastRCNNConfig]
    config: FastRCNNConfig

    def build(self) -> None:
        """See :meth:`Detector.build`."""
        self.roi_heads = RoIHeads(self.config)
        for branch in self.branches:
            branch.build(self.roi_heads, self.config)


def with_total(losses: Losses) -> Losses:
    """Losses and their plain sum, ``total_loss``."""
    return {**losses, "total_loss": mx.sum(mx.stack(list(losses.values())))}
