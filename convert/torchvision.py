"""torchvision's R-CNNs: their keys, and which model a state dict belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from mlx_rcnn.categories import COCO_91, COCO_KEYPOINTS, COCO_PERSON, COCO_SKELETON

from .recognised import NO_HINTS, Hints, Recognised
from .rename import Rule
from .structure import check_needed, pool_side, resnet_depth

RULES = (
    # BatchNorm2d counts its batches; nothing reads the count.
    Rule(r".*\.num_batches_tracked", None),
    # body: torchvision's name for the classifier without its top, our net
    Rule(r"backbone\.body\.(.*)", r"backbone.net.\1", "conv"),
    # FPN, RPN and mask head: convolutions sit in a Sequential (.0) since release 0.13; the
    # published v1 files are older.
    Rule(
        r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(?:0\.)?(weight|bias)",
        r"backbone.fpn.\1_blocks.\2.0.\3",
        "conv",
        r"backbone.fpn.\1_blocks.\2.0.\3",
    ),
    Rule(
        r"rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)",
        r"rpn.head.conv.0.0.\1",
        "conv",
        r"rpn.head.conv.0.0.\1",
    ),
    Rule(r"(rpn\.head\.(?:cls_logits|bbox_pred)\..*)", r"\1", "conv"),
    # flattened (C, h, w) there, (h, w, C) here
    Rule(r"(roi_heads\.box_head\.fc6\.weight)", r"\1", "flat"),
    Rule(r"(roi_heads\.box_(?:head|predictor)\..*)", r"\1"),
    Rule(r"roi_heads\.mask_head\.(\d)\.0\.(.*)", r"roi_heads.mask_head.convs.\1.\2", "conv"),
    *(  # the old names count from 1
        Rule(
            rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(.*)",
            rf"roi_heads.mask_head.convs.{i}.\1",
            "conv",
        )
        for i in range(8)
    ),
    Rule(r"(roi_heads\.mask_predictor\.conv5_mask\..*)", r"\1", "deconv"),
    Rule(r"(roi_heads\.mask_predictor\.mask_fcn_logits\..*)", r"\1", "conv"),
    *(  # every other module of the Sequential is a ReLU
        Rule(
            rf"roi_heads\.keypoint_head\.{2 * i}\.(.*)",
            rf"roi_heads.keypoint_head.convs.{i}.\1",
            "conv",
        )
        for i in range(16)
    ),
    Rule(r"(roi_heads\.keypoint_predictor\.kps_score_lowres\..*)", r"\1", "deconv"),
)

# What tells the architecture, and its number of axes.
_KIND = "Faster, Mask or Keypoint R-CNN (ResNet and FPN) of torchvision"
_NEEDED = {
    "backbone.body.conv1.weight": 4,
    "rpn.head.cls_logits.weight": 4,
    "roi_heads.box_head.fc6.weight": 2,
    "roi_heads.box_head.fc7.weight": 2,
    "roi_heads.box_predictor.cls_score.weight": 2,
    "roi_heads.box_predictor.bbox_pred.weight": 2,
}
_NEEDED_FOR_KEYPOINTS = {
    "roi_heads.keypoint_head.0.weight": 4,
    "roi_heads.keypoint_predictor.kps_score_lowres.weight": 4,
}
_NEEDED_FOR_MASKS = {
    "roi_heads.mask_predictor.conv5_mask.weight": 4,
    "roi_heads.mask_predictor.mask_fcn_logits.weight": 4,
}


def looks_like(state: Mapping[str, mx.array]) -> bool:
    """Whether the keys are those of torchvision's detectors."""
    return any(key.startswith("backbone.body.") for key in state)


