"""The flow of every detector: from images to detections, and from images and targets to losses.

Prediction, raw outputs and training go through the same steps, each a method of its own::

    features -> propose -> box_stage -> detect -> branches                       (prediction)
    features -> proposal_losses -> training_proposals -> box_training -> branches  (training)

Proposals are a network's (``proposing``), or come from elsewhere; box heads stand once, or in a
cascade. What a model finds beside boxes is a :class:`~mlx_rcnn.heads.Branch` in ``branches``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..backbones import make_backbone
from ..config.boxes import BoxConfig, FastRCNNConfig
from ..config.detector import make_config
from ..config.network import DetectorConfig
from ..heads import Branch, DetectionRule, RoIHeads
from ..heads.box import predictors_of
from ..heads.detections import check_thresholds
from ..heads.rois import batch_rows
from ..inputs.proposals import prepare_proposals
from ..inputs.targets import prepare_targets
from ..inputs.transform import draw_sizes, load_images, preprocess
from ..layers import inference
from ..memory import bounded_cache
from ..outputs.detections import Detections
from ..processes import about_to_compute
from ..structures import (
    Batch,
    GivenProposals,
    GivenTargets,
    ImageLike,
    Images,
    Proposals,
    Targets,
)
from .boxing import BoxSteps, PooledBoxSteps, lacking_proposals
from .maps import Maps, MapSteps
from .results import named_results, to_results
from .stream import stream
from .strides import Strides, image_strides

if TYPE_CHECKING:
    import os

    from typing_extensions import Self, Unpack

    from mlx_rcnn.convert.origin import Origin

    from ..config.backbone import BackboneConfig
    from ..config.keywords import ModelSettings
    from ..inputs.video import Video

Losses = dict[str, mx.array]


class Detector(MapSteps):
    """A backbone and a config; what stands over its maps, ``build`` adds."""

    config_class: type[DetectorConfig]
    config: DetectorConfig
    needs_masks = False
    needs_keypoints = False
    needs_proposals = False
    finds_objects = False  # of any class, and does not tell them apart

    def __init__(
        self,
        backbone: nn.Module | BackboneConfig | DetectorConfig,
        feat_channels: int | None = None,
        num_classes: int | None = None,
        **config: Unpack[ModelSettings],
    ):
        super().__init__()
        self.config = make_config(self.config_class, backbone, feat_channels, num_classes, config)
        body = self.config.backbone
        self.backbone = body if isinstance(body, nn.Module) else make_backbone(body)
        self.build()
        self.source: str | None = None
        self.origin: Origin | None = None
        self.dtype: str | None = None

    def build(self) -> None:
        """Add the layers over the maps."""
        raise NotImplementedError

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name a class, the background's first; ``None`` if unknown, as after a head swap."""
        names = self.config.class_names
        return names if names and len(names) == self.num_classes else None

    @property
    def num_classes(self) -> int:
        """Classes of the box predictor as it is now, with the background."""
        return self.config.num_classes

    def to_predict(self) -> Self:
        """The model as prediction runs it: a view in evaluation mode, which shares its arrays.

        Weights of 16 bits run in float32 on a CPU, which is 2.5 times faster there and more, unless
        ``dtype`` names the type to run in.
        """
        on_cpu = mx.default_device().type == mx.cpu
        return inference(self, widen=self.dtype is None and on_cpu)

    def input_sizes(
        self, images: Sequence[np.ndarray], key: mx.array | None = None
    ) -> list[tuple[int, int]] | None:
        """To which (height, width) images are resized.

        Args:
            images: (H, W, 3) each.
            key: of the sizes that are drawn, in training. Default: none are.

        Returns:
            One an image; ``None`` as :func:`~mlx_rcnn.inputs.transform.resized_size` has it.
        """
        return None if key is None else draw_sizes(images, self.config, key)

    def stream(
        self, source: str | os.PathLike[str] | int | Video | Iterable[ImageLike], **options: Any
    ) -> Iterator[Detections]:
        """Predict the frames of a video or camera, or images, one after the other.

        Memory stays flat however long the source is. As :func:`~mlx_rcnn.models.stream.stream`,
        which tells the options.

        Args:
            source: path of a video, number of a camera, or an iterable of images.
            **options: ``batch_size``, ``every``, ``start`` and ``stop``, and those of ``predict``.

        Returns:
            Results as ``predict`` gives them, each with its ``frame``.
        """
        return stream(self, source, **options)

    def begin_training(
        self,
        images: Images,
        targets: GivenTargets,
        key: mx.array,
        size_divisible: int | None,
    ) -> Begun:
        """The maps of a batch to train on, and its targets.

        Every image has the strides that :meth:`predict` takes for it alone, whatever its neighbours
        and the padding.

        Args:
            images, targets, size_divisible: as ``get_loss``.
            key: of the sizes that are drawn.
        """
        about_to_compute()
        config = self.config
        padding = config
        if size_divisible is not None:
            padding = replace(config, size_divisible=size_divisible)
        given = load_images(images)
        batch = preprocess(given, padding, self.input_sizes(given, key))
        points = self.roi_heads.keypoint_predictor.num_keypoints if self.needs_keypoints else None
        truth = prepare_targets(targets, batch, self.num_classes, self.needs_masks, points)
        features = self.features(batch.pixels)
        strides = image_strides(config, self.map_sizes, batch.sizes, len(features))
        return Begun(batch, truth, features, strides)


class Begun(NamedTuple):
    """What every training step begins with."""

    batch: Batch
    targets: Targets
    features: Maps
    strides: Strides


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
        pictures = load_images(images)
        batch = preprocess(pictures, self.config, self.input_sizes(pictures))
        given = None if proposals is None else prepare_proposals(proposals, batch)
        found = self.find_in(batch, rule, given, **options)
        return named_results(self, found, images, pictures)

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
        if key is None:
            key = mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)
        size_key, rpn_key, roi_key, dropout_key = mx.random.split(key, 4)
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
