"""A detector small enough to train in a test, and a run of it that a test can kill.

    python tests/tiny.py FOLDER [resume]

trains it; the tests of mlx_rcnn.training start this as a process of its own.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_rcnn import FasterRCNN, KeypointRCNN, MaskRCNN, ResNetFPNConfig
from mlx_rcnn.data import Loader, ShapesDataset, TrainBatch
from mlx_rcnn.training import TrainConfig
from mlx_rcnn.training.optimizer import optimizer_arrays
from mlx_rcnn.training.step import TrainStep
from mlx_rcnn.training.trainer import Summary, fit

SIZE = (64, 80)
CONFIG = TrainConfig(epochs=2, batch_size=2, warmup=2, workers=1, checkpoint_steps=1)


def build(kind: str = "faster_rcnn", norm: str = "group", classes: int = 4, **options):
    """ResNet-18 of width 8 with 8-channel maps, untrained, the same each time."""
    mx.random.seed(3)
    backbone = ResNetFPNConfig(
        depth=18, width=8, out_channels=8, norm=norm, norm_groups=4, num_classes=0
    )
    detector = {
        "use_fpn": True,
        "hidden_dim": 8,
        "dropout": 0.1,
        "min_size": 64,
        "max_size": 96,
        "rpn_pre_nms_top_n_train": 100,
        "rpn_post_nms_top_n_train": 50,
        "rpn_pre_nms_top_n_test": 100,
        "rpn_post_nms_top_n_test": 20,
        "box_batch_size_per_image": 32,
        "rpn_batch_size_per_image": 64,
    }
    if kind == "mask_rcnn":
        detector |= {"mask_hidden_channels": 8, "mask_num_convs": 1}
    if kind == "keypoint_rcnn":
        detector |= {"num_keypoints": 5, "keypoint_layers": (8,)}
    kinds = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN, "keypoint_rcnn": KeypointRCNN}
    return kinds[kind](backbone, 8, classes, **{**detector, **options})


def shapes(count: int = 6, seed: int = 0, keypoints: bool = False) -> ShapesDataset:
    """Circles, squares and triangles with masks, and perhaps keypoints."""
    return ShapesDataset(count, SIZE, seed=seed, keypoints=keypoints)


def batches(size: int, count: int = 1) -> list[TrainBatch]:
    """The first batches of the shapes, the same each time."""
    loader = Loader(shapes(), size, seed=1, workers=0, shuffle=False)
    return list(loader.epoch(0))[:count]


def arrays(take: TrainStep) -> dict[str, np.ndarray]:
    """All that a step changes."""
    found = dict(tree_flatten(take.model.parameters()))
    found |= optimizer_arrays(take.optimizer)
    found |= {f"average.{k}": v for k, v in take.average.items()}
    return {name: np.array(value) for name, value in found.items()}


def poison(model, images) -> None:
    """Have the loss be NaN whenever these images are learned from."""
    get_loss = model.get_loss

    def poisoned(given, targets, **options):
        losses = get_loss(given, targets, **options)
        return {k: v * math.nan for k, v in losses.items()} if given is images else losses

    object.__setattr__(model, "get_loss", poisoned)


def score(model, dataset) -> dict[str, float]:
    """Stands in for an evaluation."""
    [found] = model.predict(dataset[0].image)
    return {"AP": float(len(found["scores"])) / 100}


def train(
    folder: Path, config: TrainConfig = CONFIG, kind: str = "faster_rcnn", **options
) -> Summary:
    """A whole run, in a second or two."""
    data = [shapes(count, seed, kind == "keypoint_rcnn") for count, seed in ((6, 0), (2, 1))]
    return fit(build(kind), *data, config, folder, evaluate=score, **options)


if __name__ == "__main__":
    done = train(
        Path(sys.argv[1]),
        TrainConfig(epochs=40, workers=1, warmup=2, checkpoint_steps=1),
        resume="resume" in sys.argv,
    )
    sys.exit(130 if done.interrupted else 0)
