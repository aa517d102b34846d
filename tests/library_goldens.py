"""Compare a converted detectron2 or mmdetection model with a golden of that library, by stages.

A golden holds samples of large arrays: ``X_pos`` are flat positions in the whole array in torch's
layout, ``X_val`` the values there. Every stage runs on the golden's own input of it where that is
stored whole (the proposals and the detections), else on our output of the stage before, which only
adds to the errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlx_rcnn import FasterRCNN, MaskRCNN
from mlx_rcnn.heads import MaskBranch
from mlx_rcnn.heads.rois import batch_rows
from mlx_rcnn.inputs.transform import preprocess
from mlx_rcnn.ops import paste_masks
from mlx_rcnn.rpn.network import proposal_rule, select_proposals
from mlx_rcnn.structures import Batch
from reference import match_boxes

Golden = Mapping[str, np.ndarray]
LEVELS = ("p2", "p3", "p4", "p5", "p6")
THRESH, MATCH_PX = 0.05, 0.5


class Row(NamedTuple):
    """One measured number against its bound: ``measured`` at most it, or at least if ``least``."""

    stage: str
    measured: float
    bound: float
    least: bool = False

    @property
    def within(self) -> bool:
        """Whether the bound holds (NaN does not)."""
        if self.least:
            return self.measured >= self.bound
        return self.measured <= self.bound


def nchw(x: mx.array) -> np.ndarray:
    """Our channels-last map or RoI features in torch's layout."""
    return np.array(x.astype(mx.float32)).transpose(0, 3, 1, 2)


def background_last(x: np.ndarray, per_class: int = 1) -> np.ndarray:
    """Rows of class scores or deltas in the order of the two libraries."""
    if per_class == 1:
        return np.concatenate([x[:, 1:], x[:, :1]], axis=1)
    return x[:, per_class:]


def sample_error(golden: Golden, name: str, got: np.ndarray) -> float:
    """Greatest difference at the sampled positions; infinite if the shape differs."""
    if got.shape != tuple(golden[f"{name}_shape"]):
        return float("inf")
    return float(np.abs(got.reshape(-1)[golden[f"{name}_pos"]] - golden[f"{name}_val"]).max())


def compare(model: FasterRCNN, golden: Golden, image: np.ndarray) -> list[Row]:
    """All stages of one golden.

    Args:
        model: converted, with the golden's weights.
        golden: its arrays.
        image (H, W, 3): the original image, uint8 RGB.

    Returns:
        One row a check.
    """
    batch = preprocess([image], model.config)
    rows = [Row("resized size differs", float((batch.sizes[0] != golden["resized_hw"]).sum()), 0)]
    rows += input_rows(batch, golden, 1e-3 if model.config.channel_order == "bgr" else 1e-4)
    features = model.features(batch.pixels)
    stages = model.backbone.net.features(batch.pixels)
    rows += [
        Row(name, sample_error(golden, name, nchw(x)), 2e-4)
        for name, x in [
            *zip(("c2", "c3", "c4", "c5"), stages, strict=True),
            *zip(LEVELS, features, strict=True),
        ]
    ]
    rows += rpn_rows(model, features, batch, golden)
    rows += box_rows(model, features, batch, golden)
    found = model.predict(image, **({"masks": "raw"} if isinstance(model, MaskRCNN) else {}))[0]
    rows += detection_rows(found, golden)
    if isinstance(model, MaskRCNN):
        rows += mask_rows(model, features, batch, golden)
        rows += found_mask_rows(found, golden)
    return rows


def input_rows(batch: Batch, golden: Golden, bound: float) -> list[Row]:
    """The network input, sampled and on a grid."""
    pixels = nchw(batch.pixels)
    step = int(golden["net_input_stride"])
    grid = pixels[0, :, ::step, ::step]
    worst = np.inf
    if grid.shape == golden["net_input_strided"].shape:
        worst = float(np.abs(grid - golden["net_input_strided"]).max())
    return [Row("network input", max(worst, sample_error(golden, "net_input", pixels)), bound)]


def rpn_rows(
    model: FasterRCNN, features: list[mx.array], batch: Batch, golden: Golden
) -> list[Row]:
    """RPN outputs and proposals, both with the usual and with a lower cut of each level."""
    config = model.config
    outputs = model.rpn(features, model.anchors(features, model.strides(features, batch)))
    rows = []
    for kind, values, size in (("logits", outputs.logits, 3), ("deltas", outputs.deltas, 12)):
        worst = 0.0
        for level, x, feature in zip(LEVELS, values, features, strict=True):
            grid = nchw(x.reshape(1, *feature.shape[1:3], size))
            worst = max(worst, sample_error(golden, f"rpn_{kind}_{level}", grid))
        rows.append(Row(f"RPN {kind}", worst, 2e-4))
    sizes = mx.array(batch.sizes.astype(np.float32))
    for suffix, most in (("", config.rpn_pre_nms_top_n_test), ("_pre200", 200)):
        rule = proposal_rule(config)._replace(pre_nms_top_n=most)
        proposals = select_proposals(outputs, sizes, rule, 1000)
        ours = np.array(proposals.boxes[0])[np.array(proposals.valid[0])]
        theirs = golden[f"proposal_boxes{suffix}"]
        both = min(match_boxes(theirs, ours, MATCH_PX), match_boxes(ours, theirs, MATCH_PX))
        rows.append(Row(f"proposals{suffix} matched", both, 0.99, least=True))
    return rows


