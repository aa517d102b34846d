"""Writes keypoints.npz: torchvision's Keypoint R-CNN, from heatmaps to losses and gradients.

Needs torch and torchvision. Usage: python make_keypoints.py

``decode/``: heatmaps on RoIs of all sizes, and what ``heatmaps_to_keypoints`` makes of them.
``targets/``: ``keypoints_to_heatmap`` of points inside, outside and on the edges of RoIs.
``found/``: detections of a small network (``build`` below; weights of recipe.py) on three photos.
``both/``, ``one/``, ``hidden/``: losses of two images with everything sampled, as make_losses.py,
with objects in both, in the first only, and with no visible keypoint; gradients of the first.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from make_losses import BOXES, PHOTOS, kept, places, with_noise
from make_losses import OPTIONS as SAMPLE_ALL
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate
from torchvision.models import detection, resnet18
from torchvision.models.detection import keypoint_rcnn, roi_heads
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision_reference import freeze_norms, load_recipe

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipe import fill, fill_alive

HERE = Path(__file__).parent
NAME = "keypointrcnn_resnet50_fpn"
KEYPOINTS, CHANNELS, UNITS = 5, 32, 64
LAYERS = (32, 48, 32)
FEW = {"rpn_pre_nms_top_n_train": 40, "rpn_post_nms_top_n_train": 40}  # no near ties among them
SIZES = {"min_size": 96, "max_size": 160}
ROIS = (  # a fraction of a pixel, whole cells, thin, large, reaching out, of no area
    (3, 4, 3.2, 4.1),
    (0, 0, 1, 1),
    (2, 3, 34, 35),
    (10.5, 7.25, 33.1, 91.9),
    (5, 5, 6.5, 300),
    (0, 0, 400, 2.5),
    (7, 7, 7, 7),
    (-20, -10, 60.5, 44),
    (0.3, 0.2, 199.7, 150.9),
    (100, 50, 128, 78),
    (1, 1, 113, 113),
    (30, 20, 31.01, 21.01),
)


def build(weights=fill, **options) -> nn.Module:
    """A small Keypoint R-CNN with the recipe's weights, in evaluation mode."""
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(resnet18(weights=None), layers, [64, 128, 256, 512], CHANNELS)
    model = detection.KeypointRCNN(
        backbone,
        num_keypoints=None,
        box_head=detection.faster_rcnn.TwoMLPHead(CHANNELS * 49, UNITS),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(UNITS, 2),
        keypoint_head=keypoint_rcnn.KeypointRCNNHeads(CHANNELS, LAYERS),
        keypoint_predictor=keypoint_rcnn.KeypointRCNNPredictor(LAYERS[-1], KEYPOINTS),
        **options,
    )
    freeze_norms(model, 0.0)
    load_recipe(model, weights)
    return model.eval()


def smooth(rng: np.random.Generator, rois: int) -> np.ndarray:
    """(R, K, 32, 32) as the predictor makes them: coarse logits, doubled bilinearly."""
    coarse = torch.from_numpy(4 * rng.standard_normal((rois, KEYPOINTS, 16, 16)).astype(np.float32))
    return interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False).numpy()


def decode(rng: np.random.Generator) -> dict[str, np.ndarray]:
    rois = np.array(ROIS, np.float32)
    maps = np.float16(smooth(rng, len(rois))).astype(np.float32)  # half the size of the file
    maps[1, 0], maps[1, 0, 9, 9], maps[1, 0, 30, 20] = 0, 1, 1  # equal maxima: the first counts
    maps[2, 0], maps[2, 0, 9, 9], maps[2, 0, 30, 4] = 0, 1, 1
    found, scores = roi_heads.heatmaps_to_keypoints(torch.from_numpy(maps), torch.from_numpy(rois))
    return {
        "maps": np.float16(maps.transpose(0, 2, 3, 1)),
        "rois": rois,
        "keypoints": found.numpy(),
        "scores": scores.numpy(),
    }


