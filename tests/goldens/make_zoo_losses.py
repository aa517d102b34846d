"""Write zoo_losses.npz: torchvision's losses and gradients of its v2 and MobileNetV3 models.

As make_losses.py, on its first batch, with every anchor and RoI sampled. "eval": norms use their
running statistics; "train": batch norms use the batch's, as after ``model.train()``. Kept are the
losses; the gradients of a few tensors of each part, with their norms and torch's own noise (with
oneDNN off, and with the input moved by 1e-6); and what running statistics became. Needs torch and
torchvision. Usage: python make_zoo_losses.py
"""

from __future__ import annotations

from pathlib import Path

import make_losses as losses
import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision_reference import build

HERE = Path(__file__).parent
CASES = (
    ("fasterrcnn_mobilenet_v3_large_fpn", "eval"),
    ("fasterrcnn_mobilenet_v3_large_fpn", "train"),
    ("maskrcnn_resnet50_fpn_v2", "train"),
)
KEYS = {
    "fasterrcnn_mobilenet_v3_large_fpn": (
        "backbone.body.0.0.weight",
        "backbone.body.4.block.1.0.weight",
        "backbone.body.13.block.2.fc1.weight",
        "backbone.body.16.0.weight",
        "backbone.body.16.1.weight",
        "backbone.fpn.inner_blocks.1.0.weight",
        "rpn.head.cls_logits.weight",
        "roi_heads.box_head.fc6.weight",
        "roi_heads.box_predictor.bbox_pred.weight",
    ),
    "maskrcnn_resnet50_fpn_v2": (
        "backbone.body.conv1.weight",
        "backbone.body.layer4.2.bn3.weight",
        "backbone.fpn.inner_blocks.1.0.weight",
        "backbone.fpn.layer_blocks.0.1.weight",
        "rpn.head.conv.1.0.weight",
        "rpn.head.bbox_pred.weight",
        "roi_heads.box_head.0.0.weight",
        "roi_heads.box_head.3.1.bias",
        "roi_heads.box_head.5.weight",
        "roi_heads.mask_head.0.0.weight",
        "roi_heads.mask_head.3.1.weight",
        "roi_heads.mask_predictor.mask_fcn_logits.weight",
    ),
}
STATISTICS = (
    "backbone.body.16.1.running_var",
    "backbone.body.4.block.1.1.running_mean",
    "backbone.body.layer4.2.bn3.running_var",
    "backbone.fpn.layer_blocks.3.1.running_mean",
    "roi_heads.box_head.3.1.running_var",
    "roi_heads.mask_head.3.1.running_var",
)


def set_up(name: str, mode: str) -> nn.Module:
    model = build(name, frozen=mode == "eval", **losses.OPTIONS).train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d) and mode == "eval":
            part.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def main() -> None:
    torch.set_num_threads(1)
    images = [np.array(Image.open(HERE / "images" / f"{name}.jpg")) for name in losses.PHOTOS]
    batch = [torch.from_numpy(i).permute(2, 0, 1).float() / 255 for i in images]
    goals = [losses.targets(n, i.shape, True) for n, i in zip(losses.PHOTOS, images, strict=True)]
    out: dict[str, np.ndarray] = {}
    for name, mode in CASES:
        model = set_up(name, mode)
        found, gradients = losses.losses_and_gradients(model, batch, goals)
        print(name, mode, found)
        out |= {f"{name}/{mode}/{key}": np.float64(value) for key, value in found.items()}
        state = model.state_dict()
        for key in STATISTICS if mode == "train" else ():
            if key in state:
                out[f"{name}/{mode}/{key}"] = state[key].numpy().copy()
        with torch.backends.mkldnn.flags(enabled=False):
            _, others = losses.losses_and_gradients(set_up(name, mode), batch, goals)
        moved = [b * (1 + 1e-6) for b in batch]
        _, thirds = losses.losses_and_gradients(set_up(name, mode), moved, goals)
        rng = np.random.default_rng(0)
        for key in KEYS[name]:
            if key not in gradients:
                continue
            gradient = gradients[key]
            where = losses.places([gradient], key, rng)
            noise = max(
                losses.relative(g[key][rows], gradient[rows])
                for g in (others, thirds)
                for rows in (slice(None), where)
            )
            print(f"  {key} noise {noise:.1e}")
            prefix = f"{name}/{mode}/gradient/{key}"
            out |= {prefix: gradient[where], f"{prefix}/where": where}
            out[f"{prefix}/of"] = np.float32([np.linalg.norm(gradient), noise])
    np.savez_compressed(HERE / "zoo_losses.npz", **out)
    print((HERE / "zoo_losses.npz").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
