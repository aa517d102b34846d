"""What is timed: each case by its kind and the options of that kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Options = Mapping[str, int | float | str]

FULL = (800, 1088)  # of a photo of 3 x 4, its short side 800
COCO = 91  # classes, the background with them

# What others have published of the same work, and on what: the decision records 003, 004 and 006 of
# mayaku, a detection package for torch; 50 steps of a batch of 2 took 170 s.
FASTER_M1 = "171 ms, M1 Max, torch 2.11 on MPS"
TRAIN_M1 = "3400 ms, M1 Max, torch 2.11 on MPS"


class Case(NamedTuple):
    """One row of the table."""

    title: str  # says what is timed
    kind: str  # names the functions of :mod:`.ours` and :mod:`.theirs` that do it
    options: Options  # what these are told
    published: str = ""  # the figure of another machine, and which


def _predict(title: str, model: str, batch: int = 1, published: str = "") -> Case:
    height, width = FULL
    options: Options = {
        "model": model,
        "height": height,
        "width": width,
        "batch": batch,
        "classes": COCO,
    }
    return Case(title, "predict", options, published)


def _train(dtype: str, published: str = "") -> Case:
    title = f"training step, R50-FPN, 2 x 800x1333, {dtype}"
    options: Options = {
        "model": "fasterrcnn_resnet50_fpn",
        "height": 800,
        "width": 1333,
        "batch": 2,
        "dtype": dtype,
    }
    return Case(title, "train", options, published)


_POOL: Options = {"boxes": 1000, "height": 50, "width": 68, "channels": 512}
_ALIGN: Options = {"boxes": 1000, "height": 200, "width": 272, "channels": 256}

CASES: dict[str, Case] = {
    "nms-1k": Case("nms, 1000 boxes", "nms", {"lists": 1, "boxes": 1000}),
    "nms-5x1k": Case("batched_nms, 5 x 1000 boxes", "nms", {"lists": 5, "boxes": 1000}),
    "nms-20k": Case("nms, 20,000 boxes", "nms", {"lists": 1, "boxes": 20_000}),
    "roi-align": Case("roi_align, 1000 boxes of 200x272x256", "roi_align", _ALIGN),
    "roi-align-grad": Case("the gradient of the same", "roi_align_grad", _ALIGN),
    "roi-pool": Case("roi_pool, 1000 boxes of 50x68x512", "roi_pool", _POOL),
    "roi-pool-grad": Case("the gradient of the same", "roi_pool_grad", _POOL),
    "paste": Case(
        "paste 100 masks, 1920x1080", "paste", {"masks": 100, "height": 1080, "width": 1920}
    ),
    "preprocess": Case(
        "resize and normalise a 12-megapixel photo", "preprocess", {"height": 3000, "width": 4000}
    ),
    "faster": _predict(
        "predict, Faster R-CNN R50-FPN, 800x1088", "fasterrcnn_resnet50_fpn", 1, FASTER_M1
    ),
    "faster-4": _predict("the same, a batch of 4", "fasterrcnn_resnet50_fpn", 4),
    "mask": _predict("predict, Mask R-CNN R50-FPN, 800x1088", "maskrcnn_resnet50_fpn"),
    "mask-4": _predict("the same, a batch of 4", "maskrcnn_resnet50_fpn", 4),
    "mobile": Case(
        "predict, Faster R-CNN MobileNetV3 320",
        "predict",
        {
            "model": "fasterrcnn_mobilenet_v3_large_320_fpn",
            "height": 320,
            "width": 427,
            "batch": 1,
            "classes": COCO,
        },
    ),
    "train": _train("float32", TRAIN_M1),
    "train-bf16": _train("bfloat16"),
    "train-small": Case(
        "training step, ResNet-18 with group norm, 4 x 320x427",
        "train",
        {"model": "resnet18", "height": 320, "width": 427, "batch": 4, "dtype": "float32"},
    ),
    "start": Case(
        "cold start: process, MobileNetV3 320, first photo",
        "start",
        {
            "model": "fasterrcnn_mobilenet_v3_large_320_fpn",
            "height": 320,
            "width": 427,
            "batch": 1,
            "classes": COCO,
        },
    ),
}
"""By the name that the command line takes."""


def growth() -> dict[str, list[tuple[float, Case]]]:
    """How cost grows: by its axis, the values and their cases."""
    base = dict(CASES["faster"].options)

    def predict(**options: int | float | str) -> Case:
        return Case("predict", "predict", {**base, **options})

    boxes = [100, 200, 500, 1000, 2000, 4000]
    pixels = [(480, 640), (768, 1024), (1200, 1600), (1800, 2400), (3000, 4000)]
    return {
        "boxes suppressed": [(n, Case("nms", "nms", {"lists": 1, "boxes": n})) for n in boxes],
        "boxes pooled": [
            (n, Case("roi_align", "roi_align", {**_ALIGN, "boxes": n})) for n in boxes
        ],
        "megapixels, over 2 shrunk": [(h * w / 1e6, predict(height=h, width=w)) for h, w in pixels],
        "images a batch": [(n, predict(batch=n, height=320, width=427)) for n in (1, 2, 4, 8, 16)],
        "classes": [(n, predict(classes=n)) for n in (2, 21, 91, 366, 1204)],
    }
