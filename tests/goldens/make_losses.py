"""Writes losses.npz: torchvision's losses and gradients with every anchor and RoI sampled.

Needs torch and torchvision. Usage: python make_losses.py

Two models, two batches of two unequal images each ("both": objects in both, "one": none in the
second). Gradients of all parameters at ``POSITIONS`` places each, in torch's layout, with the norm
of the whole tensor. Torch differs from itself by up to 1 %, with oneDNN off or with pixels moved by
1e-6: rounding turns a few ReLUs the other way. That is kept as ``noise``, relative, one number a
tensor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision_reference import build

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipe import fill_alive

HERE = Path(__file__).parent
NAMES = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
OPTIONS = {
    "min_size": 160,
    "max_size": 260,
    "rpn_batch_size_per_image": 100_000,
    "box_batch_size_per_image": 5000,
    "rpn_positive_fraction": 0.5,
    "box_positive_fraction": 0.5,
    "rpn_pre_nms_top_n_train": 300,
    "rpn_post_nms_top_n_train": 300,
}
PHOTOS = ("deck", "stop")
BOXES = {  # the first is large, the last a pixel wide
    "deck": [
        [20, 30, 300, 200],
        [5.5, 8.25, 60, 90],
        [150, 90, 230, 180],
        [160, 95, 235, 188],
        [250.4, 10.1, 329.9, 70.7],
        [100, 100, 101, 101],
    ],
    "stop": [[10, 12, 170, 150], [60, 160, 120.5, 269], [0, 0, 180, 270]],
}
LABELS = {"deck": [1, 44, 62, 62, 3, 90], "stop": [13, 1, 3]}
POSITIONS = 80


def ellipses(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(G, H, W) uint8: the ellipse that fills each box."""
    y, x = np.mgrid[:height, :width] + 0.5
    x1, y1, x2, y2 = (boxes[:, i, None, None] for i in range(4))
    inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2
    return (inside <= 1).astype(np.uint8)


def targets(photo: str, shape: tuple[int, ...], objects: bool) -> dict[str, np.ndarray]:
    boxes = np.array(BOXES[photo], np.float32)[: None if objects else 0]
    labels = np.array(LABELS[photo], np.int64)[: len(boxes)]
    return {"boxes": boxes, "labels": labels, "masks": ellipses(boxes, *shape[:2])}


def losses_and_gradients(model, images, goals):
    model.zero_grad()
    losses = model(images, [{k: torch.from_numpy(v) for k, v in g.items()} for g in goals])
    sum(losses.values()).backward()
    gradients = {name: p.grad.numpy().copy().ravel() for name, p in model.named_parameters()}
    return {name: loss.item() for name, loss in losses.items()}, gradients


def with_noise(model, images, goals) -> tuple[dict, dict, list[dict]]:
    """Losses, gradients, and those of two runs that differ from it by rounding only."""
    losses, gradients = losses_and_gradients(model, images, goals)
    with torch.backends.mkldnn.flags(enabled=False):
        _, others = losses_and_gradients(model, images, goals)
    _, moved = losses_and_gradients(model, [image * (1 + 1e-6) for image in images], goals)
    return losses, gradients, [others, moved]


def kept(gradient: np.ndarray, runs: list[np.ndarray], where: np.ndarray) -> dict[str, np.ndarray]:
    """What the golden holds of one tensor."""
    noise = max(relative(g[rows], gradient[rows]) for g in runs for rows in (slice(None), where))
    return {"gradient": gradient[where], "of": np.float32([np.linalg.norm(gradient), noise])}


def places(gradients: list[np.ndarray], name: str, rng: np.random.Generator) -> np.ndarray:
    """Half of them where no gradient is zero: most classes occur nowhere."""
    size = gradients[0].size
    if size <= POSITIONS:
        return np.arange(size, dtype=np.int32)
    moved = np.flatnonzero(np.all([g != 0 for g in gradients], axis=0))
    chosen = rng.choice(moved, min(POSITIONS // 2, len(moved)), replace=False)
    anywhere = rng.choice(size, POSITIONS - len(chosen), replace=False)
    return np.unique(np.concatenate([chosen, anywhere])).astype(np.int32)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))


def main() -> None:
    images = [np.array(Image.open(HERE / "images" / f"{name}.jpg")) for name in PHOTOS]
    batch = [torch.from_numpy(i).permute(2, 0, 1).float() / 255 for i in images]
    out: dict[str, np.ndarray] = {}
    found, runs = {}, {}
    for case, objects in (("both", True), ("one", False)):
        goals = [
            targets(photo, image.shape, objects or i == 0)
            for i, (photo, image) in enumerate(zip(PHOTOS, images, strict=True))
        ]
        for i, goal in enumerate(goals):
            out.update({f"{case}/{i}/{name}": value for name, value in goal.items()})
        for name in NAMES:
            model = build(name, weights=fill_alive, **OPTIONS).train()
            for parameter in model.parameters():
                parameter.requires_grad_(True)
            losses, found[case, name], runs[case, name] = with_noise(model, batch, goals)
            print(case, name, losses)
            out.update({f"{case}/{name}/{key}": np.float64(v) for key, v in losses.items()})
    rng = np.random.default_rng(0)
    for key in found["both", NAMES[1]]:
        where = places([g[key] for g in found.values() if key in g], key, rng)
        out[f"where/{key}"] = where
        for (case, name), gradients in found.items():
            if key not in gradients:
                continue
            values = kept(gradients[key], [run[key] for run in runs[case, name]], where)
            out.update({f"{case}/{name}/{part}/{key}": v for part, v in values.items()})
            if values["of"][1] > 1e-3:
                print(case, name, key, values["of"][1])
    np.savez_compressed(HERE / "losses.npz", **out)
    print((HERE / "losses.npz").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
