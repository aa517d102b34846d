"""mmdetection's R-CNNs (2.x and 3.x): their keys, and which model a state dict belongs to.

Numerics: OpenCV's resize, anchors that are not rounded, log sizes clamped on both sides, RoIAlign
aligned with adaptive sampling, background last. Styles: "pytorch" is RGB with ImageNet's means and
the stride in the 3x3; "caffe" is BGR in 0..255 less MSRA's means and the stride in the first 1x1.
"""

from __future__ import annotations

import re

from ..rename import Rule
from .architecture import NO_HINTS, Hints, Recognised
from .kinds import Kind, box_stages, fields_of, kind_of
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

# A cascade has heads a stage, whose number stands behind `bbox_head.` and `mask_head.`.
_STAGE = r"((?:\d\.)?)"
_BOX, _MASK = rf"roi_head\.bbox_head\.{_STAGE}", rf"roi_head\.mask_head\.{_STAGE}"

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
    Rule(rf"{_BOX}shared_fcs\.0\.weight", r"roi_heads.box_head.\1fc6.weight", "flat"),
    Rule(rf"{_BOX}shared_fcs\.0\.bias", r"roi_heads.box_head.\1fc6.bias"),
    Rule(rf"{_BOX}shared_fcs\.1\.(weight|bias)", r"roi_heads.box_head.\1fc7.\2"),
    Rule(
        rf"{_BOX}fc_cls\.(weight|bias)",
        r"roi_heads.box_predictor.\1cls_score.\2",
        "cls_background_last",
    ),
    Rule(
        rf"{_BOX}fc_reg\.(weight|bias)",
        r"roi_heads.box_predictor.\1bbox_pred.\2",
        "reg_background_last",
    ),
    Rule(
        rf"{_MASK}convs\.(\d+)\.conv\.(weight|bias)",
        r"roi_heads.mask_head.\1convs.\2.\3",
        "conv",
    ),
    Rule(
        rf"{_MASK}upsample\.(weight|bias)",
        r"roi_heads.mask_predictor.\1conv5_mask.\2",
        "deconv",
    ),
    Rule(
        rf"{_MASK}conv_logits\.(weight|bias)",
        r"roi_heads.mask_predictor.\1mask_fcn_logits.\2",
        "mask_without_background",
    ),
)

_KIND = "Fast, Faster, Mask or Cascade R-CNN or RPN (ResNet and FPN) of mmdetection 2 or 3"
_RPN_HEAD, _BOX_HEAD, _MASK_HEAD = "rpn_head.", "roi_head.bbox_head.", "roi_head.mask_head."
_RPN = f"{_RPN_HEAD}rpn_cls.weight"
_BOX_LAYERS = ("shared_fcs.0", "shared_fcs.1", "fc_cls", "fc_reg")
# What a cascade of mmdetection does besides.
CASCADE = {
    "cascade_scores": "logit",
    "cascade_loss_weights": (1.0, 0.5, 0.25),
    # deviations of 0.033 and 0.067 in the last stage, a third and two thirds rounded
    "cascade_reg_weights": (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        tuple(round(1 / v, 10) for v in (0.033, 0.033, 0.067, 0.067)),
    ),
    "box_reg_loss": "smooth_l1",
    "box_smooth_l1_beta": 1.0,
    "rpn_reg_loss": "smooth_l1",
    "rpn_post_nms_top_n_train": 2000,
}
STYLES = ("pytorch", "caffe")


def looks_like(state: State) -> bool:
    """Whether the keys are those of mmdetection's models."""
    starts = ("roi_head.", "rpn_head.rpn_", "neck.lateral_convs.", "bbox_head.")
    return any(key.startswith(starts) for key in state)


