"""mmdetection's R-CNNs (2.x and 3.x): their keys, and which model a state dict belongs to.

Numerics: OpenCV's resize, anchors that are not rounded, log sizes clamped on both sides, RoIAlign
aligned with adaptive sampling, background last. Styles: "pytorch" is RGB with ImageNet's means and
the stride in the 3x3; "caffe" is BGR in 0..255 less MSRA's means and the stride in the first 1x1.
"""

from __future__ import annotations

import re
from typing import Any

from ..rename import Rule
from .architecture import NO_HINTS, Hints, Recognised
from .mmdetection_config import MmdetConfig, read_mmdet_config
from .shapes import (
    ALIGNED,
    IMAGENET_STD,
    MSRA_MEAN,
    PYRAMID_STRIDES,
    UNIT_STD,
    State,
    architecture,
    check_anchors,
    check_needed,
    input_fields,
    mask_fields,
    other_network,
    pool_size,
    resnet_depth,
    resnet_widths,
)

DETECTOR = {
    **ALIGNED,
    "resize_rule": "opencv",
    "rpn_ranking": "mmdetection",
    "bbox_clamp_both": True,
}

RULES = (
    Rule(r".*\.num_batches_tracked", None),
    # the body has torchvision's names
    Rule(r"backbone\.(.*)", r"backbone.net.\1", "conv"),
    Rule(
        r"neck\.lateral_convs\.(\d)\.conv\.(weight|bias)",
        r"backbone.fpn.inner_blocks.\1.0.\2",
        "conv",
    ),
    Rule(
        r"neck\.fpn_convs\.(\d)\.conv\.(weight|bias)", r"backbone.fpn.layer_blocks.\1.0.\2", "conv"
    ),
    Rule(r"rpn_head\.rpn_conv\.(weight|bias)", r"rpn.head.conv.0.0.\1", "conv"),
    Rule(r"rpn_head\.rpn_cls\.(weight|bias)", r"rpn.head.cls_logits.\1", "conv"),
    Rule(r"rpn_head\.rpn_reg\.(weight|bias)", r"rpn.head.bbox_pred.\1", "conv"),
    # flattened (C, h, w) there, (h, w, C) here
    Rule(r"roi_head\.bbox_head\.shared_fcs\.0\.weight", "roi_heads.box_head.fc6.weight", "flat"),
    Rule(r"roi_head\.bbox_head\.shared_fcs\.0\.bias", "roi_heads.box_head.fc6.bias"),
    Rule(r"roi_head\.bbox_head\.shared_fcs\.1\.(weight|bias)", r"roi_heads.box_head.fc7.\1"),
    Rule(
        r"roi_head\.bbox_head\.fc_cls\.(weight|bias)",
        r"roi_heads.box_predictor.cls_score.\1",
        "cls_background_last",
    ),
    Rule(
        r"roi_head\.bbox_head\.fc_reg\.(weight|bias)",
        r"roi_heads.box_predictor.bbox_pred.\1",
        "reg_background_last",
    ),
    Rule(
        r"roi_head\.mask_head\.convs\.(\d+)\.conv\.(weight|bias)",
        r"roi_heads.mask_head.convs.\1.\2",
        "conv",
    ),
    Rule(
        r"roi_head\.mask_head\.upsample\.(weight|bias)",
        r"roi_heads.mask_predictor.conv5_mask.\1",
        "deconv",
    ),
    Rule(
        r"roi_head\.mask_head\.conv_logits\.(weight|bias)",
        r"roi_heads.mask_predictor.mask_fcn_logits.\1",
        "mask_without_background",
    ),
)

_KIND = "Faster or Mask R-CNN (ResNet and FPN) of mmdetection 2 or 3"
_NEEDED = {
    "backbone.conv1.weight": 4,
    "neck.fpn_convs.0.conv.weight": 4,
    "rpn_head.rpn_cls.weight": 4,
    "roi_head.bbox_head.shared_fcs.0.weight": 2,
    "roi_head.bbox_head.shared_fcs.1.weight": 2,
    "roi_head.bbox_head.fc_cls.weight": 2,
    "roi_head.bbox_head.fc_reg.weight": 2,
}
_NEEDED_FOR_MASKS = {
    "roi_head.mask_head.upsample.weight": 4,
    "roi_head.mask_head.conv_logits.weight": 4,
}
STYLES = ("pytorch", "caffe")


