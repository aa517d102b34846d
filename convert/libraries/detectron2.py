"""detectron2's R-CNNs and proposal networks: which model a state dict belongs to.

Numerics: BGR in 0..255 less MSRA's means, Pillow's resize, the stride of MSRA's ResNets in the
first 1x1, anchors that are not rounded, RoIAlign aligned with adaptive sampling, background last.
"""

from __future__ import annotations

import re

import numpy as np

from mlx_rcnn.messages import listing

from .architecture import NO_HINTS, Hints, Recognised
from .detectron2_rules import ONE_MAP_RULES, RULES
from .kinds import Kind, box_stages, fields_of, kind_of
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

# What a cascade of detectron2 does besides.
CASCADE = {
    "cascade_scores": "probability",
    "cascade_resample": False,
    "cascade_grad_scale": 1 / 3,
    "rpn_post_nms_top_n_train": 2000,
}

_KIND = "Fast, Faster, Mask, Keypoint or Cascade R-CNN or RPN (ResNet) of detectron2"
_RPN_HEAD = "proposal_generator.rpn_head."
_RPN, _BOX = f"{_RPN_HEAD}objectness_logits.weight", "roi_heads.box_predictor."
_MASK, _KEYPOINT = "roi_heads.mask_head.", "roi_heads.keypoint_head."


def looks_like(state: State) -> bool:
    """Whether the keys are those of detectron2's models."""
    starts = ("backbone.bottom_up.", "backbone.fpn_lateral", "backbone.stem.", "proposal_generator")
    return any(key.startswith((*starts, "stem.conv1.")) for key in state)


def recognise(state: State, hints: Hints = NO_HINTS) -> Recognised:
    """Tell from keys and shapes which of detectron2's R-CNNs a state dict is, or ValueError."""
    if other := _something_else(state):
        raise ValueError(f"this is {other}; expected a {_KIND}")
    pyramid = any(key.startswith("backbone.fpn_") for key in state)
    c4 = any(key.startswith("roi_heads.res5.") for key in state)
    kind = _kind_of(state, hints)
    check_needed(state, _needed(kind, pyramid, c4), _KIND)
    body = "backbone.bottom_up." if pyramid else "backbone."
    stages = [f"{body}res{i}." for i in range(2, 6)]
    if c4 or not any(key.startswith(stages[3]) for key in state):
        stages = stages[:3] + (["roi_heads.res5."] if c4 else [])
    depth = resnet_depth(state, stages)
    widths = resnet_widths(state, f"{body}stem.conv1.weight", stages[0], depth)
    normalisation, why = _normalisation(state, widths["groups"] > 1)
    channels = _channels(state, kind, pyramid, c4)
    maps = {"use_fpn": True, "anchor_stride": PYRAMID_STRIDES} if pyramid else ONE_MAP
    detector = {**DETECTOR, **normalisation, **maps, "feat_channels": channels}
    detector |= _rpn_fields(state, hints, detector) if kind.proposes else {}
    detector |= _heads(state, kind, c4, hints, channels) if kind.detects else {}
    # MSRA's ResNets stride in the first 1x1; Caffe2's ResNeXt and what torch trained do not.
    first = widths["groups"] == 1 and detector["channel_order"] == "bgr"
    backbone: dict[str, object] = {"depth": depth, "num_classes": 0, **widths, "norm": "frozen"}
    backbone |= {"norm_eps": 1e-5, "stride_in_1x1": first}
    if pyramid:
        backbone |= {"type": "resnet_fpn", "out_channels": channels}
    else:
        last = len([stage for stage in stages if stage.startswith(body)])
        backbone |= {"type": "resnet", "last_stage": last, "dilated": last == 4}
    top = "and FPN" if pyramid else "DC5" if backbone["last_stage"] == 4 else "C4"
    note = (
        f"detectron2 {kind.name}, {architecture(depth, widths)} {top}, "
        f"{kind.objects(detector)} ({why}; stride in the {'1x1' if first else '3x3'}, which keys "
        f"do not tell: give stride_in_1x1={not first} if it was trained so)"
    )
    rules = RULES if pyramid else ONE_MAP_RULES
    detector = fields_of(kind.model, detector)
    return Recognised("detectron2", kind.model, backbone, detector, rules, note)


def _kind_of(state: State, hints: Hints) -> Kind:
    """Which of the models it is, by the parts there are."""
    stages = box_stages(state, _BOX, hints, {})
    first = "" if stages is None else "0."
    return kind_of(
        "detectron2",
        proposes=any(key.startswith(_RPN_HEAD) for key in state),
        detects=f"{_BOX}{first}cls_score.weight" in state
        or any(key.startswith("roi_heads.box_") for key in state),
        masks=any(key.startswith(_MASK) for key in state),
        keypoints=any(key.startswith(_KEYPOINT) for key in state),
        stages=stages,
    )


