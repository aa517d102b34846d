"""Faster R-CNN: the flow from images to detections, top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ..backbones import make_backbone
from ..config.detector import FasterRCNNConfig, make_config
from ..heads import RoIHeads, select_detections
from ..heads.res5 import ROIS_AT_ONCE as RES5_AT_ONCE
from ..heads.rois import batch_rows, in_pieces
from ..inputs.transform import boxes_to_original, load_images, preprocess
from ..layers import EvaluatedModule, inference
from ..messages import listing
from ..ops import clip_boxes, multiscale_roi_align
from ..ops.nms import first_rounds, settle
from ..rpn.network import RegionProposalNetwork
from ..structures import Batch, Detections, Proposals
from .strides import KnownSizes, MapSizes, Scales, Size, Strides, batch_strides
from .training_pass import training_pass

if TYPE_CHECKING:
    from typing_extensions import Self

CANDIDATES = 1024  # (proposal, class) pairs the final suppression looks at, at first


class RawOutputs(NamedTuple):
    """The outputs for a batch that is already network input, and what they were made from."""

    features: list[mx.array]
    proposals: Proposals
    scales: Scales
    logits: mx.array
    deltas: mx.array


class FasterRCNN(EvaluatedModule):
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
        self.source: str | None = None
        self.origin: Any = None
        self.dtype: str | None = None

    def to_predict(self) -> Self:
        """The model as prediction runs it: a view in evaluation mode, which shares its arrays.

        Weights of 16 bits run in float32 on a CPU, which is 2.5 times faster there and more, unless
        ``dtype`` names the type to run in.
        """
        on_cpu = mx.default_device().type == mx.cpu
        return inference(self, widen=self.dtype is None and on_cpu)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name a class, the background's first; ``None`` if unknown, as after a head swap."""
        names, last = self.config.class_names, self.roi_heads.box_predictor.cls_score
        return names if names and len(names) == last.weight.shape[0] else None

    def __call__(self, images: mx.array) -> tuple[mx.array, ...]:
        """Raw outputs for a batch that is already network input.

        Args:
            images (N, H, W, 3): normalised and padded.

        Returns:
            ``cls_logits`` (N, R, C) and ``bbox_deltas`` (N, R, 4 * C or 4) of the R proposals of
            each image, float32.
        """
        raw = self.to_predict()._raw(images)
        return raw.logits, raw.deltas

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
            ``scores`` (D,) float32, ``labels`` (D,) int32 in 1..C-1, best first.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or thresholds that cannot be used.
            ValueError: weights or what is computed from them are not finite.
        """
        limits = self._limits(score_thresh, nms_thresh, top_k)
        batch = preprocess(load_images(images), self.config)
        _, _, detections = self.to_predict().detect(batch, limits)
        return to_results(detections, batch, self.config.clip_results)

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

        Args:
            images: as :meth:`predict`.
            targets: one dict an image: ``boxes`` (G, 4) xyxy pixels of the image given, ``labels``
                (G,) in 1..C-1, optional ``iscrowd`` (G,), left out; G may be 0.
            key: of everything random (sampling, dropout, for each image the size drawn from
                several ``min_size``). Default: drawn from MLX's state, of which every thread has
                its own, new ones all the same: ``mx.random.seed`` counts in the thread it is
                called in, so that in a worker it must be called there, or ``key`` be given.
            group: of machines that share a batch: losses are normalised so that the average of
                their gradients is that of the whole batch. Default: this machine alone.
            size_divisible: padded sides are a multiple of it; a larger one makes fewer sizes.
                Default: the config's, as torchvision.

        Returns:
            Scalars ``rpn_cls_loss``, ``rpn_reg_loss``, ``roi_cls_loss``, ``roi_reg_loss`` and their
            plain sum ``total_loss``, normalised as in torchvision.

        Raises:
            ValueError, TypeError, FileNotFoundError: images or targets that cannot be used, naming
                the image and the box.
        """
        return training_pass(self, images, targets, key, group, size_divisible).losses

    def _raw(self, images: mx.array) -> RawOutputs:
        """What ``__call__`` gives, and what a further head needs to add its own."""
        features = self.features(images)
        sizes = np.tile(images.shape[1:3], (images.shape[0], 1))
        batch = Batch(images, sizes, sizes)
        strides = self.strides(features, batch)
        proposals = self.propose(features, batch, strides)
        logits, deltas = self.box_outputs(features, proposals, strides.scales)
        return RawOutputs(features, proposals, strides.scales, logits, deltas)

    def _limits(
        self, score_thresh: float | None, nms_thresh: float | None, top_k: int | None
    ) -> tuple[float, float, int]:
        config = self.config
        score = config.box_score_thresh if score_thresh is None else score_thresh
        overlap = config.box_nms_thresh if nms_thresh is None else nms_thresh
        most = config.box_detections_per_img if top_k is None else top_k
        for name, value in (("score_thresh", score), ("nms_thresh", overlap)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value!r}: expected a number in [0, 1]")
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ValueError(f"top_k={most!r}: expected a positive integer")
        return float(score), float(overlap), most

    def features(self, pixels: mx.array) -> list[mx.array]:
        """The backbone's maps in the weights' dtype, checked against the config."""
        if pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ValueError(f"images: expected (N, H, W, 3) network input, got {pixels.shape}")
        maps = self.backbone(pixels.astype(self.rpn.head.cls_logits.weight.dtype))
        features = [maps] if isinstance(maps, mx.array) else list(maps)
        if self.config.use_fpn and isinstance(maps, mx.array):
            raise ValueError("use_fpn=True: expected a list of maps from the backbone, got one map")
        for feature in features:
            if not isinstance(feature, mx.array):
                raise TypeError(
                    f"backbone returned a {type(maps).__name__} of {type(feature).__name__}: "
                    "expected one map (N, h, w, C) or a list of them"
                )
            if feature.ndim != 4 or feature.shape[-1] != self.config.feat_channels:
                raise ValueError(
                    f"feat_channels={self.config.feat_channels}: the backbone returned a map of "
                    f"shape {feature.shape}, expected (N, h, w, {self.config.feat_channels})"
                )
        return features

    def __setattr__(self, key: str, value: Any) -> None:
        super().__setattr__(key, value)
        if key == "backbone":
            self._known_sizes = KnownSizes()

    @property
    def map_sizes(self) -> MapSizes:
        """The sizes of the backbone's maps by its input's; nothing is computed for them."""

        def shapes(size: Size) -> list[Size]:
            maps = inference(self).features(mx.zeros((1, *size, 3)))
            return [(f.shape[1], f.shape[2]) for f in maps]

        return MapSizes(shapes, self._known_sizes)

    def strides(self, features: list[mx.array], batch: Batch) -> Strides:
        """Those that prediction takes for a batch, whose maps ``features`` are."""
        maps = [(f.shape[1], f.shape[2]) for f in features]
        _, height, width, _ = batch.pixels.shape
        most = int(batch.sizes[:, 0].max())
        return batch_strides(self.config, self.map_sizes, maps, (height, width), most)

    def propose(self, features: list[mx.array], batch: Batch, strides: Strides) -> Proposals:
        """Exact proposals: only their suppression is repeated where it has not settled."""
        config, outputs = self.config, self.rpn.outputs(features, strides.anchors)
        sizes = mx.array(batch.sizes.astype(np.float32))
        most = config.rpn_pre_nms_top_n_test, config.rpn_post_nms_top_n_test
        return settle(lambda rounds: self.rpn.select(outputs, sizes, *most, rounds))

    def box_outputs(
        self, features: list[mx.array], proposals: Proposals, scales: Scales
    ) -> tuple[mx.array, mx.array]:
        """Class logits (N, P, C) and deltas (N, P, 4 * C or 4) of the proposals."""
        n, count = proposals.boxes.shape[:2]

        def run(piece: mx.array, _: slice) -> mx.array:
            pooled = self.pool(features, piece, scales, self.config.pool_size)
            hidden: mx.array = self.roi_heads.box_head(pooled)
            return hidden

        rois = batch_rows(proposals.boxes)
        at_once = RES5_AT_ONCE if self.config.res5_head else n * count
        logits, deltas = self.roi_heads.box_predictor(in_pieces(rois, at_once, run))
        return logits.reshape(n, count, -1), deltas.reshape(n, count, -1)

    def pool(
        self, features: list[mx.array], rois: mx.array, scales: Scales, size: tuple[int, int]
    ) -> mx.array:
        """RoIs (R, 5) to (R, ph, pw, C); with scales of each image they stand image after image."""
        config, levels = self.config, features[: len(scales[0])]

        def pool(maps: list[mx.array], boxes: mx.array, each: tuple[float, ...]) -> mx.array:
            ratio, aligned = config.roi_sampling_ratio, config.roi_aligned
            return multiscale_roi_align(maps, boxes, size, each, ratio, aligned)

        if len(scales) == 1:
            return pool(levels, rois, scales[0])
        count = rois.shape[0] // len(scales)
        alone = rois * mx.array([0.0, 1.0, 1.0, 1.0, 1.0])  # each is the first of its own maps
        return mx.concatenate(
            [
                pool([v[i : i + 1] for v in levels], alone[i * count : (i + 1) * count], each)
                for i, each in enumerate(scales)
            ]
        )

    def detect(
        self, batch: Batch, limits: tuple[float, float, int]
    ) -> tuple[list[mx.array], Scales, Detections]:
        """Features, RoI scales and evaluated detections.

        Where the last suppression says that its rounds or its candidates were not enough, it alone
        is done again, with more of both.
        """
        score_thresh, nms_thresh, top_k = limits
        config = self.config
        sizes = mx.array(batch.sizes.astype(np.float32))
        features = self.features(batch.pixels)
        strides = self.strides(features, batch)
        scales = strides.scales
        proposals = self.propose(features, batch, strides)
        logits, deltas = self.box_outputs(features, proposals, scales)
        least = max(CANDIDATES, 4 * top_k)
        lost = mx.any(~mx.isfinite(logits) & proposals.valid[..., None])
        lost |= mx.any(mx.isnan(proposals.scores))

        def attempt(rounds: int) -> Detections:
            candidates = least * rounds // first_rounds()
            found = select_detections(
                logits, deltas, proposals, sizes, score_thresh, nms_thresh, top_k,
                config.bbox_reg_weights, config.box_min_size, candidates, rounds,
                clamp_both=config.bbox_clamp_both,
            )  # fmt: skip
            found = drop_empty(found, batch) if config.clip_results else found
            mx.eval(found, lost)
            return found

        found = settle(attempt)
        if np.array(lost):
            raise ValueError(not_finite(self))
        return features, scales, found


