"""A region proposal network alone: boxes of objects of any class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config.proposals import ProposalNetworkConfig
from ..memory import bounded_cache
from ..ops.gradient import nothing_read
from ..outputs.detections import Detections
from ..rpn.network import RegionProposalNetwork
from ..structures import Batch, GivenTargets, Images
from ..structures import Detections as Arrays
from .detector import Detector, key_or_new
from .flow import with_total
from .proposing import ProposalSteps
from .results import named_results, not_finite, to_results


class ProposalNetwork(ProposalSteps, Detector):
    """The first half of a Faster R-CNN, whose second half may be a Fast R-CNN's.

    Args:
        backbone: as for :class:`FasterRCNN`, or a :class:`~mlx_rcnn.ProposalNetworkConfig`.
        feat_channels (int): channels of the backbone's maps.
        num_classes (int): 2, the background and an object. Default: ``2``.
        **config: further fields of :class:`~mlx_rcnn.ProposalNetworkConfig`.
    """

    config_class: type[ProposalNetworkConfig] = ProposalNetworkConfig
    config: ProposalNetworkConfig
    finds_objects = True

    def build(self) -> None:
        """Add the proposal network."""
        self.rpn = RegionProposalNetwork(self.config)

    @property
    def last_layer(self) -> nn.Module:
        """See :attr:`~mlx_rcnn.models.maps.MapSteps.last_layer`."""
        layer: nn.Module = self.rpn.head.cls_logits
        return layer

    def predict(
        self,
        images: Images,
        *,
        score_thresh: float | None = None,
        nms_thresh: float | None = None,
        top_k: int | None = None,
    ) -> list[Detections]:
        """Propose boxes.

        Args:
            images: as :meth:`FasterRCNN.predict`.
            score_thresh: least objectness. Default: ``config.rpn_score_thresh``.
            nms_thresh: IoU above which the worse box of a level goes. Default:
                ``config.rpn_nms_thresh``.
            top_k: most proposals an image. Default: ``config.rpn_post_nms_top_n_test``.

        Returns:
            One dict an image, as :meth:`FasterRCNN.predict`: ``boxes`` (P, 4), ``scores`` (P,), the
            sigmoid of the objectness, and ``labels`` (P,), all 1; best first.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or thresholds that cannot be used.
        """
        given = {
            "rpn_score_thresh": score_thresh,
            "rpn_nms_thresh": nms_thresh,
            "rpn_post_nms_top_n_test": top_k,
        }
        changes = {k: v for k, v in given.items() if v is not None}
        renewed: Callable[..., ProposalNetworkConfig] = replace
        ready = self.prepare(images)
        model = self.to_predict()
        model.config = renewed(self.config, **changes)
        found = model.find_in(ready.batch())
        return named_results(self, found, ready.given, ready.pictures)

    def find_in(self, batch: Batch, *_: object, **__: object) -> list[dict[str, np.ndarray]]:
        """What :meth:`predict` does, in a batch that is network input already.

        Args:
            batch: the images.

        Returns:
            As ``predict``.

        Raises:
            ValueError: weights or what is computed from them are not finite.
        """
        model = self.to_predict()
        with bounded_cache():
            features = model.features(batch.pixels)
            found = model.propose(features, batch, model.strides(features, batch))
            labels = mx.ones(found.scores.shape, dtype=mx.int32)
            detections = Arrays(found.boxes, found.scores, labels, found.valid, found.exact)
            lost = mx.any(mx.isnan(found.scores))
            mx.eval(detections, lost)
        if np.array(lost):
            raise ValueError(not_finite(self))
        return to_results(detections, batch)

    def get_loss(
        self,
        images: Images,
        targets: GivenTargets,
        *,
        key: mx.array | None = None,
        group: mx.distributed.Group | None = None,
        size_divisible: int | None = None,
    ) -> dict[str, mx.array]:
        """Losses of a batch: ``rpn_cls_loss``, ``rpn_reg_loss`` and ``total_loss``.

        Args:
            images, targets, key, group, size_divisible: as :meth:`FasterRCNN.get_loss`; every label
                counts as an object.

        Returns:
            As :meth:`FasterRCNN.get_loss`.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or targets that cannot be used.
        """
        size_key, rpn_key = mx.random.split(key_or_new(key))
        objects = [
            {**target, "labels": np.ones_like(np.asarray(target["labels"]))}
            if "labels" in target
            else target
            for target in targets
        ]
        with nothing_read():
            begun = self.begin_training(images, objects, size_key, size_divisible)
            _, truth, features, strides = begun
            losses, _ = self.proposal_losses(features, strides, truth, rpn_key, group)
        return with_total(losses)
