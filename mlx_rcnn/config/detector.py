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
    NORMS,
    check_choice,
    check_integer,
    check_number,
    check_row,
    check_sizes,
    freeze_sequences,
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
    feat_channels: int
    num_classes: int
    use_fpn: bool = False
    anchor_sizes: tuple[Any, ...] | None = None
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_stride: int | tuple[int, ...] | None = None
    stride_rule: str = "exact"
    anchor_rounding: bool = True
    anchor_offset: float = 0.0
    pool_size: tuple[int, int] = (7, 7)
    roi_levels: int = 4
    roi_sampling_ratio: int = 2
    roi_aligned: bool = False
    rpn_conv_depth: int = 1
    box_head_convs: int = 0
    box_head_norm: str | None = None
    res5_head: bool = False
    hidden_dim: int = 4096
    dropout: float = 0.5
    class_agnostic_bbox: bool = False
    bbox_clamp_both: bool = False
    # transform
    min_size: int | tuple[int, ...] = 800
    max_size: int = 1333
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: str = "rgb"
    resize_rule: str = "torch"
    size_divisible: int = 32
    # region proposal network
    rpn_pre_nms_top_n_train: int = 2000
    rpn_pre_nms_top_n_test: int = 1000
    rpn_post_nms_top_n_train: int = 2000
    rpn_post_nms_top_n_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_fg_iou_thresh: float = 0.7
    rpn_bg_iou_thresh: float = 0.3
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_score_thresh: float = 0.0
    rpn_min_size: float = 1e-3
    rpn_ranking: str = "torchvision"
    # box head
    box_score_thresh: float = 0.05
    box_nms_thresh: float = 0.5
    box_detections_per_img: int = 100
    box_fg_iou_thresh: float = 0.5
    box_bg_iou_thresh: float = 0.5
    box_batch_size_per_image: int = 512
    box_positive_fraction: float = 0.25
    bbox_reg_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    box_min_size: float = 1e-2
    clip_results: bool = False
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        freeze_sequences(self)
        for name in _COUNTS:
            check_integer(self, name, 1)
        check_integer(self, "num_classes", 2)
        check_integer(self, "roi_sampling_ratio", -1)
        check_integer(self, "box_head_convs", 0)
        check_choice(self, "box_head_norm", (None, *NORMS))
        for name in _FRACTIONS:
            check_number(self, name, 0.0, 1.0)
        check_number(self, "dropout", 0.0)
        if self.dropout >= 1:
            raise ValueError(f"dropout={self.dropout!r}: expected a number in [0, 1)")
        for name in ("rpn_min_size", "box_min_size"):
            check_number(self, name, 0.0)
        for name in _SWITCHES:
            check_choice(self, name, (True, False))
        check_number(self, "anchor_offset", -float("inf"))
        if self.rpn_bg_iou_thresh > self.rpn_fg_iou_thresh:
            raise ValueError(
                f"rpn_bg_iou_thresh={self.rpn_bg_iou_thresh!r}: expected at most rpn_fg_iou_thresh="
                f"{self.rpn_fg_iou_thresh!r}"
            )
        check_sizes(self, "min_size")
        if isinstance(self.min_size, tuple):
            check_row(self, "min_size")
        check_sizes(self, "aspect_ratios")
        check_row(self, "aspect_ratios")
        if self.anchor_sizes is not None:
            check_sizes(self, "anchor_sizes")
            check_row(self, "anchor_sizes", nested=True)
        if self.anchor_stride is not None:
            check_sizes(self, "anchor_stride", whole=True)
        check_row(self, "pool_size", 2)
        check_sizes(self, "pool_size", whole=True)
        check_row(self, "image_mean", 3)
        for name, n in (("image_std", 3), ("bbox_reg_weights", 4)):
            check_row(self, name, n)
            check_sizes(self, name)
        check_choice(self, "channel_order", ("rgb", "bgr"))
        check_choice(self, "stride_rule", STRIDE_RULES)
        check_choice(self, "resize_rule", ("torch", "pillow", "opencv"))
        check_choice(self, "rpn_ranking", ("torchvision", "detectron2", "mmdetection"))
        self._check_names()

    def _check_names(self) -> None:
        if self.class_names is None:
            return
        if not isinstance(self.class_names, tuple) or not all(
            isinstance(name, str) for name in self.class_names
        ):
            raise TypeError(f"class_names={self.class_names!r}: expected a sequence of strings")
        if len(self.class_names) != self.num_classes:
            raise ValueError(
                f"class_names has {len(self.class_names)} entries: expected num_classes="
                f"{self.num_classes}, the background's name first"
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

    mask_pool_size: tuple[int, int] = (14, 14)
    mask_hidden_channels: int = 256
    mask_out_size: int = 28
    mask_num_convs: int = 4
    mask_paste_rule: str = "torchvision"
    mask_head_norm: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "mask_head_norm", (None, *NORMS))
        check_row(self, "mask_pool_size", 2)
        check_sizes(self, "mask_pool_size", whole=True)
        for name in ("mask_hidden_channels", "mask_out_size"):
            check_integer(self, name, 1)
        check_integer(self, "mask_num_convs", 0)
        check_choice(self, "mask_paste_rule", ("torchvision", "detectron2"))
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

    min_size: int | tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    num_keypoints: int = 17
    keypoint_pool_size: tuple[int, int] = (14, 14)
    keypoint_layers: tuple[int, ...] = (512,) * 8
    keypoint_score: str = "logit"
    keypoint_offset: float = 0.0
    keypoint_names: tuple[str, ...] | None = None
    keypoint_skeleton: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(self, "num_keypoints", 1)
        check_choice(self, "keypoint_score", ("logit", "probability"))
        check_number(self, "keypoint_offset", -1.0, 1.0)
        check_row(self, "keypoint_pool_size", 2)
        check_row(self, "keypoint_layers")
        for name in ("keypoint_pool_size", "keypoint_layers"):
            check_sizes(self, name, whole=True)
        height, width = self.keypoint_pool_size
        if height != width:
            raise ValueError(f"keypoint_pool_size={self.keypoint_pool_size!r}: expected a square")
        names, count = self.keypoint_names, self.num_keypoints
        if names is not None and (
            not isinstance(names, tuple) or not all(isinstance(name, str) for name in names)
        ):
            raise TypeError(f"keypoint_names={names!r}: expected a sequence of strings")
        if names is not None and len(names) != count:
            raise ValueError(
                f"keypoint_names has {len(names)} entries: expected num_keypoints={count}"
            )
        for edge in self.keypoint_skeleton or ():
            if not isinstance(edge, tuple) or len(edge) != 2 or set(edge) - set(range(count)):
                raise ValueError(
                    f"keypoint_skeleton holds {edge!r}: expected pairs of 0..{count - 1}"
                )


_COUNTS = (
    "feat_channels", "roi_levels", "rpn_conv_depth", "hidden_dim", "max_size", "size_divisible",
    "rpn_pre_nms_top_n_train", "rpn_pre_nms_top_n_test", "rpn_post_nms_top_n_train",
    "rpn_post_nms_top_n_test", "rpn_batch_size_per_image", "box_detections_per_img",
    "box_batch_size_per_image",
)  # fmt: skip
_SWITCHES = (
    "use_fpn", "anchor_rounding", "roi_aligned", "class_agnostic_bbox", "bbox_clamp_both",
    "clip_results", "res5_head",
)  # fmt: skip
_FRACTIONS = (
    "rpn_nms_thresh", "rpn_fg_iou_thresh", "rpn_bg_iou_thresh", "rpn_positive_fraction",
    "rpn_score_thresh", "box_score_thresh", "box_nms_thresh", "box_fg_iou_thresh",
    "box_bg_iou_thresh", "box_positive_fraction",
)  # fmt: skip


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
