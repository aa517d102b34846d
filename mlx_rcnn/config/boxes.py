"""Fields of a box head over RoIs: all that a Fast R-CNN has beside its maps."""

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


class BoxStage(NamedTuple):
    """How one box head is trained and read; a cascade has several.

    ``fg_iou`` and ``bg_iou``: an RoI is positive from the one and background below the other.
    ``reg_weights``: factors of its deltas. ``loss_weight``: of both its losses.
    """

    fg_iou: float
    bg_iou: float
    reg_weights: tuple[float, ...]
    loss_weight: float = 1.0


@dataclass(frozen=True)
class FastRCNNConfig(DetectorConfig):
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
        box_score_thresh: least score of a detection, exclusive: one number, or one a class without
            the background. Default: ``0.05``.
        box_nms_kind (str): ``"hard"``, or Soft-NMS (Bodla et al., 2017), which lowers the scores of
            overlapping boxes instead of dropping them: ``"linear"`` or ``"gaussian"``. Default:
            ``"hard"``.
        box_nms_sigma (float): of ``"gaussian"``. Default: ``0.5``.
        box_nms_agnostic (bool): detections of different classes suppress each other too. Default:
            ``False``.
        box_reg_loss (str): ``"smooth_l1"``, ``"l1"`` or ``"giou"``. Default: ``"smooth_l1"``.
        box_smooth_l1_beta (float): where the parabola of ``"smooth_l1"`` ends. Default: ``1 / 9``.
        clip_results (bool): clip the final boxes to the image given and leave out those without a
            width or height (detectron2). Default: ``False``.

    The other fields are torchvision's, described at ``torchvision.models.detection.FasterRCNN``;
    ``box_min_size`` is the smallest side it keeps.
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
    box_score_thresh: float | tuple[float, ...] = setting(0.05, Thresholds("num_classes"))
    box_nms_thresh: float = setting(0.5, SHARE)
    box_nms_kind: str = setting("hard", Choice(NMS_KINDS))
    box_nms_sigma: float = setting(0.5, Positive())
    box_nms_agnostic: bool = setting(False, SWITCH)
    box_detections_per_img: int = setting(100, Whole())
    box_fg_iou_thresh: float = setting(0.5, SHARE)
    box_bg_iou_thresh: float = setting(0.5, SHARE)
    box_batch_size_per_image: int = setting(512, Whole())
    box_positive_fraction: float = setting(0.25, SHARE)
    bbox_reg_weights: tuple[float, float, float, float] = setting(
        (10.0, 10.0, 5.0, 5.0), Sizes(Row(4))
    )
    box_reg_loss: str = setting("smooth_l1", Choice(REG_LOSSES))
    box_smooth_l1_beta: float = setting(1 / 9, Number())
    box_min_size: float = setting(1e-2, Number())
    clip_results: bool = setting(False, SWITCH)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout >= 1:
            raise ValueError(f"dropout={self.dropout!r}: expected a number in [0, 1)")

    @property
    def box_stages(self) -> tuple[BoxStage, ...]:
        """The box heads that RoIs go through, one after the other."""
        return (BoxStage(self.box_fg_iou_thresh, self.box_bg_iou_thresh, self.bbox_reg_weights),)
