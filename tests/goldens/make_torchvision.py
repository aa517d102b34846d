"""Write keys_*.txt and torchvision_*.npz: what torchvision computes with the weights of recipe.py.

Needs torch and torchvision; the tests need only the files. Made with torch 2.12.0 (x86-64, AVX2)
and torchvision 0.27.0:

    python tests/goldens/make_torchvision.py

Of the stages' large arrays only a sample is kept: `<stage>` are the values at the flat positions
`<stage>_at` of an array of shape `<stage>_shape`. Proposals, detections and the areas of pasted
masks are whole; `mask_probs_<i>` are the first few of image i. Both networks have the same weights
up to the mask branch, so Mask R-CNN's values stand for both, which is checked here.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import torch
import torchvision_reference as reference
from PIL import Image
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

HERE = Path(__file__).parent
SIZES = {"min_size": 192, "max_size": 336}
PHOTOS = ("deck.jpg", "stop.jpg", "dogs.jpg")
ODD = ((1, 1), (4000, 30), (30, 4000), (97, 61))  # height, width of uniform noise
MASKS = 6  # probabilities kept an image
SAMPLE = 1000
WHOLE = ("proposals_", "boxes_", "scores_", "labels_")
ODD_STAGES = ("input", "roi_features", "cls_logits")  # the samples kept of odd sizes


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Uniform noise, uint8; the tests make the same."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return pixels.astype(np.uint8)


def packed(
    stages: dict[str, np.ndarray], sampled: tuple[str, ...] | None = None
) -> dict[str, np.ndarray]:
    """What is kept of the output of reference.run; ``sampled`` are the stages, all by default."""
    out: dict[str, np.ndarray] = {}
    for name, value in stages.items():
        if name.startswith("masks_"):
            out[f"areas_{name[6:]}"] = value.sum(axis=(1, 2)).astype(np.int32)
        elif name.startswith("mask_probs_"):
            out[name] = value[:MASKS]
        elif name.startswith("labels_"):
            out[name] = value.astype(np.int32)
        elif name.startswith(WHOLE):
            out[name] = value
        elif sampled is None or name in sampled:
            random = np.random.default_rng(zlib.crc32(name.encode()))
            at = np.sort(random.choice(value.size, min(value.size, SAMPLE), replace=False))
            out[name], out[f"{name}_at"] = value.reshape(-1)[at], at.astype(np.int32)
            out[f"{name}_shape"] = np.array(value.shape, np.int32)
    return out


def run(model: nn.Module, images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The stages of one batch, as if it were the model's first.

    Torchvision infers the scales of RoI pooling from the first batch it sees and keeps them.
    """
    for part in model.modules():
        if isinstance(part, MultiScaleRoIAlign):
            part.scales = part.map_levels = None
    return reference.run(model, images)


def resized_sizes() -> np.ndarray:
    """Rows of (height, width, resized height, resized width) at the published 800 and 1333."""
    random = np.random.default_rng(0)
    rows = []
    for h, w in np.exp(random.uniform(math.log(40), math.log(3000), (300, 2))).astype(int).tolist():
        scale = min(800 / min(h, w), 1333 / max(h, w))
        thin = torch.nn.functional.interpolate(  # as in GeneralizedRCNNTransform
            torch.zeros(1, 1, h, w),
            scale_factor=scale,
            mode="bilinear",
            recompute_scale_factor=True,
            align_corners=False,
        )
        rows.append((h, w, *thin.shape[2:]))
    return np.array(rows, np.int32)


def write_keys() -> None:
    for name in ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"):
        model = reference.build(name)
        lines = [f"{k} {'x'.join(map(str, v.shape))}\n" for k, v in model.state_dict().items()]
        (HERE / f"keys_{name}.txt").write_text("".join(lines))


def main() -> None:
    write_keys()
    torch.set_num_threads(2)
    mask = reference.build("maskrcnn_resnet50_fpn", **SIZES)
    faster = reference.build("fasterrcnn_resnet50_fpn", **SIZES)
    photos = [np.array(Image.open(HERE / "images" / name)) for name in PHOTOS]
    for case, images in (("one", photos[:1]), ("three", photos)):
        stages = run(mask, images)
        for name, value in run(faster, images).items():
            np.testing.assert_array_equal(value, stages[name], err_msg=name)
        np.savez_compressed(HERE / f"torchvision_{case}.npz", **packed(stages))
    odd: dict[str, np.ndarray] = {"resized_sizes": resized_sizes()}
    for seed, (height, width) in enumerate(ODD):
        stages = run(mask, [noise(seed, height, width)])
        values = packed(stages, ODD_STAGES)
        odd |= {f"{height}x{width}_{name}": value for name, value in values.items()}
    np.savez_compressed(HERE / "torchvision_odd.npz", **odd)


if __name__ == "__main__":
    main()
