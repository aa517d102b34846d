"""Compare a converted cascade with a golden of detectron2 or mmdetection, stage by stage.

A box stage is run on the golden's own boxes of it. See ``library_goldens`` for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from library_goldens import (
    Golden,
    Row,
    area_errors,
    background_last,
    detection_rows,
    found_mask_rows,
    nchw,
    sample_error,
)
from mlx_rcnn.heads.cascade import average_scores, refine_boxes
from mlx_rcnn.heads.rois import batch_rows
from mlx_rcnn.inputs.transform import preprocess
from mlx_rcnn.structures import Proposals
from reference import match_boxes


def compare_cascade(model: Any, golden: Golden, image: np.ndarray) -> list[Row]:
    """All stages of one golden.

    Args:
        model: converted, with the golden's weights.
        golden: its arrays.
        image (H, W, 3): the original image, uint8 RGB.

    Returns:
        One row a check.
    """
    batch = preprocess([image], model.config)
    features = model.features(batch.pixels)
    strides = model.strides(features, batch)
    found = model.propose(features, batch, strides)
    ours = np.array(found.boxes[0])[np.array(found.valid[0])]
    theirs = golden["proposal_boxes"]
    both = min(match_boxes(theirs, ours, 0.5), match_boxes(ours, theirs, 0.5))
    rows = [Row("proposals matched", both, 0.99, least=True)]
    stage = model.stage(features, strides)
    rows += stage_rows(model, stage, mx.array(batch.sizes).astype(mx.float32), golden)
    masked = model.needs_masks
    found = model.predict(image, **({"masks": "raw"} if masked else {}))[0]
    rows += detection_rows(found, golden)
    if masked:
        rows += mask_rows(model, stage, golden) + found_mask_rows(found, golden)
    return rows


def as_proposals(boxes: np.ndarray) -> Proposals:
    """Boxes (P, 4) of one image, all valid."""
    count = len(boxes)
    return Proposals(
        mx.array(boxes)[None], mx.ones((1, count)), mx.ones((1, count)) > 0, mx.array(True)
    )


def stage_rows(model: Any, stage: Any, sizes: mx.array, golden: Golden) -> list[Row]:
    """Features, outputs and refined boxes of each box head, and the average of the scores."""
    rows, each = [], []
    for k, rule in enumerate(model.config.box_stages):
        boxes = as_proposals(golden[f"stage{k}_boxes_in"])
        logits, deltas = model.box_outputs(stage.of(k), boxes)
        each.append(logits)
        wanted = golden[f"stage{k}_logits_first200"]
        scores = background_last(np.array(logits[0]))[: len(wanted)]
        pooled = nchw(stage.pool(batch_rows(boxes.boxes), model.config.pool_size))
        key = f"stage{k}_{'weights' if f'stage{k}_weights' in golden else 'stds'}"
        weights = golden[key] if key.endswith("weights") else 1 / golden[key]
        kept = golden[f"stage{k}_deltas"]
        if f"stage{k}_roi_feat_pos" in golden:
            error = sample_error(golden, f"stage{k}_roi_feat", pooled)
            rows.append(Row(f"stage {k}: RoI features", error, 1e-4))
        rows += [
            Row(f"stage {k}: weights", float(np.abs(weights - rule.reg_weights).max()), 1e-4),
            Row(f"stage {k}: class logits", float(np.abs(scores - wanted).max()), 1e-3),
            Row(f"stage {k}: box deltas", float(np.abs(np.array(deltas[0]) - kept).max()), 5e-4),
        ]
        if f"stage{k + 1}_boxes_in" in golden:
            clamp = model.config.bbox_clamp_both
            given = mx.array(kept)[None]
            moved = refine_boxes(boxes, logits, given, sizes, rule, clamp).boxes[0]
            error = np.abs(np.array(moved) - golden[f"stage{k + 1}_boxes_in"]).max()
            rows.append(Row(f"stage {k}: refined boxes, px", float(error), 5e-3))
    mean = background_last(np.array(average_scores(each, model.config.cascade_scores)[0]))
    if "scores_averaged_first200" in golden:
        mean = np.array(mx.softmax(mx.array(mean), axis=-1))
        wanted, bound = golden["scores_averaged_first200"], 1e-4
    else:
        wanted, bound = golden["logits_averaged_first200"], 1e-3
    error = float(np.abs(mean[: len(wanted)] - wanted).max())
    return [*rows, Row("average over the stages", error, bound)]


def mask_rows(model: Any, stage: Any, golden: Golden) -> list[Row]:
    """Probabilities and areas of the masks, on the golden detections."""
    rois = batch_rows(mx.array(golden["det_boxes_input"])[None])
    labels = mx.array(golden["det_classes"] + 1)
    masks = np.array(model.branches[0].raw(stage, rois, labels))
    error = np.abs(masks - golden["mask_probs"].astype(np.float32)).max()
    areas = area_errors(model, masks, golden["det_boxes"], golden)
    return [
        Row("mask probabilities on golden boxes", float(error), 1e-2),
        Row("mask areas on golden boxes, of max(20 px, 1 %)", float(areas.max()), 1),
    ]


def targets_of(golden: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The targets of a golden with losses, in pixels of the resized image it was trained on."""
    boxes, size = golden["gt_boxes"], golden["resized_hw"].tolist()
    masks = np.unpackbits(golden["gt_masks_packed"], axis=-1)[..., : size[1]]
    return {"boxes": boxes, "labels": golden["gt_classes"] + 1, "masks": masks}
