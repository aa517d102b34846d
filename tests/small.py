"""Small models with the recipe's weights, and torch's names for them, shared by tests."""

from __future__ import annotations

import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from PIL import Image

from mlx_rcnn import (
    CascadeMaskRCNN,
    CascadeRCNN,
    FasterRCNN,
    FastRCNN,
    KeypointRCNN,
    MaskRCNN,
    ResNetFPNConfig,
)
from recipe import GOLDENS, fill
from reference import match_detections

BACKBONE = ResNetFPNConfig(
    depth=18, width=16, num_classes=0, norm="frozen", norm_eps=0.0, out_channels=32
)
Found = dict[str, np.ndarray]
OPTIONS = {
    "use_fpn": True,
    "hidden_dim": 64,
    "min_size": 96,
    "max_size": 160,
    "dropout": 0.0,
    "rpn_pre_nms_top_n_test": 200,
    "rpn_post_nms_top_n_test": 100,
}
MASK_OPTIONS = {"mask_hidden_channels": 16, "mask_num_convs": 2}
KEYPOINT_OPTIONS = {"num_keypoints": 5, "keypoint_layers": (16, 24)}
LEFT_OUT = object()
WITHOUT_RPN = {name: LEFT_OUT for name in OPTIONS if name.startswith("rpn_")}
PHOTOS = GOLDENS / "images"


def photo(name: str = "deck.jpg") -> np.ndarray:
    """(H, W, 3) uint8: deck.jpg is 220x330, stop.jpg 270x180, dogs.jpg 192x200."""
    return np.array(Image.open(PHOTOS / name))


def untrained(kind: str, num_classes: int = 5, **options):
    """A model of the family, by its name, on a ResNet-18 with random weights."""
    cls, extra = {
        "faster_rcnn": (FasterRCNN, {}),
        "mask_rcnn": (MaskRCNN, MASK_OPTIONS),
        "keypoint_rcnn": (KeypointRCNN, KEYPOINT_OPTIONS),
        "cascade_rcnn": (CascadeRCNN, {}),
        "cascade_mask_rcnn": (CascadeMaskRCNN, MASK_OPTIONS),
        "fast_rcnn": (FastRCNN, WITHOUT_RPN),
    }[kind]
    given = {**OPTIONS, **extra, **options}
    return cls(BACKBONE, 32, num_classes, **{k: v for k, v in given.items() if v is not LEFT_OUT})


def to_torch(key: str, value: mx.array, pool: int) -> tuple[str, mx.array]:
    """One of our parameters under torchvision's name and in its layout, unevaluated."""
    key = key.replace("backbone.net.", "backbone.body.")
    if "mask_head.convs." in key:
        stem, kind = key.replace("mask_head.convs.", "mask_head.").rsplit(".", 1)
        key = f"{stem}.0.{kind}"
    if "keypoint_head.convs." in key:  # every other module is a ReLU
        stem, place, kind = key.replace("keypoint_head.convs.", "keypoint_head.").rsplit(".", 2)
        key = f"{stem}.{2 * int(place)}.{kind}"
    if key.endswith(("conv5_mask.weight", "kps_score_lowres.weight")):
        value = value.transpose(3, 0, 1, 2)
    elif value.ndim == 4:
        value = value.transpose(0, 3, 1, 2)
    elif key.endswith("fc6.weight"):
        units, flat = value.shape
        value = value.reshape(units, pool, pool, flat // pool**2).transpose(0, 3, 1, 2)
        value = value.reshape(units, flat)
    return key, value


def torch_state(model: nn.Module, pool: int = 7) -> dict[str, mx.array]:
    """The model's weights as torchvision would save them."""
    return dict(to_torch(key, value, pool) for key, value in tree_flatten(model.parameters()))


def recipe_state(model: nn.Module, weights=fill) -> dict[str, mx.array]:
    """The recipe's weights for a model of this shape, as torchvision would save them."""
    return {k: mx.array(weights(k, v.shape)) for k, v in torch_state(model).items()}


def old_name(key: str) -> str:
    """A key of torchvision's, as it was in the files published in 2019."""
    key = re.sub(r"(fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", key)
    key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)


def with_counts(state: dict[str, mx.array]) -> dict[str, mx.array]:
    """The state of the same network on BatchNorm2d, which counts its batches."""
    out = {}
    for key, value in state.items():
        out[key] = value
        if key.endswith("running_var"):
            count = key.replace("running_var", "num_batches_tracked")
            out[count] = mx.array(7, dtype=mx.int64)
    return out


def check(found: Found, height: int, width: int, classes: int, top_k: int = 100) -> None:
    """What holds for every result."""
    count = len(found["scores"])
    assert count <= top_k
    assert found["boxes"].shape == (count, 4) and found["boxes"].dtype == np.float32
    assert found["scores"].shape == (count,) and found["scores"].dtype == np.float32
    assert found["labels"].shape == (count,) and found["labels"].dtype == np.int32
    assert all(isinstance(value, np.ndarray) for value in found.values())
    assert (np.diff(found["scores"]) <= 0).all()
    assert ((found["labels"] >= 1) & (found["labels"] < classes)).all()
    x1, y1, x2, y2 = found["boxes"].T
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x1 < x2).all() and (y1 < y2).all()
    assert (x2 <= width + 1e-3).all() and (y2 <= height + 1e-3).all()


def same(a: Found, b: Found) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def near(a: Found, b: Found) -> None:
    """Equal up to rounding, which random weights amplify."""
    result = match_detections(a, b, 0.05, 100)
    assert result["share"] >= 0.97
    assert result["box_error"] < 0.1 and result["score_error"] < 2e-3