def looks_like(state: State) -> bool:
    """Whether the keys are those of mmdetection's models."""
    starts = ("roi_head.", "rpn_head.rpn_", "neck.lateral_convs.", "bbox_head.")
    return any(key.startswith(starts) for key in state)


def recognise(state: State, hints: Hints = NO_HINTS) -> Recognised:
    """Tell from keys and shapes which of mmdetection's R-CNNs a state dict belongs to.

    Keys do not tell the style: it is read from the config in the file, else from "caffe" in its
    name, else taken for "pytorch".

    Args:
        state: arrays by mmdetection's keys.
        hints: what the file says beside its tensors. Default: nothing.

    Returns:
        What to build.

    Raises:
        ValueError: it is none that can be built; the message says what it looks like.
    """
    if other := _something_else(state):
        raise ValueError(f"this is {other}; expected a {_KIND}")
    mask = any(key.startswith("roi_head.mask_head.") for key in state)
    check_needed(state, {**_NEEDED, **(_NEEDED_FOR_MASKS if mask else {})}, _KIND)
    depth = resnet_depth(state, [f"backbone.layer{i}." for i in range(1, 5)])
    widths = resnet_widths(state, "backbone.conv1.weight", "backbone.layer1.", depth)
    channels = int(state["neck.fpn_convs.0.conv.weight"].shape[0])
    first = "roi_head.bbox_head.shared_fcs.0.weight"
    hints = hints._replace(mmdet=hints.mmdet or read_mmdet_config(hints.config))
    config = hints.mmdet or MmdetConfig({})
    pool = pool_size(state, first, channels, hints.field(config.fields, "pool_size"))
    classes = int(state["roi_head.bbox_head.fc_cls.weight"].shape[0])
    check_anchors(state, "rpn_head.rpn_cls.weight", hints, config.fields)
    stride_in_1x1, normalisation, why = _style(hints, (widths["groups"], widths["width_per_group"]))
    detector: dict[str, Any] = {
        **DETECTOR,
        **normalisation,
        "feat_channels": channels,
        "num_classes": classes,
        "use_fpn": True,
        "anchor_stride": PYRAMID_STRIDES,
        **config.fields,
        "hidden_dim": int(state["roi_head.bbox_head.shared_fcs.0.weight"].shape[0]),
        "pool_size": pool,
        "class_agnostic_bbox": state["roi_head.bbox_head.fc_reg.weight"].shape[0] == 4,
    }
    if mask:
        detector |= _mask_fields(state, classes, config)
    backbone: dict[str, Any] = {"type": "resnet_fpn", "depth": depth, "num_classes": 0, **widths}
    # Trained with norm_eval: batch norm whose statistics stay fixed.
    backbone |= {"out_channels": channels, "norm": "frozen", "norm_eps": 1e-5}
    backbone["stride_in_1x1"] = stride_in_1x1
    model = "Mask R-CNN" if mask else "Faster R-CNN"
    note = (
        f"mmdetection {model}, {architecture(depth, widths)} and FPN, {classes - 1} classes "
        f"({why}; {_told(hints)})"
    )
    kind = "mask_rcnn" if mask else "faster_rcnn"
    return Recognised("mmdetection", kind, backbone, detector, RULES, note)


def _told(hints: Hints) -> str:
    """Where anchors, strides, sizes and thresholds come from, and what of them is not to be had."""
    if hints.mmdet is None:
        unread = "the config in the file is no Python" if hints.config.strip() else "no config"
        return f"anchors, strides, sizes and thresholds assumed, mmdetection's own: {unread}"
    count = len(hints.mmdet.fields)
    text = f"{count} settings by the config in the file, the others mmdetection's own"
    if hints.mmdet.differs:
        text += f"; not read: {', '.join(hints.mmdet.differs)}"
    return text


