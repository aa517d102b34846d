"""Deterministic weights and image of the detectron2 and mmdetection goldens, from NumPy alone.

Each tensor depends on its key, its shape in torch's layout and a salt. Gains by key keep the
activations of a random network of order one and its detections well separated; FPN output kernels
have no constant part, or every RoI would be of one class.
"""

from __future__ import annotations

import math
import re
import zlib

import numpy as np

from recipe import GOLDENS

ROLES = (
    (r"(^|\.)rpn_head\.(objectness_logits|rpn_cls)\.", "rpn_cls"),
    (r"(^|\.)rpn_head\.(anchor_deltas|rpn_reg)\.", "rpn_reg"),
    (r"(box_predictor\.(\d\.)?cls_score|bbox_head\.(\d\.)?fc_cls)\.", "cls"),
    (r"(box_predictor\.(\d\.)?bbox_pred|bbox_head\.(\d\.)?fc_reg)\.", "reg"),
    (r"mask_head\.(predictor|conv_logits)\.", "mask"),
    (r"mask_head\.(deconv|upsample)\.", "deconv"),
    (r"backbone\.fpn_output\d\.|neck\.fpn_convs\.\d\.", "fpn_out"),
    (r"bottom_up\.stem\.conv1\.weight$", "stem_d2"),
    (r"\.res\d\.\d+\.conv3\.norm\.|\.layer\d\.\d+\.bn3\.", "last_norm"),
)
# detectron2's input has a standard deviation near 58, mmdetection's near 1.
GAINS = {"rpn_cls": 0.75, "rpn_reg": 0.5, "cls": 5.0, "reg": 3.0, "mask": 6.0, "stem_d2": 1 / 58}
LEVEL_GAINS = (0.5, 0.8, 1.4, 3.0)  # p2 to p5, so that proposals of all sizes survive
RPN_BIAS = -2.0  # keeps sigmoids off 1, where they would tie
BACKGROUND_BIAS = {"cls_score": 8.7, "fc_cls": 11.0}  # of the last class


