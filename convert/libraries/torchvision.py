"""torchvision's R-CNNs: their keys, and which model a state dict belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlx.core as mx

from mlx_rcnn.config.presets import MOBILENET, MOBILENET_320

from ..rename import Rule
from .architecture import NO_HINTS, Hints, Recognised
from .shapes import (
    check_anchors,
    check_needed,
    keypoint_layers,
    pool_size,
    pyramid_stages,
    resnet_depth,
    resnet_widths,
)

RULES = (
    # BatchNorm2d counts its batches; nothing reads the count.
    Rule(r".*\.num_batches_tracked", None),
    # body: torchvision's name for the classifier without its top, our net; MobileNet's is a
    # Sequential, our blocks
    Rule(r"backbone\.body\.(\d+\..*)", r"backbone.net.blocks.\1", "conv"),
    Rule(r"backbone\.body\.(.*)", r"backbone.net.\1", "conv"),
    # FPN, RPN and mask head: convolutions sit in a Sequential (.0) since release 0.13; the
    # published v1 files are older. A norm follows as .1.
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
    Rule(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d\.1\..*)", r"\1"),
    Rule(r"(rpn\.head\.conv\.\d\.0\.(?:weight|bias))", r"\1", "conv"),
    Rule(r"(rpn\.head\.(?:cls_logits|bbox_pred)\..*)", r"\1", "conv"),
    # flattened (C, h, w) there, (h, w, C) here
    Rule(r"(roi_heads\.box_head\.fc6\.weight)", r"\1", "flat"),
    # v2's box head: convolutions and norms, a Flatten without weights, a linear layer
    Rule(r"roi_heads\.box_head\.(\d)\.0\.(.*)", r"roi_heads.box_head.convs.\1.\2", "conv"),
    Rule(r"roi_heads\.box_head\.(\d)\.1\.(.*)", r"roi_heads.box_head.norms.\1.\2"),
    Rule(
        r"roi_heads\.box_head\.\d\.(weight)",
        r"roi_heads.box_head.fc.\1",
        "flat",
        r"roi_heads.box_head.5.\1",
    ),
    Rule(
        r"roi_heads\.box_head\.\d\.(bias)",
        r"roi_heads.box_head.fc.\1",
        "same",
        r"roi_heads.box_head.5.\1",
    ),
    Rule(r"(roi_heads\.box_(?:head\.fc[67]|predictor)\..*)", r"\1"),
    Rule(r"roi_heads\.mask_head\.(\d)\.0\.(.*)", r"roi_heads.mask_head.convs.\1.\2", "conv"),
    Rule(r"roi_heads\.mask_head\.(\d)\.1\.(.*)", r"roi_heads.mask_head.norms.\1.\2"),
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

_BODY = "backbone.body."
_STEMS = (f"{_BODY}conv1.weight", f"{_BODY}0.0.weight")  # of ResNet and MobileNet
_REDUCED_TAILS = {"large": 480, "small": 288}
_FULL_SIZE = "800 to 1333 pixels, unless the file's name has _320_fpn: the shapes are the same"
_MOBILENETS = {16: "large", 12: "small"}  # by the index of the last convolution

_KIND = "Faster, Mask or Keypoint R-CNN (ResNet or MobileNetV3, and FPN) of torchvision"
_RPN = "rpn.head.cls_logits.weight"
# What tells the architecture, and its number of axes; beside it the stem and the box head.
_NEEDED = {
    _RPN: 4,
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
_MODELS = {  # (mask, keypoint) -> kind, model
    (False, False): ("Faster R-CNN", "faster_rcnn"),
    (True, False): ("Mask R-CNN", "mask_rcnn"),
    (False, True): ("Keypoint R-CNN", "keypoint_rcnn"),
}


def looks_like(state: Mapping[str, mx.array]) -> bool:
    """Whether the keys are those of torchvision's detectors."""
    return any(key.startswith("backbone.body.") for key in state)