def recognise(state: State, hints: Hints = NO_HINTS) -> Recognised:
    """Tell from keys and shapes which of mmdetection's R-CNNs a state dict is, or ValueError."""
    if other := _something_else(state):
        raise ValueError(f"this is {other}; expected a {_KIND}")
    hints = hints._replace(mmdet=hints.mmdet or read_mmdet_config(hints.config))
    config = hints.mmdet or MmdetConfig({})
    kind = _kind_of(state, hints, config)
    check_needed(state, _needed(kind), _KIND)
    depth = resnet_depth(state, [f"backbone.layer{i}." for i in range(1, 5)])
    widths = resnet_widths(state, "backbone.conv1.weight", "backbone.layer1.", depth)
    channels = int(state["neck.fpn_convs.0.conv.weight"].shape[0])
    if kind.proposes:
        check_anchors(state, _RPN, hints, config.fields)
    # Keys do not tell the style: it is read from the config in the file, else from "caffe" in its
    # name, else taken for "pytorch".
    stride_in_1x1, normalisation, why = _style(hints, (widths["groups"], widths["width_per_group"]))
    detector: dict[str, object] = {
        **DETECTOR,
        **normalisation,
        "feat_channels": channels,
        "use_fpn": True,
        "anchor_stride": PYRAMID_STRIDES,
        **(CASCADE if kind.stages else {}),
        **config.fields,
    }
    detector |= _heads(state, kind, hints, config, channels) if kind.detects else {}
    backbone: dict[str, object] = {"type": "resnet_fpn", "depth": depth, "num_classes": 0, **widths}
    # Trained with norm_eval: batch norm whose statistics stay fixed.
    backbone |= {"out_channels": channels, "norm": "frozen", "norm_eps": 1e-5}
    backbone["stride_in_1x1"] = stride_in_1x1
    note = (
        f"mmdetection {kind.name}, {architecture(depth, widths)} and FPN, {kind.objects(detector)} "
        f"({why}; {_told(hints)})"
    )
    detector = fields_of(kind.model, detector)
    return Recognised("mmdetection", kind.model, backbone, detector, RULES, note)


def _kind_of(state: State, hints: Hints, config: MmdetConfig) -> Kind:
    """Which of the models it is, by the parts there are."""
    return kind_of(
        "mmdetection",
        proposes=any(key.startswith(_RPN_HEAD) for key in state),
        detects=any(key.startswith("roi_head.") for key in state),
        masks=any(key.startswith(_MASK_HEAD) for key in state),
        keypoints=False,
        stages=box_stages(state, _BOX_HEAD, hints, config.fields),
    )


def _needed(kind: Kind) -> dict[str, int]:
    """The keys that what was recognised must have, and their numbers of axes."""
    needed = {"backbone.conv1.weight": 4, "neck.fpn_convs.0.conv.weight": 4}
    if kind.proposes:
        needed[_RPN] = 4
    for stage in kind.prefixes if kind.detects else ():
        needed |= {f"{_BOX_HEAD}{stage}{layer}.weight": 2 for layer in _BOX_LAYERS}
        if kind.masks:
            layers = ("upsample", "conv_logits")
            needed |= {f"{_MASK_HEAD}{stage}{layer}.weight": 4 for layer in layers}
    return needed


def _heads(
    state: State, kind: Kind, hints: Hints, config: MmdetConfig, channels: int
) -> dict[str, object]:
    """Fields of the box heads and of the masks."""
    box = f"{_BOX_HEAD}{kind.prefixes[0]}"
    first, classes = f"{box}shared_fcs.0.weight", int(state[f"{box}fc_cls.weight"].shape[0])
    fields: dict[str, object] = {
        "num_classes": classes,
        "hidden_dim": int(state[first].shape[0]),
        "pool_size": pool_size(state, first, channels, hints.field(config.fields, "pool_size")),
        "class_agnostic_bbox": state[f"{box}fc_reg.weight"].shape[0] == 4,
    }
    if kind.masks:
        masks = _mask_fields(state, classes, config, f"{_MASK_HEAD}{kind.prefixes[0]}")
        fields |= {**masks, "cascade_mask_heads": kind.stages is not None}
    return fields


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


def _mask_fields(state: State, classes: int, config: MmdetConfig, head: str) -> dict[str, object]:
    keys = (f"{head}upsample.weight", f"{head}conv_logits.weight")
    fields = mask_fields(state, classes, rf"{re.escape(head)}convs\.(\d+)\.", *keys)
    side = config.mask_pool_size
    pool = {} if side is None else {"mask_pool_size": (side, side), "mask_out_size": 2 * side}
    return {**fields, **pool, "mask_num_convs": max(fields["mask_num_convs"], 1)}


def _style(hints: Hints, groups: tuple[int, int]) -> tuple[bool, dict[str, object], str]:
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


_BOX_CONVS = r"roi_head\.bbox_head\.(?:\d\.)?(?:shared_convs|cls_convs|reg_convs|conv_branch)\..*"
_FPN_NORMS = r"neck\.(?:lateral_convs|fpn_convs)\.\d+\.(?:bn|gn)\..*"
_OTHER_BLOCKS = r"backbone\..*\.(?:gn\d|context_block|gen_attention_block)\..*"
_SIGNS = {
    r"bbox_head\.(?:fc_cls|shared_fcs)\..*": "an R-CNN of mmdetection 1, whose background is first",
    r"bbox_head\.retina_(?:cls|reg)\..*": "mmdetection's RetinaNet",
    r"bbox_head\..*": "a one-stage detector of mmdetection",
    r"panoptic_\w*head\..*|semantic_head\..*": "mmdetection's panoptic or semantic segmentation",
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
    return other_network(state, _SIGNS)