def _needed(kind: Kind, pyramid: bool, c4: bool) -> dict[str, int]:
    """The keys that what was recognised must have, and their numbers of axes."""
    stem = "backbone.bottom_up.stem" if pyramid else "backbone.stem"
    needed = {f"{stem}.conv1.weight": 4}
    if pyramid:
        needed["backbone.fpn_output2.weight"] = 4
    if kind.proposes:
        needed[_RPN] = 4
    for stage in kind.prefixes if kind.detects else ():
        needed |= {f"{_BOX}{stage}{name}.weight": 2 for name in ("cls_score", "bbox_pred")}
        if not c4:
            needed |= {f"roi_heads.box_head.{stage}fc{i}.weight": 2 for i in (1, 2)}
    if kind.masks:
        needed |= {f"{_MASK}{name}.weight": 4 for name in ("deconv", "predictor")}
    if kind.keypoints:
        needed |= {f"{_KEYPOINT}{name}.weight": 4 for name in ("conv_fcn1", "score_lowres")}
    return needed


def _channels(state: State, kind: Kind, pyramid: bool, c4: bool) -> int:
    """Of the maps; a Fast R-CNN has no network over its one map that would tell."""
    if pyramid:
        return int(state["backbone.fpn_output2.weight"].shape[0])
    if kind.proposes:
        return int(state[_RPN].shape[1])
    block = f"backbone.res{4 if c4 else 5}.0."
    last = next((k for k in (f"{block}conv3.weight", f"{block}conv2.weight") if k in state), None)
    return 0 if last is None else int(state[last].shape[0])


def _rpn_fields(state: State, hints: Hints, known: dict[str, object]) -> dict[str, object]:
    """Fields of the anchors."""
    found = _anchors(state)
    fields = {**known, **found}
    ratios = hints.field(fields, "aspect_ratios", RATIOS)
    if len(ratios) != 3:
        raise ValueError(f"aspect_ratios={ratios!r}: expected three of a model of detectron2")
    check_anchors(state, _RPN, hints, fields)
    return found


def _heads(state: State, kind: Kind, c4: bool, hints: Hints, channels: int) -> dict[str, object]:
    """Fields of the box heads and of the branch."""
    stage = kind.prefixes[0]
    classes = int(state[f"{_BOX}{stage}cls_score.weight"].shape[0])
    agnostic = state[f"{_BOX}{stage}bbox_pred.weight"].shape[0] == 4
    fields: dict[str, object] = {"num_classes": classes, "class_agnostic_bbox": agnostic}
    fields |= CASCADE if kind.stages else {}
    fields |= _branch(state, kind, classes, c4)
    if c4:
        return {**fields, "res5_head": True, "pool_size": (14, 14)}
    first = f"roi_heads.box_head.{stage}fc1.weight"
    pool = pool_size(state, first, channels, hints.field({}, "pool_size"))
    return {**fields, "hidden_dim": int(state[first].shape[0]), "pool_size": pool}


def _branch(state: State, kind: Kind, classes: int, c4: bool) -> dict[str, object]:
    """Fields of the mask or keypoint branch."""
    if kind.masks:
        convs = rf"{re.escape(_MASK)}mask_fcn(\d+)\."
        keys = (f"{_MASK}deconv.weight", f"{_MASK}predictor.weight")
        return {**mask_fields(state, classes, convs, *keys), "mask_out_size": 14 if c4 else 28}
    if kind.keypoints:
        pattern = r"roi_heads\.keypoint_head\.conv_fcn(\d+)\.weight"
        return {
            "min_size": 800,
            "num_keypoints": int(state[f"{_KEYPOINT}score_lowres.weight"].shape[1]),
            "keypoint_layers": keypoint_layers(state, pattern),
            "keypoint_score": "probability",
            "keypoint_offset": 0.5,
        }
    return {}


def _normalisation(state: State, resnext: bool) -> tuple[dict[str, object], str]:
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


def _anchors(state: State) -> dict[str, object]:
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
    r".*\.conv2_offset\..*": "a detectron2 R-CNN with deformable convolutions, such as "
    "cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv",
    r"head\.(?:cls_subnet|cls_score)\..*": "detectron2's RetinaNet",
    r"sem_seg_head\..*": "detectron2's semantic or panoptic segmentation",
    r"roi_heads\.mask_(?:point_head|coarse_head)\..*": "detectron2's PointRend",
    r"roi_heads\.mask_head\.(?:point_head|coarse_head)\..*": "detectron2's PointRend",
    r"roi_heads\.densepose_head\..*": "detectron2's DensePose",
    r"proposal_generator\.(?:fcos|centernet)_head\..*": "an FCOS or CenterNet on detectron2",
    r"roi_heads\.box_head\.(?:\d\.)?conv\d+\..*": "a detectron2 R-CNN with a convolutional "
    "box head",
    r"proposal_generator\.rpn_head\.conv\.conv\d\..*": "a detectron2 R-CNN with a deep RPN head",
    r"backbone\.fpn_\w+\d\.norm\..*": "a detectron2 R-CNN with norms in its FPN",
    r"stem\.conv1\..*": "a detectron2 backbone without a detector",
}


def _something_else(state: State) -> str | None:
    """Networks people confuse with ours, by keys only they have."""
    if other := other_network(state, _SIGNS):
        return other
    if all(any(k.startswith(branch) for k in state) for branch in (_MASK, _KEYPOINT)):
        return "a detectron2 R-CNN with masks and keypoints"
    norms = [k for k in state if k.startswith("backbone.") and k.endswith("norm.weight")]
    if norms and not any(key.endswith(".running_var") for key in state):
        return f"a detectron2 R-CNN with group norm ({listing(norms, 1)} without running_var)"
    return None
