"""detectron2's R-CNNs: which model a state dict belongs to.

Numerics: BGR in 0..255 less MSRA's means, Pillow's resize, the stride of MSRA's ResNets in the
first 1x1, anchors that are not rounded, RoIAlign aligned with adaptive sampling, background last.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from mlx_rcnn.messages import listing

from .architecture import NO_HINTS, Hints, Recognised
from .detectron2_rules import ONE_MAP_RULES, RULES
from .shapes import (
    ALIGNED,
    IMAGENET_STD,
    MSRA_MEAN,
    PYRAMID_STRIDES,
    RATIOS,
    UNIT_STD,
    State,
    architecture,
    check_anchors,
    check_needed,
    input_fields,
    keypoint_layers,
    mask_fields,
    other_network,
    pool_size,
    resnet_depth,
    resnet_widths,
)

__all__ = ["DETECTOR", "ONE_MAP_RULES", "RULES", "looks_like", "recognise"]

DETECTOR = {
    **ALIGNED,
    "channel_order": "bgr",
    "resize_rule": "pillow",
    "rpn_ranking": "detectron2",
    "clip_results": True,
}
# Models without a pyramid: all anchors on one map, images not padded.
ONE_MAP = {
    "use_fpn": False,
    "anchor_sizes": (32, 64, 128, 256, 512),
    "anchor_stride": 16,
    "size_divisible": 1,
    "rpn_pre_nms_top_n_train": 12000,
    "rpn_pre_nms_top_n_test": 6000,
    "rpn_post_nms_top_n_train": 2000,
}

_KIND = "Faster, Mask or Keypoint R-CNN (ResNet) of detectron2"
_RPN, _BOX = "proposal_generator.rpn_head.objectness_logits.weight", "roi_heads.box_predictor."
_MASK, _KEYPOINT = "roi_heads.mask_head.", "roi_heads.keypoint_head."


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
    branch, name = "faster_rcnn", "Faster R-CNN"
    if any(key.startswith(_MASK) for key in state):
        branch, name = "mask_rcnn", "Mask R-CNN"
    elif any(key.startswith(_KEYPOINT) for key in state):
        branch, name = "keypoint_rcnn", "Keypoint R-CNN"
    pyramid = any(key.startswith("backbone.fpn_") for key in state)
    c4 = any(key.startswith("roi_heads.res5.") for key in state)
    check_needed(state, _needed(branch, pyramid, c4), _KIND)
    body = "backbone.bottom_up." if pyramid else "backbone."
    stages = [f"{body}res{i}." for i in range(2, 5)] + ["roi_heads.res5." if c4 else f"{body}res5."]
    depth = resnet_depth(state, stages)
    widths = resnet_widths(state, f"{body}stem.conv1.weight", stages[0], depth)
    classes = int(state[f"{_BOX}cls_score.weight"].shape[0])
    normalisation, why = _normalisation(state, widths["groups"] > 1)
    detector = {
        **DETECTOR,
        **normalisation,
        **_layout(state, pyramid, c4, hints),
        "num_classes": classes,
        "class_agnostic_bbox": state[f"{_BOX}bbox_pred.weight"].shape[0] == 4,
        **_branch(state, branch, classes, c4),
    }
    # MSRA's ResNets stride in the first 1x1; Caffe2's ResNeXt and what torch trained do not.
    first = widths["groups"] == 1 and detector["channel_order"] == "bgr"
    backbone: dict[str, Any] = {"depth": depth, "num_classes": 0, **widths, "norm": "frozen"}
    backbone |= {"norm_eps": 1e-5, "stride_in_1x1": first}
    if pyramid:
        backbone |= {"type": "resnet_fpn", "out_channels": detector["feat_channels"]}
    else:
        backbone |= {"type": "resnet", "last_stage": 3 if c4 else 4, "dilated": not c4}
    top = "and FPN" if pyramid else "C4" if c4 else "DC5"
    note = (
        f"detectron2 {name}, {architecture(depth, widths)} {top}, {classes - 1} classes "
        f"({why}; stride in the {'1x1' if first else '3x3'}, which keys do not tell: give "
        f"stride_in_1x1={not first} if it was trained so)"
    )
    rules = RULES if pyramid else ONE_MAP_RULES
    return Recognised("detectron2", branch, backbone, detector, rules, note)


def _needed(branch: str, pyramid: bool, c4: bool) -> dict[str, int]:
    """The keys that what was recognised must have, and their numbers of axes."""
    stem = "backbone.bottom_up.stem" if pyramid else "backbone.stem"
    needed = {f"{stem}.conv1.weight": 4, _RPN: 4}
    needed |= {f"{_BOX}cls_score.weight": 2, f"{_BOX}bbox_pred.weight": 2}
    if pyramid:
        needed["backbone.fpn_output2.weight"] = 4
    if not c4:
        needed |= {f"roi_heads.box_head.fc{i}.weight": 2 for i in (1, 2)}
    if branch == "mask_rcnn":
        needed |= {f"{_MASK}{name}.weight": 4 for name in ("deconv", "predictor")}
    if branch == "keypoint_rcnn":
        needed |= {f"{_KEYPOINT}{name}.weight": 4 for name in ("conv_fcn1", "score_lowres")}
    return needed


def _layout(state: State, pyramid: bool, c4: bool, hints: Hints) -> dict[str, Any]:
    """Fields of the maps, the anchors on them and the box head."""
    channels = int(state[_RPN].shape[1])
    fields: dict[str, Any] = {"use_fpn": True, "anchor_stride": PYRAMID_STRIDES}
    fields = fields if pyramid else dict(ONE_MAP)
    fields |= {"feat_channels": channels, **_anchors(state)}
    ratios = hints.field(fields, "aspect_ratios", RATIOS)
    if len(ratios) != 3:
        raise ValueError(f"aspect_ratios={ratios!r}: expected three of a model of detectron2")
    check_anchors(state, _RPN, hints, fields)
    if c4:
        return {**fields, "res5_head": True, "pool_size": (14, 14)}
    pool = hints.field({}, "pool_size")
    pool = pool_size(state, "roi_heads.box_head.fc1.weight", channels, pool)
    hidden = int(state["roi_heads.box_head.fc1.weight"].shape[0])
    return {**fields, "hidden_dim": hidden, "pool_size": pool}


def _branch(state: State, branch: str, classes: int, c4: bool) -> dict[str, Any]:
    """Fields of the mask or keypoint branch."""
    if branch == "mask_rcnn":
        convs = rf"{re.escape(_MASK)}mask_fcn(\d+)\."
        keys = (f"{_MASK}deconv.weight", f"{_MASK}predictor.weight")
        return {**mask_fields(state, classes, convs, *keys), "mask_out_size": 14 if c4 else 28}
    if branch == "keypoint_rcnn":
        pattern = r"roi_heads\.keypoint_head\.conv_fcn(\d+)\.weight"
        return {
            "min_size": 800,
            "num_keypoints": int(state[f"{_KEYPOINT}score_lowres.weight"].shape[1]),
            "keypoint_layers": keypoint_layers(state, pattern),
            "keypoint_score": "probability",
            "keypoint_offset": 0.5,
        }
    return {}


def _normalisation(state: State, resnext: bool) -> tuple[dict[str, Any], str]:
    """Fields of the input, from the model's own constants where the file holds them."""
    # Caffe2's ResNeXt-101-32x8d, whose stride is in the 3x3, divides by ImageNet's deviations.
    mean, std, order = MSRA_MEAN, IMAGENET_STD if resnext else UNIT_STD, "bgr"
    why = "BGR less MSRA's means"
    keys = ("pixel_mean", "pixel_std")
    if all(key in state and state[key].size == 3 for key in keys):
        stored = [tuple(np.array(state[key]).reshape(3).tolist()) for key in keys]
        # ImageNet's mean is greatest in red: that shows which order the three have.
        order = "rgb" if stored[0][0] > stored[0][2] else "bgr"
        mean, std = (v if order == "rgb" else v[::-1] for v in stored)
        why = f"{order.upper()} with the file's pixel_mean and pixel_std"
    return input_fields(order, mean, std), why


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
    r"head\.(?:cls_subnet|cls_score)\..*": "detectron2's RetinaNet",
    r"sem_seg_head\..*": "detectron2's semantic or panoptic segmentation",
    r"roi_heads\.box_(?:head|predictor)\.\d+\..*": "detectron2's Cascade R-CNN",
    r"roi_heads\.mask_(?:point_head|coarse_head)\..*": "detectron2's PointRend",
    r"roi_heads\.mask_head\.(?:point_head|coarse_head)\..*": "detectron2's PointRend",
    r"roi_heads\.densepose_head\..*": "detectron2's DensePose",
    r"proposal_generator\.(?:fcos|centernet)_head\..*": "an FCOS or CenterNet on detectron2",
    r"roi_heads\.box_head\.conv\d+\..*": "a detectron2 R-CNN with a convolutional box head",
    r"proposal_generator\.rpn_head\.conv\.conv\d\..*": "a detectron2 R-CNN with a deep RPN head",
    r"backbone\.fpn_\w+\d\.norm\..*": "a detectron2 R-CNN with norms in its FPN",
    r".*\.conv2_offset\..*": "a detectron2 R-CNN with deformable convolutions",
    r"stem\.conv1\..*": "a detectron2 backbone without a detector",
}


def _something_else(state: State) -> str | None:
    """Networks people confuse with ours, by keys only they have."""
    if other := other_network(
        state, _SIGNS, "detectron2", "proposal_generator.rpn_head.", "roi_heads."
    ):
        return other
    if all(any(k.startswith(branch) for k in state) for branch in (_MASK, _KEYPOINT)):
        return "a detectron2 R-CNN with masks and keypoints"
    norms = [k for k in state if k.startswith("backbone.") and k.endswith("norm.weight")]
    if norms and not any(key.endswith(".running_var") for key in state):
        return f"a detectron2 R-CNN with group norm ({listing(norms, 1)} without running_var)"
    return None
