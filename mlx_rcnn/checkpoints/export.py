"""The way back: a model's weights as another library has them, and what to set there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import mlx.core as mx

from mlx_rcnn.convert.libraries.recognise import rules_of
from mlx_rcnn.convert.rename import rename_back, source_key

from .. import models
from ..config.detector import to_json
from ..layers import BatchNorm, weights_to_come
from ..models import Detector
from ..models.quantized import restored

_VARIANCE, _COUNTER = "running_var", "num_batches_tracked"
_CLASSIFIER = re.compile(r"backbone\.net\.(fc|classifier)\.")  # no part of a detector


def export_state(model: Detector, library: str) -> dict[str, mx.array]:
    """A model's weights by another library's keys, in its layout, or a ValueError why not."""
    if why := _lacking(model, library):
        raise ValueError(f"{library} cannot express this model: {why}")
    rules = rules_of(library, model.config.use_fpn)
    try:
        state = rename_back(_weights(model), rules, getattr(model.config, "pool_size", (7, 7)))
    except ValueError as error:
        raise ValueError(f"{library} cannot express this model: {error}") from error
    counters = {}  # the batch counters of norms that train
    for name, module in model.named_modules():
        if type(module) is BatchNorm and library != "detectron2":
            key, _ = source_key(f"{name}.running_var", rules)
            counter = str(key).removesuffix(_VARIANCE) + _COUNTER
            counters[counter] = mx.array(0, mx.int64)
    # A model that came from a checkpoint of that library gives that checkpoint's state dict again,
    # bit for bit as far as its weights have not been changed.
    if model.origin is not None and model.origin.library == library:
        state = model.origin.restore(state)
    return _counters_in_place(counters | state)


def _lacking(model: Detector, library: str) -> str | None:
    """What a library has no model for, whatever the names of its weights."""
    name = type(model).__name__
    if name == "RCNN":
        return "it has no R-CNN over crops"
    if library == "torchvision" and name not in ("FasterRCNN", "MaskRCNN", "KeypointRCNN"):
        return f"it has no {name}"
    per_stage = getattr(model.config, "cascade_mask_heads", None)
    if library == "mmdetection" and per_stage is False:
        return "its cascades have a mask head a stage, this one has one"
    if library == "detectron2" and per_stage:
        return "its cascades have one mask head, this one has one a stage"
    return None


def _counters_in_place(state: dict[str, mx.array]) -> dict[str, mx.array]:
    """Each counter after its norm's running variance, where torch writes it."""
    ordered = {}
    for key, value in state.items():
        if key.endswith(_COUNTER) and key.removesuffix(_COUNTER) + _VARIANCE in state:
            continue
        ordered[key] = value
        counter = key.removesuffix(_VARIANCE) + _COUNTER
        if key.endswith(_VARIANCE) and counter in state:
            ordered[counter] = state[counter]
    return ordered


def settings(model: Detector, library: str) -> list[str]:
    """What to write in the other library for the model to compute what it does here."""
    if library == "torchvision":
        return _torchvision_settings(model)
    # lines that begin with ``differs:`` name what is not to be had there
    return _detectron2_settings(model) if library == "detectron2" else []


def _weights(model: Detector) -> dict[str, mx.array]:
    """The detector's arrays by name, none in a few bits, without the backbone's classifier."""
    found = restored(model)
    return {k: v for k, v in found.items() if not _CLASSIFIER.match(k)}


def _fields(model: Detector) -> dict[str, Any]:
    """The fields of a model's config and of its backbone's, by name."""
    body: object = getattr(model.backbone, "config", None)
    fields = asdict(body) if is_dataclass(body) and not isinstance(body, type) else {}
    return {f"backbone.{k}": v for k, v in fields.items()} | to_json(model.config)


# Arguments of torchvision's builders by our names, which are the same.
_ARGUMENT = re.compile(r"(rpn|box)_(?!min_size).*|(min|max)_size|image_(mean|std)|bbox_reg_weights")
# Told by the shapes, of training only, or said in words.
_SAME_OR_SAID = re.compile(
    r"num_classes|class_names|dropout|hidden_dim|backbone\.(norm.*|num_classes)|.*_train"
)


def _torchvision_settings(model: Detector) -> list[str]:
    """The builder whose parameters and settings are nearest, and what it must be given."""
    shapes = {k: v.shape for k, v in _weights(model).items()}
    classes = model.num_classes
    ours, found = _fields(model), []
    for name in models.__all__:
        if re.match(r"(faster|mask|keypoint)rcnn_", name):
            with weights_to_come():  # its shapes are all that is asked for
                built = getattr(models, name)(num_classes=classes)
            if {k: v.shape for k, v in _weights(built).items()} == shapes:
                theirs = {**_fields(built), "stride_rule": "torchvision"}
                other = [k for k in ours if ours[k] != theirs.get(k)]
                found.append((name, [k for k in other if not _SAME_OR_SAID.fullmatch(k)]))
    if not found:
        return ["differs: none of torchvision's builders has this structure; build it from parts"]
    name, other = min(found, key=lambda item: len(item[1]))
    given = [f"{k}={ours[k]!r}" for k in other if _ARGUMENT.fullmatch(k)]
    call = ["weights=None", "weights_backbone=None", f"num_classes={classes}", *given]
    lines = [f"model = torchvision.models.detection.{name}({', '.join(call)})"]
    if ours.get("backbone.norm") == "group":
        lines.append("differs: the builder has no GroupNorm; give resnet_fpn_backbone a norm_layer")
    elif (eps := ours.get("backbone.norm_eps", 1e-5)) != 1e-5:
        lines.append(
            f"its norms must have epsilon {eps:g}: for m in model.backbone.body.modules(): "
            f"m.eps = {eps:g}"
        )
    apart = [f"{k}={ours[k]!r}" for k in other if not _ARGUMENT.fullmatch(k)]
    return lines + [f"differs: the builder has no {setting}" for setting in apart]


