"""What every detector is built from: its maps, and how images become network input.

The field names and defaults are torchvision's. Where detectron2 and mmdetection differ from it in a
way that changes numbers, the difference is a field too, with torchvision's behaviour as default.
"""

from __future__ import annotations

from dataclasses import dataclass

from .checks import SWITCH, Choice, Names, Row, Sizes, Whole, check_fields, setting
from .levels import LevelsRule

STRIDE_RULES = ("exact", "torchvision")


@dataclass(frozen=True)
class DetectorConfig:
    """Fields of every detector. Sizes are pixels of the network input.

    Args:
        backbone: an ``mlx.nn.Module`` that maps (N, H, W, 3) to one (N, h, w, C) map or, finest
            first, a list of such maps; or a config of one, such as
            :class:`~mlx_rcnn.ResNetFPNConfig`.
        feat_channels (int): C, the channels of every map the backbone returns.
        num_classes (int): classes with the background, which is class 0.
        use_fpn (bool): the backbone returns a list of maps. Default: ``False``.
        anchor_stride: pixels between anchors, one number or one a level, and the inverse of the
            scales RoIs are pooled at; ``None`` infers it by ``stride_rule``.
        stride_rule (str): ``"exact"``, the backbone's own strides, or ``"torchvision"``, as it
            infers them from the sizes of the padded input and its maps, for checkpoints trained
            with that. Default: ``"exact"``.
        roi_levels (int): how many of the finest maps RoIs are pooled from. Default: ``4``, and of a
            pyramid of this package at most the maps it is fed with.
        bbox_clamp_both (bool): clamp regressed log sizes from below too (mmdetection). Default:
            ``False``, from above only.
        min_size (int): the short side is resized to this (several: training draws one of them,
            prediction takes the last).
        max_size (int): ... unless the long side would exceed this.
        image_mean, image_std: of RGB in [0, 1]. Default: ImageNet's.
        channel_order (str): ``"rgb"`` or ``"bgr"``, what the network was trained on.
        resize_rule (str): ``"torch"``, ``"pillow"`` or ``"opencv"``: whose bilinear resize.
        size_divisible (int): batches are padded to a multiple of this. Default: ``32``.
        image_levels (str): which values are black and white in pictures of more than 8 bits, and in
            floats: ``"LOW:HIGH"``, percentiles of each picture as ``"1%:99%"``, or ``"auto"``.
            Default: ``None``, by the largest value (:func:`~mlx_rcnn.load_image`).
        class_names: one name a class, the background's first. Default: none.
    """

    backbone: object
    feat_channels: int = setting(rule=Whole())
    num_classes: int = setting(rule=Whole(2))
    use_fpn: bool = setting(False, SWITCH)
    anchor_stride: int | tuple[int, ...] | None = setting(None, Sizes(whole=True, none=True))
    stride_rule: str = setting("exact", Choice(STRIDE_RULES))
    roi_levels: int = setting(4, Whole())
    bbox_clamp_both: bool = setting(False, SWITCH)
    min_size: int | tuple[int, ...] = setting(800, Sizes(Row(), lone=True))
    max_size: int = setting(1333, Whole())
    image_mean: tuple[float, float, float] = setting((0.485, 0.456, 0.406), Row(3))
    image_std: tuple[float, float, float] = setting((0.229, 0.224, 0.225), Sizes(Row(3)))
    channel_order: str = setting("rgb", Choice(("rgb", "bgr")))
    resize_rule: str = setting("torch", Choice(("torch", "pillow", "opencv")))
    size_divisible: int = setting(32, Whole(high=1024))
    image_levels: str | None = setting(None, LevelsRule())
    class_names: tuple[str, ...] | None = setting(
        None, Names("num_classes", ", the background's name first")
    )

    def __post_init__(self) -> None:
        check_fields(self)
