"""The two-stage flow: from images to detections, and from images and targets to losses.

Prediction, raw outputs and training go through the same steps, each a method of its own::

    features -> propose -> box_outputs -> detect -> branches        (prediction)
    features -> rpn losses -> training_proposals -> box losses -> branches    (training)

What a model finds beside boxes is a :class:`~mlx_rcnn.heads.Branch` in ``branches``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backbones import make_backbone
from ..config.detector import FasterRCNNConfig, make_config
from ..heads import Branch, DetectionRule, RoIHeads, box_losses, sample_rois
from ..heads.detections import detection_rule
from ..heads.rois import batch_rows
from ..inputs.targets import prepare_targets
from ..inputs.transform import draw_sizes, load_images, preprocess
from ..layers import inference
from ..memory import bounded_cache
from ..processes import about_to_compute
from ..rpn.network import RegionProposalNetwork, rpn_losses
from ..structures import Batch
from .results import to_results
from .steps import Steps
from .strides import image_strides

if TYPE_CHECKING:
    from typing_extensions import Self


class TwoStageDetector(Steps):
    """A backbone, proposals, a box head and branches; the models tell the arguments."""

    config_class: type[FasterRCNNConfig] = FasterRCNNConfig
    config: FasterRCNNConfig
    branches: tuple[Branch, ...] = ()
    needs_masks = False
    needs_keypoints = False

    def __init__(
        self, backbone: Any, feat_channels: Any = None, num_classes: Any = None, **config: Any
    ):
        super().__init__()
        self.config = make_config(self.config_class, backbone, feat_channels, num_classes, config)
        backbone = self.config.backbone
        self.backbone = backbone if isinstance(backbone, nn.Module) else make_backbone(backbone)
        self.rpn = RegionProposalNetwork(self.config)
        self.roi_heads = RoIHeads(self.config)
        for branch in self.branches:
            branch.build(self.roi_heads, self.config)
        self.source: str | None = None
        self.origin: Any = None
        self.dtype: str | None = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name a class, the background's first; ``None`` if unknown, as after a head swap."""
        names = self.config.class_names
        return names if names and len(names) == self.num_classes else None

    @property
    def num_classes(self) -> int:
        """Classes of the box predictor as it is now, with the background."""
        count: int = self.roi_heads.box_predictor.cls_score.weight.shape[0]
        return count

    def to_predict(self) -> Self:
        """The model as prediction runs it: a view in evaluation mode, which shares its arrays.

        Weights of 16 bits run in float32 on a CPU, which is 2.5 times faster there and more, unless
        ``dtype`` names the type to run in.
        """
        on_cpu = mx.default_device().type == mx.cpu
        return inference(self, widen=self.dtype is None and on_cpu)

    def __call__(self, images: mx.array) -> tuple[mx.array, ...]:
        """Raw outputs for a batch that is already network input.

        Args:
            images (N, H, W, 3): normalised and padded.

        Returns:
            ``cls_logits`` (N, R, C) and ``bbox_deltas`` (N, R, 4 * C or 4) of the R proposals of
            each image, float32, and the outputs (N, R, ...) of each branch.
        """
        model = self.to_predict()
        features = model.features(images)
        sizes = np.tile(images.shape[1:3], (images.shape[0], 1))
        batch = Batch(images, sizes, sizes)
        strides = model.strides(features, batch)
        proposals = model.propose(features, batch, strides)
        stage = model.stage(features, strides)
        rois, (n, count) = batch_rows(proposals.boxes), proposals.boxes.shape[:2]
        further = [branch.outputs(stage, rois) for branch in self.branches]
        shaped = [v.reshape(n, count, *v.shape[1:]) for v in further]
        return *model.box_outputs(stage, proposals), *shaped

    def predict(
        self,
        images: Any,
        *,
        score_thresh: float | None = None,
        nms_thresh: float | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """Detect objects.

        The images given are one batch: they are padded to a common size and go through together.

        Any number of threads may predict with one model at once, whatever mode it is in: it is not
        touched. What may not run meanwhile is what changes it: a training step, loading weights,
        a change of heads or of ``config``.

        Args:
            images: one or a list of paths, PIL images or (H, W, 3) arrays, uint8 or float in
                [0, 1]; or one (N, H, W, 3) float batch in [0, 1].
            score_thresh: least score, exclusive. Default: ``config.box_score_thresh``.
            nms_thresh: IoU above which the worse box of a class goes. Default:
                ``config.box_nms_thresh``.
            top_k: most detections an image. Default: ``config.box_detections_per_img``.

        Returns:
            One dict an image: ``boxes`` (D, 4) float32 xyxy in pixels of the image given,
            ``scores`` (D,) float32, ``labels`` (D,) int32 in 1..C-1, best first. Branches add to
            it: see the models.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or thresholds that cannot be used.
            ValueError: weights or what is computed from them are not finite.
        """
        return self.find(images, detection_rule(self.config, score_thresh, nms_thresh, top_k))

    def find(self, images: Any, rule: DetectionRule, **options: Any) -> list[dict[str, np.ndarray]]:
        """What :meth:`predict` does, for any rule and with options of the branches.

        Args:
            images: as :meth:`predict`.
            rule: which boxes become detections.
            **options: of the branches.

        Returns:
            As :meth:`predict`.

        Raises:
            ValueError, TypeError, FileNotFoundError: as :meth:`predict`.
        """
        batch = preprocess(load_images(images), self.config)
        with bounded_cache():
            detections, stage = self.to_predict().detect(batch, rule)
            results = to_results(detections, batch, self.config.clip_results)
            for branch in self.branches:
                branch.add_results(stage, detections, batch, results, options)
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
        about_to_compute()
        config = self.config
        if key is None:
            key = mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)
        size_key, rpn_key, roi_key, dropout_key = mx.random.split(key, 4)
        padding = config
        if size_divisible is not None:
            padding = replace(config, size_divisible=size_divisible)
        given = load_images(images)
        batch = preprocess(given, padding, draw_sizes(given, config, size_key))
        points = self.roi_heads.keypoint_predictor.num_keypoints if self.needs_keypoints else None
        truth = prepare_targets(targets, batch, self.num_classes, self.needs_masks, points)
        features = self.features(batch.pixels)
        strides = image_strides(config, self.map_sizes, batch.sizes, len(features))
        outputs = self.rpn(features, self.anchors(features, strides))
        rpn_cls, rpn_reg = rpn_losses(outputs, truth, config, rpn_key, group)
        proposals = self.training_proposals(outputs, batch)
        rois = sample_rois(proposals, truth, config, roi_key)
        stage = self.stage(features, strides)
        logits, deltas = self.training_outputs(stage, rois, dropout_key)
        roi_cls, roi_reg = box_losses(logits, deltas, rois, group)
        losses = {
            "rpn_cls_loss": rpn_cls,
            "rpn_reg_loss": rpn_reg,
            "roi_cls_loss": roi_cls,
            "roi_reg_loss": roi_reg,
        }
        losses |= {b.loss_name: b.loss(stage, rois, truth, group) for b in self.branches}
        return {**losses, "total_loss": mx.sum(mx.stack(list(losses.values())))}