def target_cells(rng: np.random.Generator) -> dict[str, np.ndarray]:
    rois = np.array([r for r in ROIS if r[2] > r[0]], np.float32)
    share = rng.uniform(-0.2, 1.2, (len(rois), 40, 2)).astype(np.float32)
    share[:, :4] = [[0, 0], [1, 1], [1, 0.5], [0.5, 1]]
    points = rois[:, None, :2] + share * (rois[:, None, 2:] - rois[:, None, :2])
    points[:, 1], points[:, 2, 0], points[:, 3, 1] = rois[:, 2:], rois[:, 2], rois[:, 3]
    visible = rng.integers(0, 3, (len(rois), 40, 1)).astype(np.float32)
    visible[:, :4] = 2
    points = np.concatenate([points, visible], axis=2)
    cells, valid = roi_heads.keypoints_to_heatmap(
        torch.from_numpy(points), torch.from_numpy(rois), 56
    )
    return {"points": points, "rois": rois, "cells": cells.numpy(), "valid": valid.numpy()}


def targets(case: str, photo: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    empty = case == "one" and photo != PHOTOS[0]
    boxes = np.array(BOXES[photo], np.float32)[: 0 if empty else None]
    share = rng.uniform(-0.1, 1.1, (len(boxes), KEYPOINTS, 2)).astype(np.float32)
    points = boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])
    if len(boxes):
        points[:, 0] = boxes[:, 2:]  # on the corner
    visible = rng.integers(0, 3, (len(boxes), KEYPOINTS, 1)).astype(np.float32)
    visible = visible * (case != "hidden")
    keypoints = np.concatenate([points, visible], axis=2)
    return {"boxes": boxes, "labels": np.ones(len(boxes), np.int64), "keypoints": keypoints}


def losses(images: list[torch.Tensor], rng: np.random.Generator) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    model = build(fill_alive, **{**SAMPLE_ALL, **FEW}).train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for case in ("both", "one", "hidden"):
        goals = [targets(case, photo, rng) for photo in PHOTOS]
        for i, goal in enumerate(goals):
            out.update({f"{case}/{i}/{name}": value for name, value in goal.items()})
        found, gradients, runs = with_noise(model, images, goals)
        print(case, found)
        out.update({f"{case}/{key}": np.float64(value) for key, value in found.items()})
        if case != "both":
            continue
        for key, gradient in gradients.items():
            where = places([gradient], key, rng)[::2]  # half of them tell as much
            out[f"where/{key}"] = where
            values = kept(gradient, [run[key] for run in runs], where)
            out.update({f"{part}/{key}": value for part, value in values.items()})
            if values["of"][1] > 1e-3:
                print(key, values["of"][1])
    return out


def detections(images: list[torch.Tensor]) -> dict[str, np.ndarray]:
    out, rois = {}, []
    model = build(**SIZES)
    model.roi_heads.register_forward_hook(  # in pixels of the network input
        lambda _, __, result: rois.extend(found["boxes"].numpy().copy() for found in result[0])
    )
    with torch.no_grad():
        for i, found in enumerate(model(images)):
            print(i, len(found["scores"]), found["scores"][:3].tolist())
            out.update({f"{i}/{key}": value.numpy() for key, value in found.items()})
            out[f"{i}/rois"] = rois[i]
    return out


def write_keys() -> None:
    model = detection.keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    freeze_norms(model, 0.0)
    lines = [f"{k} {'x'.join(map(str, v.shape))}\n" for k, v in model.state_dict().items()]
    (HERE / f"keys_{NAME}.txt").write_text("".join(lines))


def main() -> None:
    torch.set_num_threads(1)
    write_keys()
    rng = np.random.default_rng(5)
    images = [np.array(Image.open(HERE / "images" / f"{n}.jpg")) for n in (*PHOTOS, "dogs")]
    batch = [torch.from_numpy(i).permute(2, 0, 1).float() / 255 for i in images]
    parts = {"decode": decode(rng), "targets": target_cells(rng), "found": detections(batch)}
    out = {f"{part}/{key}": v for part, values in parts.items() for key, v in values.items()}
    out |= losses(batch[:2], rng)
    np.savez_compressed(HERE / "keypoints.npz", **out)
    print((HERE / "keypoints.npz").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