def box_rows(
    model: FasterRCNN, features: list[mx.array], batch: Batch, golden: Golden
) -> list[Row]:
    """RoI features and the box head, on the golden proposals."""
    stage = model.stage(features, model.strides(features, batch))
    rois = batch_rows(mx.array(golden["proposal_boxes"])[None])
    pooled = stage.pool(rois, model.config.pool_size)
    hidden = model.roi_heads.box_head(pooled)
    logits, deltas = (np.array(v) for v in model.roi_heads.box_predictor(hidden))
    logits, deltas = background_last(logits), background_last(deltas, 4)
    checks = (
        ("RoI features", "roi_box_feat", nchw(pooled), 1e-4),
        ("box head", "box_fc", np.array(hidden), 1e-4),
        ("class logits", "cls_logits", logits, 1e-3),
        ("box deltas", "box_deltas", deltas, 5e-4),
    )
    return [
        Row(stage, sample_error(golden, name, got), bound) for stage, name, got, bound in checks
    ]


def pair(found: Mapping[str, np.ndarray], golden: Golden) -> list[tuple[int, int]]:
    """(our row, golden row) of the detections of equal class within half a pixel."""
    pairs, free = [], set(range(len(found["scores"])))
    for row, (box, label) in enumerate(
        zip(golden["det_boxes"], golden["det_classes"], strict=True)
    ):
        near = [
            (float(np.abs(found["boxes"][i] - box).max()), i)
            for i in free
            if found["labels"][i] == label + 1
        ]
        if near and min(near)[0] <= MATCH_PX:
            free.remove(min(near)[1])
            pairs.append((min(near)[1], row))
    return pairs


def detection_rows(found: Mapping[str, np.ndarray], golden: Golden) -> list[Row]:
    """Final detections, matched by class and box."""
    pairs = pair(found, golden)
    ours, theirs = ([p[i] for p in pairs] for i in (0, 1))
    boxes = np.abs(found["boxes"][ours] - golden["det_boxes"][theirs])
    scores = np.abs(found["scores"][ours] - golden["det_scores"][theirs])
    count = len(golden["det_scores"])
    return [
        Row(f"{count} detections, matched", len(pairs) / count, 0.97, least=True),
        Row("detections, difference in number", abs(len(found["scores"]) - count), 2),
        Row("detections, scores", float(scores.max(initial=0)), 2e-3),
        Row("detections, boxes, px", float(boxes.max(initial=0)), MATCH_PX),
    ]


def mask_rows(model: MaskRCNN, features: list[mx.array], batch: Batch, golden: Golden) -> list[Row]:
    """RoI features, probabilities and areas of the masks, on the golden detections."""
    stage = model.stage(features, model.strides(features, batch))
    rois = batch_rows(mx.array(golden["det_boxes_input"])[None])
    pooled = stage.pool(rois, model.config.mask_pool_size)
    labels = mx.array(golden["det_classes"] + 1)
    masks = np.array(mx.sigmoid(MaskBranch().outputs(stage, rois, labels)))
    error = np.abs(masks - golden["mask_probs"].astype(np.float32)).max()
    areas = area_errors(model, masks, golden["det_boxes"], golden)
    return [
        Row("mask RoI features", sample_error(golden, "roi_mask_feat", nchw(pooled)), 1e-4),
        Row("mask probabilities on golden boxes", float(error), 1e-2),
        Row("mask areas on golden boxes, of max(20 px, 1 %)", float(areas.max()), 1),
    ]


def area_errors(
    model: MaskRCNN, masks: np.ndarray, boxes: np.ndarray, golden: Golden
) -> np.ndarray:
    """Differences of pasted areas in units of what is allowed."""
    size = (int(golden["orig_hw"][0]), int(golden["orig_hw"][1]))
    pasted = paste_masks(masks, boxes, size, rule=model.config.mask_paste_rule)
    theirs = golden["mask_areas"]
    return np.abs(np.asarray(pasted).sum(axis=(1, 2)) - theirs) / np.maximum(20, 0.01 * theirs)


def found_mask_rows(found: Mapping[str, np.ndarray], golden: Golden) -> list[Row]:
    """Mask probabilities of the matched detections, end to end."""
    pairs = pair(found, golden)
    theirs = golden["mask_probs"].astype(np.float32)
    worst = max((float(np.abs(found["masks"][i] - theirs[j]).max()) for i, j in pairs), default=0)
    return [Row("mask probabilities of matched detections", worst, 1e-2)]