def _detectron2_settings(model: Detector) -> list[str]:
    """Keys and values of detectron2's config."""
    ours = _fields(model)
    bgr = ours["channel_order"] == "bgr"
    norms = {"frozen": "FrozenBN", "batch": "BN", "group": "GN"}
    least = ours["min_size"] if isinstance(ours["min_size"], int) else ours["min_size"][-1]
    values = {
        "INPUT.FORMAT": "BGR" if bgr else "RGB",
        "INPUT.MIN_SIZE_TEST": least,
        "INPUT.MAX_SIZE_TEST": ours["max_size"],
        "MODEL.PIXEL_MEAN": _pixels(ours["image_mean"], bgr),
        "MODEL.PIXEL_STD": _pixels(ours["image_std"], bgr),
        "MODEL.MASK_ON": model.needs_masks,
        "MODEL.RESNETS.DEPTH": ours.get("backbone.depth"),
        "MODEL.RESNETS.NORM": norms.get(str(ours.get("backbone.norm"))),
        "MODEL.RESNETS.STRIDE_IN_1X1": ours.get("backbone.stride_in_1x1"),
        "MODEL.RESNETS.NUM_GROUPS": ours.get("backbone.groups"),
        "MODEL.RESNETS.WIDTH_PER_GROUP": ours.get("backbone.width_per_group"),
    }
    values |= _rpn_values(ours) | _box_values(ours, model.num_classes)
    lines = [f"{key}: {_yaml(value)}" for key, value in values.items() if value is not None]
    eps = ours.get("backbone.norm_eps", 1e-5)
    differs = (
        (eps != 1e-5, f"norms have epsilon {eps:g} here, 1e-05 in detectron2"),
        (
            ours.get("anchor_rounding"),
            "anchors are rounded to whole pixels here, not there",
        ),
        (isinstance(ours.get("box_score_thresh"), tuple), "score thresholds are by class here"),
        (ours.get("box_nms_kind", "hard") != "hard", "detections are suppressed by Soft-NMS here"),
        (ours["resize_rule"] != "pillow", f"images are resized as by {ours['resize_rule']} here"),
    )
    return lines + [f"differs: {what}" for wrong, what in differs if wrong]


def _rpn_values(ours: dict[str, Any]) -> dict[str, object]:
    if "anchor_sizes" not in ours:
        return {"MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"}
    return {
        "MODEL.ANCHOR_GENERATOR.SIZES": ours["anchor_sizes"] or [[32], [64], [128], [256], [512]],
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [ours["aspect_ratios"]],
        "MODEL.ANCHOR_GENERATOR.OFFSET": ours["anchor_offset"],
        "MODEL.RPN.NMS_THRESH": ours["rpn_nms_thresh"],
        "MODEL.RPN.PRE_NMS_TOPK_TEST": ours["rpn_pre_nms_top_n_test"],
        "MODEL.RPN.POST_NMS_TOPK_TEST": ours["rpn_post_nms_top_n_test"],
    }


def _box_values(ours: dict[str, Any], classes: int) -> dict[str, object]:
    if "pool_size" not in ours:
        return {"MODEL.META_ARCHITECTURE": "ProposalNetwork"}
    least = ours["box_score_thresh"]
    values = {
        "MODEL.ROI_HEADS.NUM_CLASSES": classes - 1,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": min(least if isinstance(least, tuple) else (least,)),
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": ours["box_nms_thresh"],
        "MODEL.ROI_BOX_HEAD.FC_DIM": ours["hidden_dim"],
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2" if ours["roi_aligned"] else "ROIAlign",
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": max(ours["roi_sampling_ratio"], 0),
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": ours["bbox_reg_weights"],
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": ours["class_agnostic_bbox"],
        "TEST.DETECTIONS_PER_IMAGE": ours["box_detections_per_img"],
    }
    if "cascade_ious" in ours:
        values |= {
            "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": ours["cascade_ious"],
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": ours["cascade_reg_weights"],
        }
    return values


def _pixels(values: Sequence[float], bgr: bool) -> list[float]:
    """Of channels in 0..1, in the order of RGB -> in 0..255 and detectron2's order."""
    scaled = [round(float(v) * 255, 6) for v in values]
    return scaled[::-1] if bgr else scaled


def _yaml(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value)
