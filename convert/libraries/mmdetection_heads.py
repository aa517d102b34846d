"""What an mmdetection config says of its heads: a cascade's stages, losses, suppression."""

from __future__ import annotations

from collections.abc import Mapping

from .mmdetection_values import at, inverse, number, numbers, share

_LOSSES = {"L1Loss": "l1", "SmoothL1Loss": "smooth_l1", "GIoULoss": "giou"}


def head_fields(values: Mapping[str, object]) -> dict[str, object]:
    """Fields of the detector's config that an mmdetection config sets and that were understood."""
    return {**_stages(values), **_losses(values), **_suppression(values)}


def _stages(values: Mapping[str, object]) -> dict[str, object]:
    """What a cascade's stages differ in: their IoUs, coders and weights."""
    heads = at(values, "model.roi_head.bbox_head")
    if not isinstance(heads, list | tuple):
        return {}
    fields: dict[str, object] = {}
    weights = [inverse(at(head, "bbox_coder.target_stds")) for head in heads]
    if all(row is not None for row in weights):
        fields["cascade_reg_weights"] = tuple(weights)
    rules = at(values, "model.train_cfg.rcnn") or at(values, "train_cfg.rcnn")
    if isinstance(rules, list | tuple) and len(rules) == len(heads):
        ious = [share(at(rule, "assigner.pos_iou_thr")) for rule in rules]
        if None not in ious:
            fields["cascade_ious"] = tuple(ious)
    if loss := numbers(at(values, "model.roi_head.stage_loss_weights")):
        fields["cascade_loss_weights"] = loss
    return fields


def _losses(values: Mapping[str, object]) -> dict[str, object]:
    """Of box regression, in the RPN and in the (first) box head."""
    fields: dict[str, object] = {}
    for part, place in (("rpn", "model.rpn_head"), ("box", "model.roi_head.bbox_head")):
        loss = at(values, f"{place}.loss_bbox")
        kind = _LOSSES.get(str(at(loss, "type")))
        if kind is not None:
            fields[f"{part}_reg_loss"] = kind
            if kind == "smooth_l1":
                beta = number(at(loss, "beta"))
                fields[f"{part}_smooth_l1_beta"] = 1.0 if beta is None else beta
    return fields


def _suppression(values: Mapping[str, object]) -> dict[str, object]:
    """Soft-NMS, if the detections are suppressed by it."""
    nms = at(values, "model.test_cfg.rcnn.nms") or at(values, "test_cfg.rcnn.nms")
    if at(nms, "type") != "soft_nms":
        return {}
    method = at(nms, "method") or "linear"
    sigma = number(at(nms, "sigma"))
    fields = {"box_nms_kind": method} if method in ("linear", "gaussian") else {}
    return {**fields, **({"box_nms_sigma": sigma} if sigma else {})}
