"""The same cases by torchvision, the one module that imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models import detection, resnet18
from torchvision.models.detection import transform
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import FrozenBatchNorm2d, batched_nms, roi_align, roi_pool

from .cases import Options
from .inputs import Arrays

Run = Callable[[], object]
Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

POOLING: dict[str, Pooling] = {
    "roi_align": lambda features, boxes: roi_align(features, boxes, 7, 1 / 4, 2),
    "roi_pool": lambda features, boxes: roi_pool(features, boxes, 7, 1 / 16),
}
"""As in :mod:`mlx_rcnn.benchmark.ours`."""
VERSION = f"torch {torch.__version__}, torchvision {torchvision.__version__}"


def device() -> str:
    """The fastest that torch has here: ``"cuda"``, ``"mps"`` or ``"cpu"``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def prepare(kind: str, options: Options, data: Arrays, weights: Path) -> Run:
    """As :func:`mlx_rcnn.benchmark.ours.prepare`; ``weights`` is the file written there."""
    torch.set_grad_enabled(kind == "train" or kind.endswith("_grad"))
    place = device()
    run = _case(kind, options, data, weights, place)

    def to_its_end() -> object:
        result = run()
        if place == "cuda":
            torch.cuda.synchronize()
        elif place == "mps":
            torch.mps.synchronize()
        return result

    return to_its_end


def _case(kind: str, options: Options, data: Arrays, weights: Path, place: str) -> Run:
    arrays = {name: torch.from_numpy(value).to(place) for name, value in data.items()}
    if kind == "nms":
        return lambda: batched_nms(arrays["boxes"], arrays["scores"], arrays["idxs"], 0.7)
    if kind in POOLING:
        features = arrays["map"].permute(0, 3, 1, 2).contiguous()
        return lambda: POOLING[kind](features, arrays["boxes"])
    if kind.removesuffix("_grad") in POOLING:
        return _pooling_gradient(POOLING[kind.removesuffix("_grad")], arrays)
    if kind == "paste":
        size = (int(options["height"]), int(options["width"]))
        return lambda: paste_masks_in_image(arrays["masks"][:, None], arrays["boxes"], size) > 0.5
    image = arrays["image"].permute(2, 0, 1)
    if kind == "preprocess":
        resize = transform.GeneralizedRCNNTransform(
            800, 1333, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        )
        return lambda: resize([image.float() / 255])
    if kind == "train":
        return _training(options, arrays, place)
    return _prediction(options, image, weights, place)


def _pooling_gradient(pool: Pooling, arrays: dict[str, torch.Tensor]) -> Run:
    features = arrays["map"].permute(0, 3, 1, 2).contiguous().requires_grad_()
    out = pool(features, arrays["boxes"])
    cotangent = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, features, cotangent, retain_graph=True)


def _prediction(options: Options, image: torch.Tensor, weights: Path, place: str) -> Run:
    height, width = int(options["height"]), int(options["width"])
    short = min(height, width) if height * width < 2e6 else 800
    builder = getattr(detection, str(options["model"]))
    model = builder(
        weights=None,
        weights_backbone=None,
        num_classes=int(options["classes"]),
        min_size=short,
        max_size=2 * short,
    )
    with np.load(weights) as state:
        model.load_state_dict({k: torch.from_numpy(state[k]) for k in state}, strict=False)
    model = model.eval().to(place)
    batch = int(options["batch"])

    def run() -> object:
        found = model([image.float() / 255] * batch)
        return [{k: (v > 0.5 if k == "masks" else v).cpu() for k, v in r.items()} for r in found]

    return run


def _training(options: Options, arrays: dict[str, torch.Tensor], place: str) -> Run:
    short, batch = int(options["height"]), int(options["batch"])
    if options["model"] == "resnet18":
        model = _small(short)
    else:
        body = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
        )
        model = detection.FasterRCNN(body, 91, min_size=short, max_size=2 * short)
    model = model.train().to(place)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, 1e-5, 0.9, weight_decay=1e-4)
    image = arrays["image"].permute(2, 0, 1).float() / 255
    target = {"boxes": arrays["boxes"], "labels": arrays["labels"]}
    kind = torch.bfloat16 if options["dtype"] == "bfloat16" else None

    def step() -> None:
        with torch.autocast(place, dtype=kind, enabled=kind is not None):
            losses = model([image] * batch, [target] * batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


def _small(short: int) -> detection.FasterRCNN:
    """A Faster R-CNN with a ResNet-18 of group norm."""
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    body = resnet18(weights=None, norm_layer=lambda channels: nn.GroupNorm(16, channels))
    return detection.FasterRCNN(
        BackboneWithFPN(body, layers, [64, 128, 256, 512], 64),
        min_size=short,
        max_size=2 * short,
        box_head=detection.faster_rcnn.TwoMLPHead(64 * 49, 256),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(256, 4),
    )


def peak() -> int | None:
    """Bytes of a GPU that were in use at most; ``None`` on a CPU."""
    place = device()
    if place == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return int(torch.mps.driver_allocated_memory()) if place == "mps" else None
