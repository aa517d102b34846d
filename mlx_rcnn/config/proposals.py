"""Fields of a region proposal network."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import SHARE, SWITCH, Choice, Number, Row, Sizes, Whole, setting
from .network import DetectorConfig

REG_LOSSES = ("smooth_l1", "l1", "giou")
AnchorSizes = float | tuple[float, ...]  # one, or those of a level


@dataclass(frozen=True)
class ProposingConfig(DetectorConfig):
    """A detector with a region proposal network.

    Args:
        anchor_sizes: square roots of the anchors' areas. A flat tuple puts all its sizes on every
            level, a tuple of tuples has one entry a level. ``None`` means (128, 256, 512) on one
            map and one size a level, 32, 64, 128, 256, 512, on a pyramid.
        aspect_ratios (tuple of float): height / width. Default: ``(0.5, 1.0, 2.0)``.
        anchor_rounding (bool): round the cell anchors to whole pixels (torchvision).
        anchor_offset (float): shift of the anchor grid, in strides. Default: ``0``.
        rpn_conv_depth (int): 3x3 convolutions of the RPN head. Default: ``1``.
        rpn_ranking (str): what proposals are ranked by within a level and, after suppression, over
            all of them: ``"torchvision"`` the logit and its sigmoid, ``"detectron2"`` the logit,
            ``"mmdetection"`` the sigmoid. They part where float32 sigmoids of unequal logits tie.
        rpn_reg_loss (str): ``"smooth_l1"``, ``"l1"`` or ``"giou"``. Default: ``"smooth_l1"``.
        rpn_smooth_l1_beta (float): where the parabola of ``"smooth_l1"`` ends. Default: ``1 / 9``.

    The other fields are torchvision's, described at ``torchvision.models.detection.FasterRCNN``;
    ``rpn_min_size`` is the smallest side it keeps. A proposal always needs a width and a height,
    whatever ``rpn_min_size``.
    """

    anchor_sizes: tuple[AnchorSizes, ...] | None = setting(None, Sizes(Row(nested=True), none=True))
    aspect_ratios: tuple[float, ...] = setting((0.5, 1.0, 2.0), Sizes(Row()))
    anchor_rounding: bool = setting(True, SWITCH)
    anchor_offset: float = setting(0.0, Number(-float("inf")))
    rpn_conv_depth: int = setting(1, Whole())
    rpn_pre_nms_top_n_train: int = setting(2000, Whole())
    rpn_pre_nms_top_n_test: int = setting(1000, Whole())
    rpn_post_nms_top_n_train: int = setting(2000, Whole())
    rpn_post_nms_top_n_test: int = setting(1000, Whole())
    rpn_nms_thresh: float = setting(0.7, SHARE)
    rpn_fg_iou_thresh: float = setting(0.7, SHARE)
    rpn_bg_iou_thresh: float = setting(0.3, SHARE)
    rpn_batch_size_per_image: int = setting(256, Whole())
    rpn_positive_fraction: float = setting(0.5, SHARE)
    rpn_score_thresh: float = setting(0.0, SHARE)
    rpn_min_size: float = setting(1e-3, Number())
    rpn_ranking: str = setting("torchvision", Choice(("torchvision", "detectron2", "mmdetection")))
    rpn_reg_loss: str = setting("smooth_l1", Choice(REG_LOSSES))
    rpn_smooth_l1_beta: float = setting(1 / 9, Number())

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rpn_bg_iou_thresh > self.rpn_fg_iou_thresh:
            raise ValueError(
                f"rpn_bg_iou_thresh={self.rpn_bg_iou_thresh!r}: expected at most rpn_fg_iou_thresh="
                f"{self.rpn_fg_iou_thresh!r}"
            )


@dataclass(frozen=True)
class ProposalNetworkConfig(ProposingConfig):
    """A region proposal network alone: everything it finds is an object.

    Args:
        num_classes (int): 2, the background and an object.
    """

    num_classes: int = setting(2, Choice((2,)))
