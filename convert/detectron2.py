"""detectron2's R-CNNs: their keys, and which model a state dict belongs to.

Numerics: BGR in 0..255 less MSRA's means, Pillow's resize, the stride of MSRA's ResNets in the
first 1x1, anchors that are not rounded, RoIAlign aligned with adaptive sampling, background last.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from mlx_rcnn.categories import COCO_80

from .recognised import NO_HINTS, Hints, Recognised
from .rename import Rule, listing
from .structure import (
    ALIGNED,
    PYRAMID_STRIDES,
    State,
    architecture,
    check_needed,
    pool_side,
    resnet_depth,
    resnet_widths,
)

# Means and deviations in 0..255, in the order of RGB (stored in that of BGR).
MSRA_MEAN, MSRA_STD = (123.675, 116.28, 103.53), (1.0, 1.0, 1.0)
# Of Caffe2's ResNeXt-101-32x8d, whose stride is in the 3x3.
CAFFE2_STD = (58.395, 57.12, 57.375)

DETECTOR = {
    **ALIGNED,
    "channel_order": "bgr",
    "resize_rule": "pillow",
    "rpn_ranking": "detectron2",
    "clip_results": True,
}


def _resnet(theirs: str) -> tuple[Rule, ...]:
    """The body's rules; detectron2 counts the stem as the first of five stages."""
    rules = [
        Rule(rf"{theirs}stem\.conv1\.weight", "backbone.net.conv1.weight", "conv"),
        Rule(rf"{theirs}stem\.conv1\.norm\.(\w+)", r"backbone.net.bn1.\1"),
    ]
    for stage in range(1, 5):
        block, ours = rf"{theirs}res{stage + 1}\.(\d+)", rf"backbone.net.layer{stage}.\1"
        rules += [
            Rule(rf"{block}\.conv(\d)\.weight", rf"{ours}.conv\2.weight", "conv"),
            Rule(rf"{block}\.conv(\d)\.norm\.(\w+)", rf"{ours}.bn\2.\3"),
            Rule(rf"{block}\.shortcut\.weight", rf"{ours}.downsample.0.weight", "conv"),
            Rule(rf"{block}\.shortcut\.norm\.(\w+)", rf"{ours}.downsample.1.\2"),
        ]
    return tuple(rules)


RULES = (
    # Training with batch norm counts its batches; nothing reads the count.
    Rule(r".*\.num_batches_tracked", None),
    # Files of 2019 and 2020 hold constants of the model: read by recognise, not weights.
    Rule(r"pixel_(?:mean|std)", None),
    Rule(r"proposal_generator\.anchor_generator\.cell_anchors\.\d+", None),
    *_resnet(r"backbone\.bottom_up\."),
    *(
        Rule(
            rf"backbone\.fpn_{theirs}{level}\.(weight|bias)",
            rf"backbone.fpn.{ours}_blocks.{level - 2}.0.\1",
            "conv",
        )
        for theirs, ours in (("lateral", "inner"), ("output", "layer"))
        for level in range(2, 6)
    ),
    Rule(r"proposal_generator\.rpn_head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1", "conv"),
    Rule(
        r"proposal_generator\.rpn_head\.objectness_logits\.(weight|bias)",
        r"rpn.head.cls_logits.\1",
        "conv",
    ),
    Rule(
        r"proposal_generator\.rpn_head\.anchor_deltas\.(weight|bias)",
        r"rpn.head.bbox_pred.\1",
        "conv",
    ),
    # flattened (C, h, w) there, (h, w, C) here
    Rule(r"roi_heads\.box_head\.fc1\.weight", "roi_heads.box_head.fc6.weight", "flat"),
    Rule(r"roi_heads\.box_head\.fc1\.bias", "roi_heads.box_head.fc6.bias"),
    Rule(r"roi_heads\.box_head\.fc2\.(weight|bias)", r"roi_heads.box_head.fc7.\1"),
    Rule(r"(roi_heads\.box_predictor\.cls_score\.(?:weight|bias))", r"\1", "cls_background_last"),
    Rule(r"(roi_heads\.box_predictor\.bbox_pred\.(?:weight|bias))", r"\1", "reg_background_last"),
    *(  # counted from 1 there
        Rule(
            rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(weight|bias)",
            rf"roi_heads.mask_head.convs.{i}.\1",
            "conv",
        )
        for i in range(8)
    ),
    Rule(
        r"roi_heads\.mask_head\.deconv\.(weight|bias)",
        r"roi_heads.mask_predictor.conv5_mask.\1",
        "deconv",
    ),
    Rule(
        r"roi_heads\.mask_head\.predictor\.(weight|bias)",
        r"roi_heads.mask_predictor.mask_fcn_logits.\1",
        "mask_without_background",
    ),
)

