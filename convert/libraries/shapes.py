"""What keys and shapes tell of a network, whichever library named them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlx_rcnn.messages import listing

State = Mapping[str, mx.array]

_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {  # (blocks a stage, bottleneck?) -> depth
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}

# What detectron2 and mmdetection do alike and torchvision does not.
ALIGNED: dict[str, Any] = {
    "dropout": 0.0,
    "anchor_rounding": False,
    "roi_aligned": True,
    "roi_sampling_ratio": 0,
    "rpn_post_nms_top_n_train": 1000,
    "rpn_min_size": 0.0,
    "box_min_size": 0.0,
}
PYRAMID_STRIDES = (4, 8, 16, 32, 64)


def check_needed(state: State, needed: Mapping[str, int], kind: str) -> None:
    """Raise unless the keys of ``needed`` are there with as many axes, none of length 0.

    Args:
        state: arrays by the library's keys.
        needed: what tells the architecture, and its number of axes.
        kind: what was expected, for the message.
    """
    missing = [key for key in needed if key not in state]
    if len(missing) > 2:
        raise ValueError(
            f"not a {kind}: expected keys such as {next(iter(needed))!r}, got "
            f"{listing(list(state), 4)}"
        )
    if missing:
        raise ValueError(f"missing {listing(missing)}")
    wrong = [
        f"{key} {state[key].shape} (expected {axes} axes)"
        for key, axes in needed.items()
        if state[key].ndim != axes or state[key].size == 0
    ]
    if wrong:
        raise ValueError(f"misshaped {listing(wrong)}")


def resnet_depth(state: State, stages: Sequence[str]) -> int:
    """The depth of a ResNet from its numbers of blocks.

    Args:
        state: arrays by the library's keys.
        stages: what the keys of each of the four stages start with.

    Returns:
        18, 34, 50, 101 or 152.

    Raises:
        ValueError: no ResNet has so many blocks.
    """
    found = [{m[1] for k in state if (m := re.match(re.escape(s) + r"(\d+)\.", k))} for s in stages]
    blocks = tuple(len(numbers) for numbers in found)
    bottleneck = any(re.match(re.escape(s) + r"\d+\.conv3\.", key) for key in state for s in stages)
    depth = _DEPTHS.get((blocks, bottleneck))
    if depth is None:
        raise ValueError(
            f"no ResNet has stages of {list(blocks)} blocks: the checkpoint is incomplete, or of "
            "another backbone"
        )
    return depth


def resnet_widths(state: State, stem: str, stage: str, depth: int) -> dict[str, int]:
    """``width``, ``groups`` and ``width_per_group`` of a ResNet or ResNeXt.

    Args:
        state: arrays by the library's keys.
        stem: key of the first convolution.
        stage: what the keys of the first stage start with.
        depth: of the ResNet.

    Returns:
        Fields of ``ResNetFPNConfig``.
    """
    width = int(state[stem].shape[0])
    if depth < 50:
        return {"width": width, "groups": 1, "width_per_group": 64}
    key = f"{stage}0.conv2.weight"
    check_needed(state, {key: 4}, "ResNet")
    outputs, inputs = state[key].shape[:2]
    groups = outputs // inputs
    return {"width": width, "groups": groups, "width_per_group": 64 * inputs // width}


def pool_side(state: State, key: str, channels: int) -> int:
    """Side of the RoI pooling whose flattened output the linear ``key`` takes.

    Raises:
        ValueError: its columns are not ``channels`` times a square.
    """
    flat = state[key].shape[1]
    side = math.isqrt(flat // channels)
    if side * side * channels != flat:
        raise ValueError(f"{key!r} has {flat} columns: expected {channels} channels times a square")
    return side


def architecture(depth: int, widths: Mapping[str, int]) -> str:
    """A ResNet's usual name: ResNet-50, ResNeXt-101-32x8d."""
    if widths["groups"] == 1:
        return f"ResNet-{depth}"
    return f"ResNeXt-{depth}-{widths['groups']}x{widths['width_per_group']}d"