def recognise(state: Mapping[str, mx.array], hints: Hints = NO_HINTS) -> Recognised:
    """Tell from keys and shapes which torchvision R-CNN a state dict belongs to.

    Args:
        state: arrays by torchvision's keys.
        hints: what the file says beside its tensors: class names, if any. Default: nothing.

    Returns:
        What to build.

    Raises:
        ValueError: it is no R-CNN with a ResNet and FPN of torchvision; the message says what it
            looks like.
    """
    other = _something_else(state)
    if other:
        raise ValueError(f"this is {other}; expected a {_KIND}")
    mask = any(key.startswith("roi_heads.mask_") for key in state)
    keypoint = any(key.startswith("roi_heads.keypoint_") for key in state)
    if mask and keypoint:
        raise ValueError("it has a mask head and a keypoint head: expected at most one of them")
    more = _NEEDED_FOR_MASKS if mask else _NEEDED_FOR_KEYPOINTS if keypoint else {}
    check_needed(state, {**_NEEDED, **more}, _KIND)
    depth = resnet_depth(state, [f"backbone.body.layer{i}." for i in range(1, 5)])
    units = state["roi_heads.box_head.fc6.weight"].shape[0]
    channels = int(state["rpn.head.cls_logits.weight"].shape[1])
    side = pool_side(state, "roi_heads.box_head.fc6.weight", channels)
    classes = int(state["roi_heads.box_predictor.cls_score.weight"].shape[0])
    detector: dict[str, Any] = {
        "feat_channels": channels,
        "num_classes": classes,
        "use_fpn": True,
        "hidden_dim": int(units),
        "pool_size": (side, side),
        "dropout": 0.0,
    }
    if hints.class_names and len(hints.class_names) == classes - 1:
        detector["class_names"] = (COCO_91[0], *hints.class_names)
    elif classes == len(COCO_91):
        detector["class_names"] = COCO_91
    if mask:
        convs = {m[1] for k in state if (m := re.search(r"mask_head\.(?:mask_fcn)?(\d)", k))}
        detector["mask_num_convs"] = max(len(convs), 1)
        detector["mask_hidden_channels"] = int(
            state["roi_heads.mask_predictor.conv5_mask.weight"].shape[0]
        )
    if keypoint:
        detector |= _keypoints(state, classes)
    backbone: dict[str, Any] = {"type": "resnet_fpn", "depth": depth, "num_classes": 0}
    backbone["out_channels"] = channels
    backbone["width"] = int(state["backbone.body.conv1.weight"].shape[0])
    norm, why = _norm(state)
    kind = "Mask R-CNN" if mask else "Keypoint R-CNN" if keypoint else "Faster R-CNN"
    note = f"torchvision {kind}, ResNet-{depth} and FPN, {classes} classes ({why})"
    if keypoint:
        note = note.replace("classes (", f"classes, {detector['num_keypoints']} keypoints (")
    model = "mask_rcnn" if mask else "keypoint_rcnn" if keypoint else "faster_rcnn"
    return Recognised("torchvision", model, backbone | norm, detector, RULES, note)


def _keypoints(state: Mapping[str, mx.array], classes: int) -> dict[str, Any]:
    """The fields of the keypoint branch; a person's where the numbers are those of COCO's files."""
    head = r"roi_heads\.keypoint_head\.(\d+)\.weight"
    layers = {int(m[1]): state[k].shape[0] for k in state if (m := re.fullmatch(head, k))}
    count = int(state["roi_heads.keypoint_predictor.kps_score_lowres.weight"].shape[1])
    fields: dict[str, Any] = {
        "num_keypoints": count,
        "keypoint_layers": tuple(layers[i] for i in sorted(layers)),
    }
    if count == len(COCO_KEYPOINTS) and classes == len(COCO_PERSON):
        fields["class_names"] = COCO_PERSON
        fields["keypoint_names"], fields["keypoint_skeleton"] = COCO_KEYPOINTS, COCO_SKELETON
    return fields


def _norm(state: Mapping[str, mx.array]) -> tuple[dict[str, Any], str]:
    """The backbone's norm, which only the kinds of keys tell, and the reason."""
    if not any(key.endswith(".running_var") for key in state):
        return {"norm": "group"}, "no running_var: GroupNorm; give norm_groups if they are not 32"
    # Published files hold FrozenBatchNorm2d and are used with epsilon 0; a model made without
    # pretrained weights holds BatchNorm2d with the usual epsilon.
    if any(key.endswith(".num_batches_tracked") for key in state):
        return {"norm": "batch"}, "num_batches_tracked: BatchNorm2d, epsilon 1e-5"
    return {"norm": "frozen", "norm_eps": 0.0}, "no num_batches_tracked: frozen norms, epsilon 0"


def _something_else(state: Mapping[str, mx.array]) -> str | None:
    """Networks people confuse with ours, by a key only they have."""
    signs = {
        "head.classification_head.cls_logits.weight": "torchvision's RetinaNet",
        "rpn.head.conv.1.0.weight": "torchvision's v2 R-CNN",
        "backbone.body.0.0.weight": "an R-CNN on MobileNet",
    }
    for key, name in signs.items():
        if key in state:
            return name
    if "layer1.0.conv1.weight" in state and "fc.weight" in state:
        return "a ResNet classifier"
    return None