def fill(key: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """The tensor of one state-dict key: float32, or int64 zero for a batch count."""
    random = np.random.default_rng(zlib.crc32((salt + key).encode()))
    role = next((role for pattern, role in ROLES if re.search(pattern, key)), "plain")
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        a = random.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        a = 0.1 * random.standard_normal(shape)
    elif key.endswith(".bias"):
        a = 0.02 * random.standard_normal(shape)
        if role == "rpn_cls":
            a = a + RPN_BIAS
        elif role == "cls":
            a[-1] += BACKGROUND_BIAS["fc_cls" if "fc_cls" in key else "cls_score"]
    elif len(shape) == 1:
        a = random.uniform(0.5, 1.0, shape) * (0.2 if role == "last_norm" else 1.0)
    else:
        a = random.standard_normal(shape)
        gain = GAINS.get(role, 1.0)
        if role == "fpn_out":
            a = a - a.mean(axis=(2, 3), keepdims=True)
            level = re.search(r"fpn_output(\d)|fpn_convs\.(\d)", key)
            assert level
            gain = LEVEL_GAINS[int(level[1]) - 2 if level[1] else int(level[2])]
        fan_in = shape[0] if role == "deconv" else int(np.prod(shape[1:]))
        a = a * (math.sqrt(2.0 / fan_in) * gain)
    return np.asarray(a, dtype=np.float32).reshape(shape)


def blobs(height: int = 240, width: int = 320, count: int = 40, seed: int = 2024) -> np.ndarray:
    """(height, width, 3) uint8 RGB: grey with rotated, coloured Gaussians on it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.full((height, width, 3), 110.0)
    for _ in range(count):  # the order of these draws matters
        cy, cx = random.uniform(0, height), random.uniform(0, width)
        sy, sx = random.uniform(4, 40, 2)
        angle = random.uniform(0, np.pi)
        colour = random.uniform(-120, 120, 3)
        dy, dx = y - cy, x - cx
        u = (dx * np.cos(angle) + dy * np.sin(angle)) / sx
        v = (-dx * np.sin(angle) + dy * np.cos(angle)) / sy
        image += np.exp(-0.5 * (u * u + v * v))[..., None] * colour
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def library_shapes(library: str, kind: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of ``"detectron2"``'s or ``"mmdet"``'s R50-FPN, ``"faster"`` or ``"mask"``."""
    lines = (GOLDENS / f"keys_{library}_mask.txt").read_text().splitlines()
    pairs = (line.partition(" ")[::2] for line in lines)
    return {
        key: tuple(int(n) for n in size.split("x") if n)
        for key, size in pairs
        if kind == "mask" or "mask_head" not in key
    }


def library_state(library: str, kind: str) -> dict[str, np.ndarray]:
    """All tensors of such a model, by its library's keys and in torch's layout."""
    return {key: fill(key, shape) for key, shape in library_shapes(library, kind).items()}


CASCADE_SALT = "c5:"


def cascade_shapes(library: str, kind: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the R50-FPN cascade, ``"cascade"`` or ``"cascade_mask"``, of a library."""
    found = {}
    masks = "mask" if kind == "cascade_mask" else "faster"
    staged = ("box_head.", "box_predictor.", "bbox_head.")
    staged += ("roi_head.mask_head.",) if library == "mmdet" else ()
    for key, shape in library_shapes(library, masks).items():
        part = next((part for part in staged if part in key), None)
        if re.search(r"(bbox_pred|fc_reg)\.", key):
            shape = (4, *shape[1:])  # class-agnostic
        for k in range(3) if part else (None,):
            name = key if part is None else key.replace(part, f"{part}{k}.")
            found[name] = shape
    return found


def cascade_state(library: str, kind: str, salt: str = CASCADE_SALT) -> dict[str, np.ndarray]:
    """All tensors of such a cascade; its stages' heads are nearly alike, or no score is high."""
    state: dict[str, np.ndarray] = {}
    first: dict[str, np.ndarray] = {}
    for key, shape in cascade_shapes(library, kind).items():
        own = fill(key, shape, salt)
        name = re.sub(r"(box_head|box_predictor|bbox_head)\.\d\.", r"\1.0.", key)
        if re.search(r"(box_head|box_predictor|bbox_head)\.\d\.", key) and "bias" not in key:
            shared = first.setdefault(name, own).astype(np.float64)
            if name != key:
                own = (0.9**0.5 * shared + 0.1**0.5 * own.astype(np.float64)).astype(np.float32)
        state[key] = own
    return state


WIDTH, CLASSES = 16, 80  # of the models without a pyramid


def one_map_shapes(kind: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of detectron2's R50 ``"c4"`` (with masks) or ``"dc5"``, a quarter as wide."""
    found: dict[str, tuple[int, ...]] = {}

    def conv(key: str, out: int, inputs: int, side: int) -> None:
        found[f"{key}.weight"] = (out, inputs, side, side)
        found.update(
            {
                f"{key}.norm.{part}": (out,)
                for part in ("weight", "bias", "running_mean", "running_var")
            }
        )

    conv("backbone.stem.conv1", WIDTH, 3, 7)
    inputs = WIDTH
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        planes = WIDTH * 2 ** (stage - 2)
        place = "roi_heads.res5" if kind == "c4" and stage == 5 else f"backbone.res{stage}"
        for i in range(blocks):
            if i == 0:
                conv(f"{place}.{i}.shortcut", 4 * planes, inputs, 1)
            conv(f"{place}.{i}.conv1", planes, inputs, 1)
            conv(f"{place}.{i}.conv2", planes, planes, 3)
            conv(f"{place}.{i}.conv3", 4 * planes, planes, 1)
            inputs = 4 * planes
    channels = WIDTH * (16 if kind == "c4" else 32)
    anchors = 15

    def plain(key: str, *shape: int, bias: int | None = None) -> None:
        found[f"{key}.weight"] = shape
        found[f"{key}.bias"] = (shape[0] if bias is None else bias,)

    rpn = "proposal_generator.rpn_head"
    plain(f"{rpn}.conv", channels, channels, 3, 3)
    plain(f"{rpn}.objectness_logits", anchors, channels, 1, 1)
    plain(f"{rpn}.anchor_deltas", 4 * anchors, channels, 1, 1)
    hidden = WIDTH * 32
    if kind == "dc5":
        hidden = 64
        plain("roi_heads.box_head.fc1", hidden, 49 * channels)
        plain("roi_heads.box_head.fc2", hidden, hidden)
    else:
        plain("roi_heads.mask_head.deconv", WIDTH * 32, 32, 2, 2, bias=32)
        plain("roi_heads.mask_head.predictor", CLASSES, 32, 1, 1)
    plain("roi_heads.box_predictor.cls_score", CLASSES + 1, hidden)
    plain("roi_heads.box_predictor.bbox_pred", 4 * CLASSES, hidden)
    return found


def one_map_state(kind: str) -> dict[str, np.ndarray]:
    """The recipe's numbers, the stem's as for detectron2's input."""
    return {
        key: fill(key, shape) * (1 / 58 if key == "backbone.stem.conv1.weight" else 1)
        for key, shape in one_map_shapes(kind).items()
    }
