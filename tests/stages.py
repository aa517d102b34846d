"""A model's stages, and their checks against the goldens of make_torchvision.py and make_zoo.py.

Torchvision's own inputs of a stage are too large to commit, except proposals: every other stage
runs on our output of the one before it, which only adds to the errors.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_rcnn import FasterRCNN
from mlx_rcnn.inputs.transform import preprocess
from mlx_rcnn.ops import paste_masks
from reference import match_boxes, match_detections

LEVELS = ("p2", "p3", "p4", "p5", "p6")
BOUNDS = {
    "input": 1e-4,
    **dict.fromkeys(LEVELS, 2e-4),
    **{f"rpn_{kind}_{level}": 2e-4 for kind in ("logits", "deltas") for level in LEVELS},
    "roi_features": 1e-4,
    "cls_logits": 1e-3,
    "bbox_deltas": 5e-4,
}
Stages = dict[str, np.ndarray]


def run(model: FasterRCNN, images: list[np.ndarray], want: Stages) -> Stages:
    """The stages of our own model; RoIs are pooled from torchvision's proposals."""
    batch = preprocess(images, model.config)
    features = model.features(batch.pixels)
    logits, deltas = model.rpn.head(features)
    out = {"input": batch.pixels, **dict(zip(LEVELS, features, strict=False))}
    out |= {f"rpn_logits_{p}": v for p, v in zip(LEVELS, logits, strict=False)}
    out |= {f"rpn_deltas_{p}": v for p, v in zip(LEVELS, deltas, strict=False)}
    strides = model.strides(features, batch)
    proposals = model.propose(features, batch, strides)
    theirs = [np.insert(want[f"proposals_{i}"], 0, i, axis=1) for i in range(len(images))]
    rois = mx.array(np.concatenate(theirs))
    pooled = model.stage(features, strides).pool(rois, (7, 7))
    scores, moves = model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))
    out |= {"roi_features": pooled, "cls_logits": scores, "bbox_deltas": moves}
    stages = {name: np.array(value) for name, value in out.items()}
    for i, (boxes, valid) in enumerate(zip(proposals.boxes, proposals.valid, strict=True)):
        stages[f"proposals_{i}"] = np.array(boxes)[np.array(valid)]
    return stages


def check_sample(got: np.ndarray, want: Stages, stage: str) -> None:
    assert got.shape == tuple(want[f"{stage}_shape"])
    error = np.abs(got.reshape(-1)[want[f"{stage}_at"]] - want[stage]).max()
    assert error <= BOUNDS[stage]


def check_proposals(got: Stages, want: Stages, image: int) -> None:
    ours, theirs = got[f"proposals_{image}"], want[f"proposals_{image}"]
    assert match_boxes(theirs, ours, 0.5) >= 0.99
    assert match_boxes(ours, theirs, 0.5) >= 0.99


def check_detections(
    found: dict[str, np.ndarray], want: Stages, image: int, size, score_thresh: float = 0.05
) -> None:
    """Detections of one image with raw masks, if any, against the golden ones."""
    expected = {key: want[f"{key}_{image}"] for key in ("boxes", "scores", "labels")}
    if "masks" in found:
        expected["masks"] = want[f"areas_{image}"][:, None]  # whose sum is the area
        found = {**found, "masks": paste_masks(found["masks"], found["boxes"], size)}
    result = match_detections(expected, found, score_thresh, 100)
    assert result["share"] >= 0.97
    assert result["score_error"] <= 2e-3
    assert result["box_error"] <= 0.5
    assert result["area_error"] <= 1.0


def check_masks(found: dict[str, np.ndarray], want: Stages, image: int) -> None:
    """The golden probabilities, matched by class and box; one may lack a detection."""
    missing = 0
    for row, theirs in enumerate(want[f"mask_probs_{image}"]):
        box, label = want[f"boxes_{image}"][row], want[f"labels_{image}"][row]
        distance = np.abs(found["boxes"] - box).max(axis=1, initial=0)
        near = np.flatnonzero((found["labels"] == label) & (distance <= 0.5))
        if len(near) == 0:
            missing += 1
            continue
        errors = [np.abs(found["masks"][j] - theirs).max() for j in near]
        assert min(errors) <= 1e-2
    assert missing <= 1
