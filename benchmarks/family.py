"""Cost of the family's members beside Faster R-CNN's, and the memory of an R-CNN's crops.

    LD_PRELOAD=$(make -s openblas) python benchmarks/family.py [--rounds 5] [--crops 2000]

Cascade R-CNN, Mask R-CNN and Fast R-CNN (on the 1000 boxes that Faster R-CNN proposes) take turns
with Faster R-CNN over the same ResNet-50 with a pyramid, random weights and image of 800x1088. The
R-CNN is AlexNet's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

import mlx_rcnn
from mlx_rcnn import (
    cascade_mask_rcnn_resnet_50_fpn,
    cascade_rcnn_resnet_50_fpn,
    fast_rcnn_resnet_50_fpn,
    faster_rcnn_resnet_50_fpn,
    mask_rcnn_resnet_50_fpn,
    rcnn_alexnet,
)

SIZE = (800, 1088)


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def compare(rounds: int) -> None:
    """Each member and Faster R-CNN, in turns: the median of the ratios."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    mx.random.seed(0)
    given = {"norm": "frozen", "dropout": 0.0}
    faster = faster_rcnn_resnet_50_fpn(91, 0, **given)
    proposals = np.random.default_rng(1).uniform(0, 1, (1000, 2, 2)) * (SIZE[1] - 20, SIZE[0] - 20)
    boxes = np.concatenate([proposals.min(axis=1), proposals.max(axis=1) + 8], axis=1)
    members = {
        "Cascade R-CNN": lambda: cascade_rcnn_resnet_50_fpn(91, 0, **given),
        "Mask R-CNN": lambda: mask_rcnn_resnet_50_fpn(91, 0, **given),
        "Cascade Mask R-CNN": lambda: cascade_mask_rcnn_resnet_50_fpn(91, 0, **given),
        "Fast R-CNN, 1000 boxes": lambda: fast_rcnn_resnet_50_fpn(91, 0, **given),
    }
    print(f"{'predict, R50-FPN, 800x1088':28} {'s':>7} {'Faster s':>9} {'of Faster':>10}")
    for name, build in members.items():
        model = build()
        more = (boxes,) if model.needs_proposals else ()
        pairs = []
        for turn in range(rounds + 1):
            pair = (
                seconds(lambda: model.predict(image, *more)),  # noqa: B023
                seconds(lambda: faster.predict(image)),
            )
            if turn:  # the first warms up
                pairs.append(pair)
        best = [min(column) for column in zip(*pairs, strict=True)]
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name:28} {best[0]:7.2f} {best[1]:9.2f} {ratio:10.2f}", flush=True)


def crops(count: int) -> None:
    """Peak memory above the weights, and time, of an R-CNN over so many boxes."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    model = rcnn_alexnet(21)
    mx.eval(model.parameters())
    corners = np.random.default_rng(1).uniform(0, 1, (count, 2, 2)) * (SIZE[1] - 20, SIZE[0] - 20)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 8], axis=1)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    took = seconds(lambda: model.predict(image, boxes))
    above = (mx.get_peak_memory() - before) / 1e6
    print(f"R-CNN, AlexNet, {count} crops: {took:.1f} s, {above:.0f} MB above the weights")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crops", type=int, default=2000)
    args = parser.parse_args()
    mlx_rcnn.reuse_large_blocks()
    compare(args.rounds)
    crops(args.crops)