def drop_empty(detections: Detections, batch: Batch) -> Detections:
    """Without those that have no width or height left in the image given (detectron2)."""
    ratio = batch.original_sizes.astype(np.float32) / batch.sizes.astype(np.float32)
    boxes = detections.boxes * mx.array(ratio[:, [1, 0, 1, 0]])[:, None]
    boxes = clip_boxes(boxes, mx.array(batch.original_sizes.astype(np.float32)))
    whole = mx.all(boxes[..., 2:] > boxes[..., :2], axis=-1)
    return detections._replace(valid=detections.valid & whole)


def to_results(
    detections: Detections, batch: Batch, clip: bool = False
) -> list[dict[str, np.ndarray]]:
    """Evaluated detections as one dict of NumPy arrays an image, in pixels of the image given.

    Args:
        detections: in pixels of the network input.
        batch: the images they were found in.
        clip: cut boxes off at the borders of the image given. Default: ``False``.
    """
    boxes, scores, labels, valid = (np.array(v) for v in detections[:4])
    return [
        {
            "boxes": boxes_to_original(boxes[i][ok], batch.sizes[i], batch.original_sizes[i], clip),
            "scores": scores[i][ok],
            "labels": labels[i][ok],
        }
        for i, ok in enumerate(valid)
    ]


def not_finite(model: nn.Module) -> str:
    """Why a network's outputs are not numbers, in a sentence for whoever loaded it."""
    named: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # type: ignore[assignment]
    bad = [name for name, value in named if not np.isfinite(np.array(mx.sum(value * 0.0)))]
    if bad:
        return (
            f"weights of the model are not finite: {listing(bad)}; did its training diverge, or is "
            "the type it was stored in too small for them? Expected an earlier checkpoint"
        )
    return (
        "the network's outputs are not finite though its weights are: expected a type with a wider "
        'range than the one it runs in, such as load(..., dtype="float32") or --dtype float32'
    )
