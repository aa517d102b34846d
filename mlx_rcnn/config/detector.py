"""Configuration: frozen dataclasses, every default written once.

The field names and defaults are torchvision's. Where detectron2 and mmdetection differ from it in a
way that changes numbers, the difference is a field too, with torchvision's behaviour as default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from ..messages import nearest
from .checks import (
    NORM_OR_NONE,
    SHARE,
    SWITCH,
    Choice,
    Names,
    Number,
    Row,
    Sizes,
    Whole,
    check_fields,
    setting,
)

T = TypeVar("T", bound="FasterRCNNConfig")
STRIDE_RULES = ("exact", "torchvision")


@dataclass(frozen=True)
class FasterRCNNConfig:
    """Everything a Faster R-CNN is built from. Sizes are pixels of the network input.

    Args:
        backbone: an ``mlx.nn.Module`` that maps (N, H, W, 3) to one (N, h, w, C) map or, finest
            first, a list of such maps; or a config of one, such as
            :class:`~mlx_rcnn.ResNetFPNConfig`.
        feat_channels (int): C, the channels of every map the backbone returns.
        num_classes (int): classes with the background, which is class 0.
        use_fpn (bool): the backbone returns a list of maps. Default: ``False``.
        anchor_sizes: square roots of the anchors' areas. A flat tuple puts all its sizes on every
            level, a tuple of tuples has one entry a level. ``None`` means (128, 256, 512) on one
            map and one size a level, 32, 64, 128, 256, 512, on a pyramid.
        aspect_ratios (tuple of float): height / width. Default: ``(0.5, 1.0, 2.0)``.
        anchor_stride: pixels between anchors, one number or one a level, and the inverse of the
            scales RoIs are pooled at; ``None`` infers it by ``stride_rule``.
        stride_rule (str): ``"exact"``, the backbone's own strides, or ``"torchvision"``, as it
            infers them from the sizes of the padded input and its maps, for checkpoints trained
            with that. Default: ``"exact"``.
        anchor_rounding (bool): round the cell anchors to whole pixels (torchvision).
        anchor_offset (float): shift of the anchor grid, in strides. Default: ``0``.
        pool_size ((int, int)): RoIAlign's output for the box head. Default: ``(7, 7)``.
        roi_levels (int): how many of the finest maps RoIs are pooled from. Default: ``4``, and of a
            pyramid of this package at most the maps it is fed with.
        roi_sampling_ratio (int): RoIAlign samples a bin and axis; 0 is adaptive. Default: ``2``.
        roi_aligned (bool): RoIAlign's half-pixel correction (detectron2). Default: ``False``.
        rpn_conv_depth (int): 3x3 convolutions of the RPN head. Default: ``1``.
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
        bbox_clamp_both (bool): clamp regressed log sizes from below too (mmdetection). Default:
            ``False``, from above only.
        rpn_ranking (str): what proposals are ranked by within a level and, after suppression, over
            all of them: ``"torchvision"`` the logit and its sigmoid, ``"detectron2"`` the logit,
            ``"mmdetection"`` the sigmoid. They part where float32 sigmoids of unequal logits tie.
        clip_results (bool): clip the final boxes to the image given and leave out those without a
            width or height (detectron2). Default: ``False``.
        min_size (int): the short side is resized to this (several: training draws one of them,
            prediction takes the last).
        max_size (int): ... unless the long side would exceed this.
        image_mean, image_std: of RGB in [0, 1]. Default: ImageNet's.
        channel_order (str): ``"rgb"`` or ``"bgr"``, what the network was trained on.
        resize_rule (str): ``"torch"``, ``"pillow"`` or ``"opencv"``: whose bilinear resize.
        size_divisible (int): batches are padded to a multiple of this. Default: ``32``.
        class_names: one name a class, the background's first. Default: none.

    The other fields are torchvision's, described at ``torchvision.models.detection.FasterRCNN``;
    ``rpn_min_size`` and ``box_min_size`` are the smallest sides it keeps at the two stages. A
    proposal always needs a width and a height, whatever ``rpn_min_size``; a detection does not.
    """

    backbone: Any
    feat_channels: int = setting(rule=Whole())
    num_classes: int = setting(rule=Whole(2))
    use_fpn: bool = setting(False, SWITCH)
    anchor_sizes: tuple[Any, ...] | None = setting(None, Sizes(Row(nested=True), none=True))
    aspect_ratios: tuple[float, ...] = setting((0.5, 1.0, 2.0), Sizes(Row()))
    anchor_stride: int | tuple[int, ...] | None = setting(None, Sizes(whole=True, none=True))
    stride_rule: str = setting("exact", Choice(STRIDE_RULES))
    anchor_rounding: bool = setting(True, SWITCH)
    anchor_offset: float = setting(0.0, Number(-float("inf")))
    pool_size: tuple[int, int] = setting((7, 7), Sizes(Row(2), whole=True))
    roi_levels: int = setting(4, Whole())
    roi_sampling_ratio: int = setting(2, Whole(-1))
    roi_aligned: bool = setting(False, SWITCH)
    rpn_conv_depth: int = setting(1, Whole())
    box_head_convs: int = setting(0, Whole(0))
    box_head_norm: str | None = setting(None, NORM_OR_NONE)
    res5_head: bool = setting(False, SWITCH)
    hidden_dim: int = setting(4096, Whole())
    dropout: float = setting(0.5, Number())
    class_agnostic_bbox: bool = setting(False, SWITCH)
    bbox_clamp_both: bool = setting(False, SWITCH)
    # transform
    min_size: int | tuple[int, ...] = setting(800, Sizes(Row(), lone=True))
    max_size: int = setting(1333, Whole())
    image_mean: tuple[float, float, float] = setting((0.485, 0.456, 0.406), Row(3))
    image_std: tuple[float, float, float] = setting((0.229, 0.224, 0.225), Sizes(Row(3)))
    channel_order: str = setting("rgb", Choice(("rgb", "bgr")))
    resize_rule: str = setting("torch", Choice(("torch", "pillow", "opencv")))
    size_divisible: int = setting(32, Whole(high=1024))
    # region proposal network
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
    # box head
    box_score_thresh: float = setting(0.05, SHARE)
    box_nms_thresh: float = setting(0.5, SHARE)
    box_detections_per_img: int = setting(100, Whole())
    box_fg_iou_thresh: float = setting(0.5, SHARE)
    box_bg_iou_thresh: float = setting(0.5, SHARE)
    box_batch_size_per_image: int = setting(512, Whole())
    box_positive_fraction: float = setting(0.25, SHARE)
    bbox_reg_weights: tuple[float, float, float, float] = setting(
        (10.0, 10.0, 5.0, 5.0), Sizes(Row(4))
    )
    box_min_size: float = setting(1e-2, Number())
    clip_results: bool = setting(False, SWITCH)
    class_names: tuple[str, ...] | None = setting(
        None, Names("num_classes", ", the background's name first")
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dropout >= 1:
            raise ValueError(f"dropout={self.dropout!r}: expected a number in [0, 1)")
        if self.rpn_bg_iou_thresh > self.rpn_fg_iou_thresh:
            raise ValueError(
                f"rpn_bg_iou_thresh={self.rpn_bg_iou_thresh!r}: expected at most rpn_fg_iou_thresh="
                f"{self.rpn_fg_iou_thresh!r}"
            )


@dataclass(frozen=True)
class MaskRCNNConfig(FasterRCNNConfig):
    """A Faster R-CNN with a mask branch.

    Args:
        mask_pool_size ((int, int)): RoIAlign's output for the mask head, square.
        mask_hidden_channels (int): channels of the mask head. Default: ``256``.
        mask_out_size (int): side of a predicted mask, twice the pool size; the pool size itself
            with ``res5_head``. Default: ``28``.
        mask_num_convs (int): 3x3 convolutions of the mask head, perhaps none. Default: ``4``.
        mask_paste_rule (str): ``"torchvision"`` or ``"detectron2"`` (and mmdetection): where a
            pixel looks a mask up, see :func:`~mlx_rcnn.ops.paste_masks`.
        mask_head_norm (str): as ``box_head_norm``. Default: ``None``.
    """

    mask_pool_size: tuple[int, int] = setting((14, 14), Sizes(Row(2), whole=True))
    mask_hidden_channels: int = setting(256, Whole())
    mask_out_size: int = setting(28, Whole())
    mask_num_convs: int = setting(4, Whole(0))
    mask_paste_rule: str = setting("torchvision", Choice(("torchvision", "detectron2")))
    mask_head_norm: str | None = setting(None, NORM_OR_NONE)

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = self.mask_pool_size
        if height != width:
            raise ValueError(f"mask_pool_size={self.mask_pool_size!r}: expected a square")
        # The fourth stage of a ResNet halves the RoI features before the mask head doubles them.
        out = height if self.res5_head else 2 * height
        if self.mask_out_size != out:
            what = "mask_pool_size" if self.res5_head else "twice mask_pool_size"
            raise ValueError(f"mask_out_size={self.mask_out_size!r}: expected {what}, {out}")


@dataclass(frozen=True)
class KeypointRCNNConfig(FasterRCNNConfig):
    """A Faster R-CNN with a keypoint branch.

    Args:
        min_size: as in :class:`FasterRCNNConfig`; torchvision draws one of 640 to 800 in training.
        num_keypoints (int): K, of every object. Default: ``17``, COCO's of a person.
        keypoint_pool_size ((int, int)): RoIAlign's output for the keypoint head, square.
        keypoint_layers (tuple of int): channels of its 3x3 convolutions.
        keypoint_score (str): ``"logit"``, the greatest of the resized heatmap (torchvision), or
            ``"probability"``, its softmax normalised over the heatmap as it was (detectron2).
        keypoint_offset (float): pixels that the model puts points right of and below where COCO's
            files have them: ``0.5`` in detectron2, whose evaluator takes it off again. So do
            ``evaluate`` and COCO results, and ``train`` adds it. Default: ``0``.
        keypoint_names: one name a keypoint. Default: none.
        keypoint_skeleton: pairs of keypoints, counted from 0, to join when drawn. Default: none.
    """

    min_size: int | tuple[int, ...] = setting(
        (640, 672, 704, 736, 768, 800), Sizes(Row(), lone=True)
    )
    num_keypoints: int = setting(17, Whole())
    keypoint_pool_size: tuple[int, int] = setting((14, 14), Sizes(Row(2), whole=True))
    keypoint_layers: tuple[int, ...] = setting((512,) * 8, Sizes(Row(), whole=True))
    keypoint_score: str = setting("logit", Choice(("logit", "probability")))
    keypoint_offset: float = setting(0.0, Number(-1.0, 1.0))
    keypoint_names: tuple[str, ...] | None = setting(None, Names("num_keypoints"))
    keypoint_skeleton: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width = self.keypoint_pool_size
        if height != width:
            raise ValueError(f"keypoint_pool_size={self.keypoint_pool_size!r}: expected a square")
        for edge in self.keypoint_skeleton or ():
            if (
                not isinstance(edge, tuple)
                or len(edge) != 2
                or set(edge) - set(range(self.num_keypoints))
            ):
                raise ValueError(
                    f"keypoint_skeleton holds {edge!r}: expected pairs of 0.."
                    f"{self.num_keypoints - 1}"
                )


def make_config(
    cls: type[T], backbone: Any, feat_channels: Any, num_classes: Any, options: Mapping[str, Any]
) -> T:
    """Turn a model's constructor arguments, keywords or a config object, into a config of ``cls``.

    Args:
        cls: the config class of the model.
        backbone: a backbone, or an instance of ``cls`` (then ``options`` replace its fields).
        feat_channels (int): as in the config; ``None`` if ``backbone`` is a config.
        num_classes (int): as in the config; ``None`` if ``backbone`` is a config.
        options: further fields.

    Returns:
        A checked instance of ``cls``.

    Raises:
        TypeError: an unknown field (the nearest name is given) or a missing argument.
        ValueError: a value against its field's rule.
    """
    given = {"feat_channels": feat_channels, "num_classes": num_classes}
    options = {**{k: v for k, v in given.items() if v is not None}, **options}
    known = [f.name for f in fields(cls)]
    for name in options:
        if name not in known:
            raise TypeError(f"{cls.__name__} has no field {name!r}{nearest(name, known)}")
    if isinstance(backbone, cls):
        return replace(backbone, **options)
    if isinstance(backbone, FasterRCNNConfig):
        raise TypeError(f"got a {type(backbone).__name__}, expected a {cls.__name__}")
    # The level a pyramid subsamples from its last is for proposals alone, as in torchvision.
    returned = getattr(getattr(backbone, "config", backbone), "returned_layers", None)
    if "roi_levels" in known and isinstance(returned, tuple):
        options.setdefault("roi_levels", min(len(returned), 4))
    missing = [name for name in given if name not in options]
    if missing:
        raise TypeError(f"{cls.__name__}: missing {' and '.join(missing)}")
    return cls(backbone=backbone, **options)


def to_json(config: FasterRCNNConfig) -> dict[str, Any]:
    """The config as JSON-ready values, the backbone (a module or config) left out."""
    return asdict(replace(config, backbone=None))