def _mask_fields(state: State, classes: int, config: MmdetConfig) -> dict[str, Any]:
    head = "roi_head.mask_head."
    keys = (f"{head}upsample.weight", f"{head}conv_logits.weight")
    fields = mask_fields(state, classes, rf"{re.escape(head)}convs\.(\d+)\.", *keys)
    side = config.mask_pool_size
    pool = {} if side is None else {"mask_pool_size": (side, side), "mask_out_size": 2 * side}
    return {**fields, **pool, "mask_num_convs": max(fields["mask_num_convs"], 1)}


def _style(hints: Hints, groups: tuple[int, int]) -> tuple[bool, dict[str, Any], str]:
    """Whether the stride is in the 1x1, the fields of the input, and why."""
    style, why = hints.style, "as given"
    if style is not None and style not in STYLES:
        raise ValueError(f"style={style!r}: expected one of {STYLES}")
    if style is None and hints.mmdet is not None and hints.mmdet.style is not None:
        style, why = hints.mmdet.style, "by the config in the file"
    if style is None and "caffe" in hints.name.lower():
        style, why = "caffe", "by the file's name"
    if style is None:
        style, why = "pytorch", "keys do not tell: give style='caffe' if it was trained so"
    mean: tuple[float, ...] = MSRA_MEAN
    std: tuple[float, ...] = IMAGENET_STD if style == "pytorch" else UNIT_STD
    order = "rgb"
    if style == "caffe" or groups == (32, 8):  # Caffe2's ResNeXt-101-32x8d, pytorch style but BGR
        order = "bgr"
    if hints.style is None and hints.mmdet is not None and hints.mmdet.image is not None:
        mean, std, order = hints.mmdet.image
    why = f"{style} style, {why}; {order.upper()}"
    return style == "caffe", input_fields(order, mean, std), why


_BOX_CONVS = r"roi_head\.bbox_head\.(?:shared_convs|cls_convs|reg_convs|conv_branch)\..*"
_FPN_NORMS = r"neck\.(?:lateral_convs|fpn_convs)\.\d+\.(?:bn|gn)\..*"
_OTHER_BLOCKS = r"backbone\..*\.(?:gn\d|context_block|gen_attention_block)\..*"
_SIGNS = {
    r"bbox_head\.(?:fc_cls|shared_fcs)\..*": "an R-CNN of mmdetection 1, whose background is first",
    r"bbox_head\.retina_(?:cls|reg)\..*": "mmdetection's RetinaNet",
    r"bbox_head\..*": "a one-stage detector of mmdetection",
    r"panoptic_\w*head\..*|semantic_head\..*": "mmdetection's panoptic or semantic segmentation",
    r"roi_head\.(?:bbox|mask)_head\.\d+\..*": "mmdetection's Cascade R-CNN",
    r"roi_head\.semantic_head\..*": "mmdetection's Hybrid Task Cascade",
    r"roi_head\.mask_iou_head\..*": "mmdetection's Mask Scoring R-CNN",
    r"roi_head\.grid_head\..*": "mmdetection's Grid R-CNN",
    r"roi_head\.point_head\..*": "mmdetection's PointRend",
    r"roi_head\.shared_head\..*": "mmdetection's R-CNN on a C4 backbone",
    _BOX_CONVS: "an mmdetection R-CNN with a convolutional box head",
    r"rpn_head\.(?:stages|conv_loc|conv_shape)\..*": "mmdetection's Cascade or Guided RPN",
    r"rpn_head\.rpn_conv\.\d+\..*": "an mmdetection R-CNN with a deep RPN head",
    _FPN_NORMS: "an mmdetection R-CNN with norms in its FPN",
    r"backbone\..*\.conv_offset\..*": "an mmdetection R-CNN with deformable convolutions",
    _OTHER_BLOCKS: "an mmdetection R-CNN with other blocks than ResNet's",
}


def _something_else(state: State) -> str | None:
    """Networks people confuse with ours, by keys only they have."""
    return other_network(state, _SIGNS, "mmdetection", "rpn_head.", "roi_head.")