def recognise(state: Mapping[str, mx.array], hints: Hints = NO_HINTS) -> Recognised:
    """Tell from keys and shapes which torchvision R-CNN a state dict is; ValueError if none."""
    other = _something_else(state)
    if other:
        raise ValueError(f"this is {other}; expected a {_KIND}")
    mask = any(key.startswith("roi_heads.mask_") for key in state)
    keypoint = any(key.startswith("roi_heads.keypoint_") for key in state)
    if mask and keypoint:
        raise ValueError("it has a mask head and a keypoint head: expected at most one of them")
    mobile = _STEMS[1] in state
    convs = _count(state, r"roi_heads\.box_head\.(\d+)\.0\.")
    # After the convolutions of v2's box head comes a Flatten, then the linear layer.
    linear = f"roi_heads.box_head.{convs + 1}.weight" if convs else "roi_heads.box_head.fc6.weight"
    more = _NEEDED_FOR_MASKS if mask else _NEEDED_FOR_KEYPOINTS if keypoint else {}
    check_needed(state, {_STEMS[mobile]: 4, linear: 2, **_NEEDED, **more}, _KIND)
    detector = _heads(state, linear, convs, mask, hints)
    if keypoint:
        detector |= _keypoints(state)
    body, why = _mobilenet(state, detector) if mobile else _resnet(state, detector)
    check_anchors(state, _RPN, hints, detector)
    body |= {"num_classes": 0, "out_channels": detector["feat_channels"]}
    body["fpn_norm"] = _norm(state, "backbone.fpn.", "inner_blocks.0.1.weight")
    name = f"MobileNetV3-{body['variant']}" if mobile else f"ResNet-{body['depth']}"
    name += f" and FPN, {convs} convolutions in the box head" if convs else " and FPN"
    kind, model = _MODELS[mask, keypoint]
    count = f"{detector['num_classes']} classes"
    count += f", {detector['num_keypoints']} keypoints" if keypoint else ""
    note = f"torchvision {kind}, {name}, {count} ({why})"
    found = Recognised("torchvision", model, body, detector, RULES, note)
    return by_file_name(found, hints.name)


def _heads(
    state: Mapping[str, mx.array], linear: str, convs: int, mask: bool, hints: Hints
) -> dict[str, object]:
    """Fields of the RPN and the heads; ``linear`` is the weight after the RoI features."""
    units = state[linear].shape[0]
    channels = int(state[_RPN].shape[1])
    pool = pool_size(state, linear, channels, hints.field({}, "pool_size"))
    classes = int(state["roi_heads.box_predictor.cls_score.weight"].shape[0])
    detector: dict[str, object] = {
        "stride_rule": "torchvision",
        "feat_channels": channels,
        "num_classes": classes,
        "use_fpn": True,
        "rpn_conv_depth": max(_count(state, r"rpn\.head\.conv\.(\d+)\.0\."), 1),
        "box_head_convs": convs,
        "box_head_norm": _norm(state, "roi_heads.box_head.", "0.1.weight"),
        "hidden_dim": int(units),
        "pool_size": pool,
        "class_agnostic_bbox": state["roi_heads.box_predictor.bbox_pred.weight"].shape[0] == 4,
        "dropout": 0.0,
    }
    if mask:
        found = _count(state, r"roi_heads\.mask_head\.(?:mask_fcn)?(\d+)\.")
        detector["mask_num_convs"] = max(found, 1)
        detector["mask_head_norm"] = _norm(state, "roi_heads.mask_head.", "0.1.weight")
        detector["mask_hidden_channels"] = int(
            state["roi_heads.mask_predictor.conv5_mask.weight"].shape[0]
        )
    return detector


def _keypoints(state: Mapping[str, mx.array]) -> dict[str, object]:
    """The fields of the keypoint branch."""
    head = r"roi_heads\.keypoint_head\.(\d+)\.weight"
    count = int(state["roi_heads.keypoint_predictor.kps_score_lowres.weight"].shape[1])
    return {"num_keypoints": count, "keypoint_layers": keypoint_layers(state, head)}


def by_file_name(found: Recognised, name: str) -> Recognised:
    """Tell by a file's name what keys and shapes cannot: MobileNetV3's model for small images."""
    # such as ``fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth``
    if found.backbone.get("type") != "mobilenet_fpn" or "_320_fpn" not in name:
        return found
    note = found.note.replace(_FULL_SIZE, "320 to 640 pixels and 150 proposals by the file's name")
    return found._replace(detector={**found.detector, **MOBILENET_320}, note=note)


