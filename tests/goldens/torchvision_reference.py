"""What torchvision computes, stage by stage, with the weights of recipe.py. Needs torch.

Used by make_torchvision.py, which writes the committed goldens, and by benchmarks/parity.py, which
compares live. All arrays come out channels last, as the package has them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops.misc import FrozenBatchNorm2d

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipe import fill

# The epsilon of the published files' FrozenBatchNorm2d; None: they hold BatchNorm2d.
EPSILONS = {
    "fasterrcnn_resnet50_fpn": 0.0,
    "maskrcnn_resnet50_fpn": 0.0,
    "keypointrcnn_resnet50_fpn": 0.0,
    "fasterrcnn_resnet50_fpn_v2": None,
    "maskrcnn_resnet50_fpn_v2": None,
    "fasterrcnn_mobilenet_v3_large_fpn": 1e-5,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 1e-5,
}


def freeze_norms(module: nn.Module, eps: float) -> None:
    """FrozenBatchNorm2d in place of every BatchNorm2d."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps=eps))
        else:
            freeze_norms(child, eps)


def build(name: str, frozen: bool = True, weights=fill, **options) -> nn.Module:
    """A torchvision model with the recipe's weights, in evaluation mode.

    With ``frozen=False`` all norms stay BatchNorm2d, as a model trained from scratch has them.
    ``weights``: which of recipe.py's.
    """
    model = getattr(detection, name)(weights=None, weights_backbone=None, **options)
    if frozen and EPSILONS[name] is not None:
        freeze_norms(model, EPSILONS[name])
    load_recipe(model, weights)
    return model.eval()


def load_recipe(model: nn.Module, weights=fill) -> None:
    state = model.state_dict()
    filled = {k: torch.from_numpy(weights(k, tuple(v.shape))) for k, v in state.items()}
    model.load_state_dict(filled)


def last(x: torch.Tensor) -> np.ndarray:
    """NCHW -> NHWC."""
    return x.permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def run(model: nn.Module, images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Every stage of one batch of (H, W, 3) uint8 images."""
    out: dict[str, np.ndarray] = {}
    batch = [torch.from_numpy(np.array(i)).permute(2, 0, 1).float() / 255 for i in images]
    inputs, _ = model.transform(batch)
    out["input"] = last(inputs.tensors)
    features = model.backbone(inputs.tensors)
    for level, feature in enumerate(features.values()):
        out[f"p{level + 2}"] = last(feature)
    logits, deltas = model.rpn.head(list(features.values()))
    for level, (logit, delta) in enumerate(zip(logits, deltas, strict=True)):
        n = logit.shape[0]
        out[f"rpn_logits_p{level + 2}"] = last(logit).reshape(n, -1)
        out[f"rpn_deltas_p{level + 2}"] = last(delta).reshape(n, -1, 4)
    proposals, _ = model.rpn(inputs, features)
    heads, sizes = model.roi_heads, inputs.image_sizes
    pooled = heads.box_roi_pool(features, proposals, sizes)
    class_logits, box_deltas = heads.box_predictor(heads.box_head(pooled))
    out["roi_features"] = last(pooled)
    out["cls_logits"], out["bbox_deltas"] = class_logits.numpy(), box_deltas.numpy()
    for i, boxes in enumerate(proposals):
        out[f"proposals_{i}"] = boxes.numpy()
    for i, found in enumerate(model(batch)):
        for key in ("boxes", "scores", "labels", "keypoints", "keypoints_scores"):
            if key in found:
                out[f"{key}_{i}"] = found[key].numpy()
        if "masks" in found:
            out[f"masks_{i}"] = (found["masks"][:, 0] > 0.5).numpy()
    if "masks_0" in out:  # the raw probabilities, before they are pasted
        detections, _ = heads(features, proposals, sizes)
        for i, found in enumerate(detections):
            out[f"mask_probs_{i}"] = found["masks"][:, 0].numpy()
    return out