_KIND = "Faster or Mask R-CNN (ResNet and FPN) of detectron2"
_NEEDED = {
    "backbone.bottom_up.stem.conv1.weight": 4,
    "backbone.fpn_output2.weight": 4,
    "proposal_generator.rpn_head.objectness_logits.weight": 4,
    "roi_heads.box_head.fc1.weight": 2,
    "roi_heads.box_head.fc2.weight": 2,
    "roi_heads.box_predictor.cls_score.weight": 2,
    "roi_heads.box_predictor.bbox_pred.weight": 2,
}
_NEEDED_FOR_MASKS = {
    "roi_heads.mask_head.deconv.weight": 4,
    "roi_heads.mask_head.predictor.weight": 4,
}


def looks_like(state: State) -> bool:
    """Whether the keys are those of detectron2's models."""
    starts = ("backbone.bottom_up.", "backbone.fpn_lateral", "backbone.stem.", "proposal_generator")
    return any(key.startswith((*starts, "stem.conv1.")) for key in state)


def recognise(state: State, hints: Hints = NO_HINTS) -> Recognised:
    """Tell from keys and shapes which of detectron2's R-CNNs a state dict belongs to.

    Args:
        state: arrays by detectron2's keys.
        hints: what the file says beside its tensors. Default: nothing.

    Returns:
        What to build.

    Raises:
        ValueError: it is none that can be built; the message says what it looks like.
    """
    if other := _something_else(state):
        raise ValueError(f"this is {other}; expected a {_KIND}")
    mask = any(key.startswith("roi_heads.mask_head.") for key in state)
    check_needed(state, {**_NEEDED, **(_NEEDED_FOR_MASKS if mask else {})}, _KIND)
    stages = [f"backbone.bottom_up.res{i}." for i in range(2, 6)]
    depth = resnet_depth(state, stages)
    widths = resnet_widths(state, "backbone.bottom_up.stem.conv1.weight", stages[0], depth)
    channels = int(state["backbone.fpn_output2.weight"].shape[0])
    side = pool_side(state, "roi_heads.box_head.fc1.weight", channels)
    classes = int(state["roi_heads.box_predictor.cls_score.weight"].shape[0])
    normalisation, why = _normalisation(state, widths["groups"] > 1)
    detector: dict[str, Any] = {
        **DETECTOR,
        **normalisation,
        **_anchors(state),
        "feat_channels": channels,
        "num_classes": classes,
        "use_fpn": True,
        "anchor_stride": PYRAMID_STRIDES,
        "hidden_dim": int(state["roi_heads.box_head.fc1.weight"].shape[0]),
        "pool_size": (side, side),
        "class_agnostic_bbox": state["roi_heads.box_predictor.bbox_pred.weight"].shape[0] == 4,
    }
    detector |= _names(classes, hints)
    if mask:
        detector |= _mask_fields(state, classes)
    backbone: dict[str, Any] = {"type": "resnet_fpn", "depth": depth, "num_classes": 0, **widths}
    backbone |= {"out_channels": channels, "norm": "frozen", "norm_eps": 1e-5}
    # MSRA's ResNets stride in the first 1x1; Caffe2's ResNeXt and what torch trained do not.
    first = widths["groups"] == 1 and detector["channel_order"] == "bgr"
    backbone["stride_in_1x1"] = first
    model = "Mask R-CNN" if mask else "Faster R-CNN"
    note = (
        f"detectron2 {model}, {architecture(depth, widths)} and FPN, {classes - 1} classes "
        f"({why}; stride in the {'1x1' if first else '3x3'}, which keys do not tell: give "
        f"stride_in_1x1={not first} if it was trained so)"
    )
    kind = "mask_rcnn" if mask else "faster_rcnn"
    return Recognised("detectron2", kind, backbone, detector, RULES, note)


def _names(classes: int, hints: Hints) -> dict[str, Any]:
    if hints.class_names and len(hints.class_names) == classes - 1:
        return {"class_names": (COCO_80[0], *hints.class_names)}
    return {"class_names": COCO_80} if classes == len(COCO_80) else {}


