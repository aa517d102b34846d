"""Fields of what finds boxes among proposals: of any kind, and of a box head over RoIs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .checks import (
    NORM_OR_NONE,
    SHARE,
    SWITCH,
    Choice,
    Number,
    Positive,
    Row,
    Sizes,
    Thresholds,
    Whole,
    setting,
)
from .network import DetectorConfig
from .proposals import REG_LOSSES

NMS_KINDS = ("hard", "linear", "gaussian")
RCNN_SCORES = ("softmax", "svm")


class BoxStage(NamedTuple):
    """How one box head is trained and read; a cascade has several."""

    fg_iou: float  # an RoI is positive from here
    bg_iou: float  # and background below
    reg_weights: tuple[float, ...]  # factors of its deltas
    loss_weight: float = 1.0  # of both its losses


@dataclass(frozen=True)
class BoxConfig(DetectorConfig):
    """What every detector of boxes among proposals has: which it learns from, which it keeps.

    Args:
        box_score_thresh: least score of a detection, exclusive: one number, or one a class without
            the background. Default: ``0.05``.
        box_nms_thresh (float): IoU above which the worse detection of a class goes. Default:
            ``0.5``.
        box_nms_kind (str): ``"hard"``, or Soft-NMS (Bodla et al., 2017), which lowers the scores of
            overlapping boxes instead of dropping them: ``"linear"`` or ``"gaussian"``. Default:
            ``"hard"``.
        box_nms_sigma (float): of ``"gaussian"``. Default: ``0.5``.
        box_nms_agnostic (bool): detections of different classes suppress each other too. Default:
            ``False``.
        box_detections_per_img (int): most detections an image. Default: ``100``.
        box_fg_iou_thresh (float): a proposal of at least this IoU with a target is an example of
            its class. Default: ``0.5``.
        box_bg_iou_thresh (float): one below this is background. Default: ``0.5``.
        box_positive_fraction (float): most of a sample that is no background. Default: ``0.25``.
        bbox_reg_weights: factors of the box deltas. Default: ``(10, 10, 5, 5)``.
        box_min_size (float): the smallest side of a detection that is kept. Default: ``1e-2``.
        clip_results (bool): clip the final boxes to the image given and leave out those without a
            width or height (detectron2). Default: ``False``.
    """

    box_score_thresh: float | tuple[float, ...] = setting(0.05, Thresholds("num_classes"))
    box_nms_thresh: float = setting(0.5, SHARE)
    box_nms_kind: str = setting("hard", Choice(NMS_KINDS))
    box_nms_sigma: float = setting(0.5, Positive())
    box_nms_agnostic: bool = setting(False, SWITCH)
    box_detections_per_img: int = setting(100, Whole())
    box_fg_iou_thresh: float = setting(0.5, SHARE)
    box_bg_iou_thresh: float = setting(0.5, SHARE)
    box_positive_fraction: float = setting(0.25, SHARE)
    bbox_reg_weights: tuple[float, float, float, float] = setting(
        (10.0, 10.0, 5.0, 5.0), Sizes(Row(4))
    )
    box_min_size: float = setting(1e-2, Number())
    clip_results: bool = setting(False, SWITCH)

    @property
    def box_stages(self) -> tuple[BoxStage, ...]:
        """The box heads that RoIs go through, one after the other."""
        return (BoxStage(self.box_fg_iou_thresh, self.box_bg_iou_thresh, self.bbox_reg_weights),)

    def sample_size(self, images: int) -> int:
        """How many RoIs of each image are learned from, in a batch of so many images."""
        raise NotImplementedError


@dataclass(frozen=True)
class FastRCNNConfig(BoxConfig):
    """A box head over RoIs; a Fast R-CNN has nothing else (Girshick, 2015).

    Args:
        pool_size ((int, int)): RoI pooling's output for the box head. Default: ``(7, 7)``.
        roi_pooling (str): ``"align"``, RoIAlign, or ``"pool"``, the RoIPool of Fast and Faster
            R-CNN as published. Default: ``"align"``.
        roi_sampling_ratio (int): RoIAlign samples a bin and axis; 0 is adaptive. Default: ``2``.
        roi_aligned (bool): RoIAlign's half-pixel correction (detectron2). Default: ``False``.
        box_head_convs (int): 3x3 convolutions of the box head, which then has one linear layer; 0
            leaves it two linear layers alone. Default: ``0``.
        box_head_norm (str): ``"batch"``, ``"frozen"`` or ``"group"`` after each of those, or
            ``None`` for biases instead. Default: ``None``.
        res5_head (bool): the box head is the fourth stage of the ResNet, averaged, in place of
            convolutions and linear layers; for a backbone of three stages (detectron2's C4).
            Default: ``False``.
        hidden_dim (int): units of the box head's linear layers. Default: ``4096``.
        dropout (float): after each linear layer, in ``get_loss`` only. Default: ``0.5``.
        class_agnostic_bbox (bool): one box regression for all classes. Default: ``False``.
        box_batch_size_per_image (int): RoIs of an image that are learned from. Default: ``512``.
        box_reg_loss (str): ``"smooth_l1"``, ``"l1"`` or ``"giou"``. Default: ``"smooth_l1"``.
        box_smooth_l1_beta (float): where the parabola of ``"smooth_l1"`` ends. Default: ``1 / 9``.

    The fields that :class:`BoxConfig` describes it has too.
    """

    pool_size: tuple[int, int] = setting((7, 7), Sizes(Row(2), whole=True))
    roi_pooling: str = setting("align", Choice(("align", "pool")))
    roi_sampling_ratio: int = setting(2, Whole(-1))
    roi_aligned: bool = setting(False, SWITCH)
    box_head_convs: int = setting(0, Whole(0))
    box_head_norm: str | None = setting(None, NORM_OR_NONE)
    res5_head: bool = setting(False, SWITCH)
    hidden_dim: int = setting(4096, Whole())
    dropout: float = setting(0.5, Number())
    class_agnostic_bbox: bool = setting(False, SWITCH)
    box_batch_size_per_image: int = setting(512, Whole())
    box_reg_loss: str = setting("smooth_l1", Choice(REG_LOSSES))
    box_smooth_l1_beta: float = setting(1 / 9, Number())

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout >= 1:
            raise ValueError(f"dropout={self.dropout!r}: expected a number in [0, 1)")

    def sample_size(self, images: int) -> int:
        """See :meth:`BoxConfig.sample_size`."""
        return self.box_batch_size_per_image


@dataclass(frozen=True)
class RCNNConfig(BoxConfig):
    """A classifier over warped crops of the image itself (Girshick et al., 2014).

    Crops are cut out of the image at its own size: ``min_size``, ``max_size`` and ``resize_rule``
    have no effect, nor have ``use_fpn``, ``roi_levels`` and what is said of strides, as there are
    no maps. ``image_mean``, ``image_std`` and ``channel_order`` are those of the classifier.

    Args:
        feat_channels (int): of the classifier's last map, which the box regression sees.
        bbox_reg_weights: factors of the box deltas. Default: ``(10, 10, 5, 5)``. The paper's code
            whitens the deltas of each class before it fits the ridge, and those of pairs that
            overlap so far spread by about 0.1, 0.1, 0.2 and 0.2; the minimum is the same with 1.
        crop_size (int): side of a crop in pixels. Default: ``224``.
        crop_context (int): pixels of the crop on each side that show what is around the box.
            Default: ``16``.
        crops_at_once (int): crops that go through the network together in prediction, which bounds
            its memory. Default: ``32``.
        crops_per_batch (int): crops of a batch that are learned from, divided over its images.
            Default: ``128``, of which ``box_positive_fraction`` are examples of classes.
        box_reg_iou_thresh (float): the box regression learns from examples of classes whose IoU
            with their target is greater. Default: ``0.6``.
        ridge (float): lambda of the box regression's ridge as published, for 10,000 pairs of each
            class: a pair bears a share of it. :func:`~mlx_rcnn.training.ridge.fit_boxes` solves it
            at once, as the paper does; ``get_loss`` goes there step by step, and slowly where
            directions of the map vary little. Default: ``1000``.
        rcnn_scores (str): ``"softmax"``, of the fine-tuned classifier, or ``"svm"``, one linear SVM
            a class as published, see :func:`~mlx_rcnn.training.svms.fit_svms`. Default:
            ``"softmax"``.
        svm_bg_iou_thresh (float): what overlaps all targets of a class less is background to its
            SVM, whose examples are the targets' own boxes. Default: ``0.3``.

    The fields that :class:`BoxConfig` describes it has too.
    """

    crop_size: int = setting(224, Whole(high=2048))
    crop_context: int = setting(16, Whole(0))
    crops_at_once: int = setting(32, Whole())
    crops_per_batch: int = setting(128, Whole())
    box_reg_iou_thresh: float = setting(0.6, SHARE)
    ridge: float = setting(1000.0, Number())
    rcnn_scores: str = setting("softmax", Choice(RCNN_SCORES))
    svm_bg_iou_thresh: float = setting(0.3, SHARE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if 2 * self.crop_context >= self.crop_size:
            raise ValueError(
                f"crop_context={self.crop_context!r}: expected less than half of crop_size="
                f"{self.crop_size!r}"
            )

    def sample_size(self, images: int) -> int:
        """See :meth:`BoxConfig.sample_size`."""
        return max(self.crops_per_batch // images, 1)
