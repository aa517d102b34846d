"""The cases by this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .. import models, ops
from ..checkpoints.export import export_state
from ..config.backbone import ResNetFPNConfig
from ..inputs.transform import preprocess
from ..models import Detector
from ..training.config import TrainConfig
from ..training.freeze import set_trainable
from ..training.optimizer import make_optimizer
from ..training.step import TrainStep
from .cases import Options
from .inputs import Arrays

Run = Callable[[], object]
Pooling = Callable[[mx.array, mx.array], mx.array]

POOLING: dict[str, Pooling] = {
    "roi_align": lambda features, boxes: ops.roi_align(features, boxes, 7, 1 / 4, 2),
    "roi_pool": lambda features, boxes: ops.roi_pool(features, boxes, 7, 1 / 16),
}
"""By the kind of a case: 7x7 bins of a map."""


def prepare(kind: str, options: Options, data: Arrays, weights: Path) -> Run:
    """A function that does a case once, to its end."""
    arrays = {name: mx.array(value) for name, value in data.items() if name != "image"}
    mx.eval(arrays)
    if kind == "nms":
        return lambda: mx.eval(
            ops.batched_nms(arrays["boxes"], arrays["scores"], arrays["idxs"], 0.7)
        )
    if kind in POOLING:
        return lambda: mx.eval(POOLING[kind](arrays["map"], arrays["boxes"]))
    if kind.removesuffix("_grad") in POOLING:
        return _pooling_gradient(POOLING[kind.removesuffix("_grad")], arrays)
    if kind == "paste":
        size = (int(options["height"]), int(options["width"]))
        return lambda: ops.paste_masks(data["masks"], data["boxes"], size)
    if kind == "preprocess":
        config = models.fasterrcnn_resnet50_fpn().config
        return lambda: mx.eval(preprocess([data["image"]], config).pixels)
    if kind == "train":
        return _training(options, data)
    model = _network(options, data["image"])
    _write(model, weights)  # in torchvision's names, for :mod:`.theirs`
    images = [data["image"]] * int(options["batch"])
    return lambda: model.predict(images)


def _pooling_gradient(pool: Pooling, arrays: dict[str, mx.array]) -> Run:
    features, boxes = arrays["map"], arrays["boxes"]
    cotangent = mx.random.normal((len(boxes), 7, 7, features.shape[-1]))
    mx.eval(cotangent)
    # The outputs are not evaluated, and a gradient computes them where it needs them.
    return lambda: mx.eval(mx.vjp(lambda f: pool(f, boxes), [features], [cotangent])[1])


def _network(options: Options, image: np.ndarray) -> Detector:
    """A network of torchvision's with random weights, its input the image's own size."""
    builder: Callable[..., Detector] = getattr(models, str(options["model"]))
    height, width = int(options["height"]), int(options["width"])
    # The size given is the network's input, but for photos over 2 megapixels, which it shrinks.
    short = min(height, width) if height * width < 2e6 else 800
    model = builder(num_classes=int(options["classes"]), min_size=short, max_size=2 * short)
    _as_trained(model, image)
    mx.eval(model.parameters())
    return model


def _as_trained(model: Detector, image: np.ndarray) -> None:
    """Make random weights confident about some proposals of an image."""
    # As it is made a network finds nothing above the score threshold, and no time goes into what it
    # found. Logits get a spread of 3 over the proposals, and those of the background 7 more.
    model.eval()
    layer: nn.Linear = model.roi_heads.box_predictor.cls_score
    pixels = preprocess([image], model.config).pixels
    logits = model(pixels)[0]
    spread = mx.std(logits, axis=1).mean()
    layer.weight = layer.weight * (3 / mx.maximum(spread, 1e-12)).astype(layer.weight.dtype)
    background = mx.arange(layer.weight.shape[0]) == 0
    centre = mx.mean(logits[0] - layer.bias, axis=0) * 3 / mx.maximum(spread, 1e-12)
    layer.bias = mx.where(background, 7.0, 0.0) - centre


def _write(model: Detector, path: Path) -> None:
    state = export_state(model, "torchvision")
    write: Callable[..., None] = np.savez  # by any names
    write(path, **{name: np.array(value) for name, value in state.items()})


def _training(options: Options, data: Arrays) -> Run:
    """A step of SGD, all images the same."""
    short, batch = int(options["height"]), int(options["batch"])
    if options["model"] == "resnet18":
        body = ResNetFPNConfig(
            depth=18, out_channels=64, norm="group", norm_groups=16, num_classes=0
        )
        model: Detector = models.FasterRCNN(
            body,
            64,
            4,
            use_fpn=True,
            hidden_dim=256,
            dropout=0.0,
            min_size=short,
            max_size=2 * short,
        )
    else:
        model = models.fasterrcnn_resnet50_fpn(min_size=short, max_size=2 * short)
        set_trainable(model, 3)  # the stem and the first stage rest, as is usual
    config = TrainConfig(weight_decay=1e-4, clip=0.0, dtype=str(options["dtype"]))
    step = TrainStep(model, make_optimizer(model, config), config)
    target = {"boxes": data["boxes"], "labels": data["labels"]}
    examples = SimpleNamespace(images=[data["image"]] * batch, targets=[target] * batch)
    return lambda: step([examples], 0, 1e-5)