def _mask_fields(state: State, classes: int) -> dict[str, Any]:
    convs = {m[1] for k in state if (m := re.match(r"roi_heads\.mask_head\.mask_fcn(\d+)\.", k))}
    rows = state["roi_heads.mask_head.predictor.weight"].shape[0]
    if rows != classes - 1:
        raise ValueError(f"one mask for {classes - 1} classes: expected a mask a class, got {rows}")
    return {
        "mask_num_convs": max(len(convs), 1),
        "mask_hidden_channels": int(state["roi_heads.mask_head.deconv.weight"].shape[0]),
        "mask_paste_rule": "detectron2",
    }


def _normalisation(state: State, resnext: bool) -> tuple[dict[str, Any], str]:
    """Fields of the input, from the model's own constants where the file holds them."""
    mean, std, order = MSRA_MEAN, CAFFE2_STD if resnext else MSRA_STD, "bgr"
    why = "BGR less MSRA's means"
    keys = ("pixel_mean", "pixel_std")
    if all(key in state and state[key].size == 3 for key in keys):
        stored = [tuple(np.array(state[key]).reshape(3).tolist()) for key in keys]
        # ImageNet's mean is greatest in red: that shows which order the three have.
        order = "rgb" if stored[0][0] > stored[0][2] else "bgr"
        mean, std = (v if order == "rgb" else v[::-1] for v in stored)
        why = f"{order.upper()} with the file's pixel_mean and pixel_std"
    return {
        "channel_order": order,
        "image_mean": tuple(v / 255 for v in mean),
        "image_std": tuple(v / 255 for v in std),
    }, why


def _anchors(state: State) -> dict[str, Any]:
    """Sizes and ratios of the anchors, from the model's own constants where the file holds them."""
    keys = sorted(k for k in state if ".anchor_generator.cell_anchors." in k)
    if not keys:
        return {}
    sizes, ratios = [], []
    for key in keys:
        cells = np.array(state[key]).reshape(-1, 4).astype(np.float64)
        sides = cells[:, 2:] - cells[:, :2]  # sizes vary slower than ratios
        sizes.append(tuple(dict.fromkeys(np.sqrt(sides.prod(axis=1)).round(2).tolist())))
        ratios.append(tuple(dict.fromkeys((sides[:, 1] / sides[:, 0]).round(4).tolist())))
    if len(set(ratios)) != 1:
        raise ValueError(f"cell_anchors hold the ratios {ratios}: expected the same on every level")
    return {"anchor_sizes": tuple(sizes), "aspect_ratios": ratios[0]}


_SIGNS = {
    r"head\.(cls_subnet|cls_score)\..*": "detectron2's RetinaNet",
    r"sem_seg_head\..*": "detectron2's semantic or panoptic segmentation",
    r"roi_heads\.box_(head|predictor)\.\d+\..*": "detectron2's Cascade R-CNN",
    r"roi_heads\.mask_(point_head|coarse_head)\..*": "detectron2's PointRend",
    r"roi_heads\.mask_head\.(point_head|coarse_head)\..*": "detectron2's PointRend",
    r"roi_heads\.densepose_head\..*": "detectron2's DensePose",
    r"roi_heads\.keypoint_head\..*": "detectron2's Keypoint R-CNN",
    r"proposal_generator\.(fcos|centernet)_head\..*": "an FCOS or CenterNet on detectron2",
    r"roi_heads\.res5\..*": "detectron2's R-CNN on a C4 backbone",
    r"roi_heads\.box_head\.conv\d+\..*": "a detectron2 R-CNN with a convolutional box head",
    r"proposal_generator\.rpn_head\.conv\.conv\d\..*": "a detectron2 R-CNN with a deep RPN head",
    r"backbone\.fpn_\w+\d\.norm\..*": "a detectron2 R-CNN with norms in its FPN",
    r".*\.conv2_offset\..*": "a detectron2 R-CNN with deformable convolutions",
    r"backbone\.res\d\..*": "a detectron2 R-CNN without an FPN",
    r"stem\.conv1\..*": "a detectron2 backbone without a detector",
}


def _something_else(state: State) -> str | None:
    """Networks people confuse with ours, by keys only they have."""
    for pattern, name in _SIGNS.items():
        if any(re.fullmatch(pattern, key) for key in state):
            return name
    if any(key.startswith("proposal_generator.rpn_head.") for key in state):
        if not any(key.startswith("roi_heads.") for key in state):
            return "detectron2's RPN without a detector"
    elif any(key.startswith("roi_heads.") for key in state):
        return "detectron2's Fast R-CNN, which needs proposals from elsewhere"
    norms = [k for k in state if k.startswith("backbone.bottom_up.") and k.endswith("norm.weight")]
    if norms and not any(key.endswith(".running_var") for key in state):
        return f"a detectron2 R-CNN with group norm ({listing(norms, 1)} without running_var)"
    return None
