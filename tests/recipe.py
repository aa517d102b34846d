"""Deterministic weights for torchvision's R-CNNs, from NumPy alone.

Random weights that behave like trained ones as far as tests need it: activations stay of order one,
proposals of all sizes survive, detections are confident and well separated. Each tensor depends on
its key only. As in the published files, some channels have a running variance near 1e-5, with
weights to match, which only epsilon 0 gets right.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).parent / "goldens"
GAINS = {
    "rpn.head.cls_logits": 0.75,
    "rpn.head.bbox_pred": 0.5,
    "cls_score": 5.0,
    "box_predictor.bbox_pred": 3.0,
    "mask_fcn_logits": 6.0,
    "kps_score_lowres": 6.0,
    "box_head.5.": 5.0,  # v2's: what its convolutions average away
}
MOBILE = (r"body\.\d+\.block\.\d\.0\.weight", 1.08)  # what squeeze and excitation takes
LEVEL_GAINS = (0.5, 0.8, 1.4, 3.0)  # so that every level has proposals
TINY = 1e-5  # share of variance in the "dead" channels


def _random(key: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(key.encode()))


def _dead(key: str, channels: int) -> np.ndarray:
    """The channels of a block's second convolution whose variance is tiny."""
    return _random("dead " + re.sub(r"\.(conv2|bn2)\..*", "", key)).random(channels) < 0.1


def fill(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of one state-dict key, float32, in torch's layout."""
    random = _random(key)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        a = random.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        a = 0.1 * random.standard_normal(shape)
    elif key.endswith("bias"):
        a = 0.02 * random.standard_normal(shape)
        if "rpn.head.cls_logits" in key:
            a -= 2
        if "cls_score" in key:
            a[0] += 9 if len(a) > 2 else 5  # most proposals are background
    elif len(shape) == 1:
        a = random.uniform(0.5, 1.0, shape) * (0.2 if "bn3" in key else 1)
    else:
        a = random.standard_normal(shape)
        level = re.search(r"layer_blocks\.(\d)", key)
        if level:  # kernels without a constant part: an image is not all one class
            a -= a.mean(axis=(2, 3), keepdims=True)
        gain = next((g for part, g in GAINS.items() if part in key), 1.0)
        gain *= MOBILE[1] if re.search(MOBILE[0], key) else 1.0
        fan_in = shape[0] if "conv5_mask" in key else int(np.prod(shape[1:]))
        if "kps_score_lowres" in key:  # four of its taps meet in a pixel
            fan_in = 4 * shape[0]
        a *= np.sqrt(2.0 / fan_in) * gain * (LEVEL_GAINS[int(level[1])] if level else 1.0)
    if re.search(r"\.(conv2\.weight|bn2\.running_(mean|var))$", key):
        power = 1.0 if key.endswith("var") else 0.5
        a[_dead(key, shape[0])] *= TINY**power
    return np.asarray(a, np.float32)


def fill_alive(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """As :func:`fill` without dead channels.

    Only a detector's names tell their keys, and their gradients are large, and mostly rounding.
    """
    return fill(re.sub(r"(conv|bn)2", r"\1 2", key), shape)


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a torchvision model's state dict, from ``goldens/keys_<name>.txt``."""
    name = name.replace("_320_fpn", "_fpn")  # the same network
    lines = (GOLDENS / f"keys_{name}.txt").read_text().splitlines()
    pairs = (line.split(" ") for line in lines)
    return {key: tuple(int(n) for n in size.split("x") if n) for key, size in pairs}


def state_dict(name: str, weights=fill) -> dict[str, np.ndarray]:
    """All tensors of a torchvision model, by torch's keys and layout."""
    return {key: weights(key, shape) for key, shape in shapes(name).items()}
