"""Losses of mmdetection's cascade, by its rules written again in torch.

    python tests/goldens/make_cascade_losses.py

writes cascade_losses.npz (torch 2.12, torchvision 0.27). Maps, proposals, targets and heads are
random numbers of a seed; every box is sampled, so nothing else is random. Rules, of mmdet 3.3: each
stage assigns at its own IoU (no low quality), takes the targets' boxes as proposals too, and hands
its refined boxes without those to the next one; SmoothL1 (beta 1) and cross-entropy are divided by
the number of boxes, stages weigh 1, 0.5, 0.25; a mask head a stage learns masks cut by an aligned
RoIAlign and binarised at 0.5.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torchvision.ops import box_iou, roi_align

STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
IOUS, WEIGHTS = (0.5, 0.6, 0.7), (1.0, 0.5, 0.25)
CLASSES, CHANNELS, HIDDEN, SIZE = 4, 8, 16, (64, 96)  # classes without the background
CLAMP = abs(math.log(16 / 1000))


def inputs() -> dict[str, np.ndarray]:
    """Numbers of a seed: one map of stride 4, proposals around three targets, layers."""
    random = np.random.default_rng(5)
    boxes = np.array([[8, 10, 40, 44], [50, 6, 90, 30], [30, 36, 70, 62]], np.float32)
    near = np.repeat(boxes, 12, axis=0) + random.normal(0, 4, (36, 4))
    far = random.uniform(0, 50, (12, 4))
    far[:, 2:] += far[:, :2] + 4
    proposals = np.concatenate([near, far])
    proposals = np.clip(proposals, 0, [SIZE[1], SIZE[0]] * 2)
    proposals = proposals[(proposals[:, 2:] > proposals[:, :2] + 1).all(axis=1)]
    masks = random.uniform(size=(3, *SIZE)) > 0.4
    found = {
        "feature": random.normal(size=(1, CHANNELS, SIZE[0] // 4, SIZE[1] // 4)),
        "proposals": proposals,
        "boxes": boxes,
        "labels": np.array([0, 3, 1]),
        "masks": masks,
    }
    flat = CHANNELS * 49
    shapes = {
        "shared_fcs.0": (HIDDEN, flat),
        "shared_fcs.1": (HIDDEN, HIDDEN),
        "fc_cls": (CLASSES + 1, HIDDEN),
        "fc_reg": (4, HIDDEN),
        "convs.0.conv": (CHANNELS, CHANNELS, 3, 3),
        "upsample": (CHANNELS, CHANNELS, 2, 2),
        "conv_logits": (CLASSES, CHANNELS, 1, 1),
    }
    for stage in range(3):
        for name, shape in shapes.items():
            fan = int(np.prod(shape[1:]))
            found[f"{stage}.{name}.weight"] = random.normal(size=shape) / math.sqrt(fan)
            rows = shape[1] if name == "upsample" else shape[0]
            found[f"{stage}.{name}.bias"] = 0.1 * random.normal(size=rows)
    return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in found.items()}


def pooled(t: dict[str, torch.Tensor], boxes: torch.Tensor, size: int) -> torch.Tensor:
    """RoIAlign as mmcv's: aligned, adaptive."""
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1)
    return roi_align(t["feature"], rois, (size, size), 0.25, 0, True)


def encode(boxes: torch.Tensor, targets: torch.Tensor, stds: tuple[float, ...]) -> torch.Tensor:
    """DeltaXYWHBBoxCoder."""
    w, h = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
    gw, gh = (targets[:, 2:] - targets[:, :2]).unbind(1)
    shift = (targets[:, :2] + targets[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    deltas = torch.stack([shift[:, 0] / w, shift[:, 1] / h, (gw / w).log(), (gh / h).log()], 1)
    return deltas / torch.tensor(stds)


def decode(boxes: torch.Tensor, deltas: torch.Tensor, stds: tuple[float, ...]) -> torch.Tensor:
    """Its inverse, clipped to the image."""
    d = deltas * torch.tensor(stds)
    size = boxes[:, 2:] - boxes[:, :2]
    center = (boxes[:, :2] + boxes[:, 2:]) / 2 + d[:, :2] * size
    half = size * d[:, 2:].clamp(-CLAMP, CLAMP).exp() / 2
    moved = torch.cat([center - half, center + half], dim=1)
    most = torch.tensor([SIZE[1], SIZE[0]] * 2, dtype=torch.float32)
    return torch.minimum(moved.clamp(min=0), most)


def box_head(t: dict[str, torch.Tensor], k: int, boxes: torch.Tensor) -> list[torch.Tensor]:
    """Class logits, background last, and deltas."""
    x = pooled(t, boxes, 7).flatten(1)
    for name in ("shared_fcs.0", "shared_fcs.1"):
        x = functional.linear(x, t[f"{k}.{name}.weight"], t[f"{k}.{name}.bias"]).relu()
    return [
        functional.linear(x, t[f"{k}.{n}.weight"], t[f"{k}.{n}.bias"]) for n in ("fc_cls", "fc_reg")
    ]


def mask_loss(
    t: dict[str, torch.Tensor], k: int, boxes: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Of the positives, each matched to a target's row."""
    x = pooled(t, boxes, 14)
    name = f"{k}.convs.0.conv"
    x = functional.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], padding=1).relu()
    x = functional.conv_transpose2d(
        x, t[f"{k}.upsample.weight"], t[f"{k}.upsample.bias"], stride=2
    ).relu()
    x = functional.conv2d(x, t[f"{k}.conv_logits.weight"], t[f"{k}.conv_logits.bias"])
    rois = torch.cat([rows[:, None].float(), boxes], dim=1)
    wanted = roi_align(t["masks"][:, None].float(), rois, (28, 28), 1.0, 0, True)[:, 0] >= 0.5
    own = x[torch.arange(len(x)), t["labels"][rows]]
    return functional.binary_cross_entropy_with_logits(own, wanted.float())


def losses(t: dict[str, torch.Tensor]) -> np.ndarray:
    """(3, 3): classification, regression and masks of each stage, without the stages' weights."""
    boxes, rows = t["proposals"], []
    for k in range(3):
        candidates = torch.cat([t["boxes"], boxes])  # mmdet puts the targets first
        iou, row = box_iou(candidates, t["boxes"]).max(dim=1)
        positive = iou >= IOUS[k]
        logits, deltas = box_head(t, k, candidates)
        labels = torch.where(positive, t["labels"][row], CLASSES)
        wanted = encode(candidates[positive], t["boxes"][row[positive]], STDS[k])
        regression = functional.smooth_l1_loss(deltas[positive], wanted, reduction="sum") / len(
            candidates
        )
        masks = mask_loss(t, k, candidates[positive], row[positive])
        classification = functional.cross_entropy(logits, labels)
        rows.append([v.item() for v in (classification, regression, masks)])
        boxes = decode(candidates, deltas, STDS[k])[len(t["boxes"]) :].detach()
    return np.array(rows)


if __name__ == "__main__":
    arrays = inputs()
    found = losses({k: torch.from_numpy(v) for k, v in arrays.items()})
    print(found)
    path = Path(__file__).with_name("cascade_losses.npz")
    np.savez_compressed(path, losses=found, **arrays)