def _resnet(
    state: Mapping[str, mx.array], detector: dict[str, object]
) -> tuple[dict[str, object], str]:
    """Fields of the ResNet, those of its detector added, and what the norms were told by."""
    depth = resnet_depth(state, [f"{_BODY}layer{i}." for i in range(1, 5)])
    widths = resnet_widths(state, _STEMS[0], f"{_BODY}layer1.", depth)
    body: dict[str, object] = {"type": "resnet_fpn", "depth": depth, **widths}
    layers = pyramid_stages(state, widths["width"] * (4 if depth >= 50 else 1))
    if layers is not None and len(layers) < 4:
        body["returned_layers"], detector["roi_levels"] = layers, len(layers)
    body["norm"] = norm = _norm(state, _BODY, "bn1.weight")
    # v1's published files, ResNet-50s, hold FrozenBatchNorm2d and are used with epsilon 0. Those of
    # other depths come from resnet_fpn_backbone, which leaves it at 1e-5.
    plain = "backbone.fpn.inner_blocks.0.1.weight" not in state
    zero = norm == "frozen" and depth == 50 and plain
    body["norm_eps"] = 0.0 if zero else 1e-5
    return body, _why(norm, "0" if zero else "1e-5")


def _mobilenet(
    state: Mapping[str, mx.array], detector: dict[str, object]
) -> tuple[dict[str, object], str]:
    """Fields of the MobileNetV3, those of its detector added to ``detector``, and the reasons."""
    last = _count(state, r"backbone\.body\.(\d+)\.") - 1
    variant = _MOBILENETS.get(last)
    if variant is None:
        raise ValueError(
            f"no MobileNetV3 has {last + 1} parts in backbone.body (expected 17 or 13): the "
            "checkpoint is incomplete, or of another backbone"
        )
    tail = state.get(f"{_BODY}{last}.0.weight")
    norm = _norm(state, _BODY, "0.1.weight")
    body = {
        "type": "mobilenet_fpn",
        "variant": variant,
        "reduced_tail": tail is not None and tail.shape[0] == _REDUCED_TAILS[variant],
        "norm": norm,
        "norm_eps": 1e-5,
    }
    detector |= {**MOBILENET, "roi_levels": 2}
    return body, f"{_why(norm, '1e-5')}; {_FULL_SIZE}"


def _count(state: Mapping[str, mx.array], pattern: str) -> int:
    """How many different numbers the first group of ``pattern`` finds in the keys."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def _norm(state: Mapping[str, mx.array], prefix: str, first: str) -> str | None:
    """The kind of norm below ``prefix``, by its kinds of keys; ``first`` is a norm's weight."""
    below = [key for key in state if key.startswith(prefix)]
    if prefix + first not in state and not any(key.endswith(".running_var") for key in below):
        return None if prefix != _BODY else "group"
    if any(key.endswith(".num_batches_tracked") for key in below):
        return "batch"
    return "frozen" if any(key.endswith(".running_var") for key in below) else "group"


def _why(norm: str | None, epsilon: str) -> str:
    if norm == "group":
        return "no running_var: GroupNorm; give norm_groups if they are not the default"
    if norm == "batch":
        return f"num_batches_tracked: BatchNorm2d, epsilon {epsilon}"
    return f"no num_batches_tracked: frozen norms, epsilon {epsilon}"


def _something_else(state: Mapping[str, mx.array]) -> str | None:
    """Networks people confuse with ours, by a key only they have."""
    signs = {
        "head.classification_head.cls_logits.weight": "torchvision's RetinaNet",
        "backbone.body.1.conv.0.0.weight": "an R-CNN on MobileNetV2",
    }
    for key, name in signs.items():
        if key in state:
            return name
    if sum(bool(re.match(r"(?:model\.)?\d+\.(?:conv|cv\d|m)\.", key)) for key in state) > 3:
        return "a YOLO of Ultralytics"
    if "layer1.0.conv1.weight" in state and "fc.weight" in state:
        return "a ResNet classifier"
    return None
