"""What keys and shapes tell of a network, whichever library named them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_rcnn.config.settings import cure
from mlx_rcnn.messages import listing

from .architecture import Hints

if TYPE_CHECKING:
    from mlx_rcnn.config.keywords import MaskSettings

State = Mapping[str, mx.array]

_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {  # (blocks a stage, bottleneck?) -> depth
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}

# What detectron2 and mmdetection do alike and torchvision does not.
ALIGNED: dict[str, object] = {
    "dropout": 0.0,
    "anchor_rounding": False,
    "roi_aligned": True,
    "roi_sampling_ratio": 0,
    "rpn_post_nms_top_n_train": 1000,
    "rpn_min_size": 0.0,
    "box_min_size": 0.0,
    "rpn_reg_loss": "l1",
    "box_reg_loss": "l1",
}
RATIOS = (0.5, 1.0, 2.0)
PYRAMID_STRIDES = (4, 8, 16, 32, 64)

# Means and deviations in 0..255, in the order of RGB: MSRA's, and ImageNet's deviations.
MSRA_MEAN, UNIT_STD = (123.675, 116.28, 103.53), (1.0, 1.0, 1.0)
IMAGENET_STD = (58.395, 57.12, 57.375)


def input_fields(order: str, mean: Sequence[float], std: Sequence[float]) -> dict[str, object]:
    """Fields of the input; ``mean`` and ``std`` are in 0..255, in the order of RGB."""
    return {
        "channel_order": order,
        "image_mean": tuple(v / 255 for v in mean),
        "image_std": tuple(v / 255 for v in std),
    }


def other_network(state: State, signs: Mapping[str, str]) -> str | None:
    """A network people confuse with a library's R-CNNs, told by patterns of keys only it has."""
    for pattern, name in signs.items():
        if any(re.fullmatch(pattern, key) for key in state):
            return name
    return None


def mask_fields(state: State, classes: int, convs: str, upsample: str, logits: str) -> MaskSettings:
    """Fields of a mask branch; ValueError unless it has a mask a class without the background."""
    rows = state[logits].shape[0]
    if rows != classes - 1:
        raise ValueError(
            f"{classes - 1} classes and {rows} channels of masks: expected one of each class"
        )
    return {
        # the pattern's group is the number of the convolution
        "mask_num_convs": len({m[1] for key in state if (m := re.match(convs, key))}),
        "mask_hidden_channels": int(state[upsample].shape[1]),
        "mask_paste_rule": "detectron2",
    }


def check_needed(state: State, needed: Mapping[str, int], kind: str) -> None:
    """Raise unless the keys of ``needed`` are there with as many axes, none of length 0."""
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
    """18, 34, 50, 101 or 152 by a ResNet's numbers of blocks; ValueError for other numbers."""
    # what the keys of each of the four stages, or of the first three, start with
    found = [{m[1] for k in state if (m := re.match(re.escape(s) + r"(\d+)\.", k))} for s in stages]
    blocks = tuple(len(numbers) for numbers in found)
    bottleneck = any(re.match(re.escape(s) + r"\d+\.conv3\.", key) for key in state for s in stages)
    depths = {(known[: len(stages)], deep): d for (known, deep), d in _DEPTHS.items()}
    depth = depths.get((blocks, bottleneck))
    if depth is None:
        raise ValueError(
            f"no ResNet has stages of {list(blocks)} blocks: the checkpoint is incomplete, or of "
            "another backbone"
        )
    return depth


def resnet_widths(state: State, stem: str, stage: str, depth: int) -> dict[str, int]:
    """``width``, ``groups`` and ``width_per_group`` of a ResNet or ResNeXt, as config fields."""
    width = int(state[stem].shape[0])
    if depth < 50:
        return {"width": width, "groups": 1, "width_per_group": 64}
    key = f"{stage}0.conv2.weight"
    check_needed(state, {key: 4}, "ResNet")
    outputs, inputs = state[key].shape[:2]
    groups = outputs // inputs
    return {"width": width, "groups": groups, "width_per_group": 64 * inputs // width}


def keypoint_layers(state: State, pattern: str) -> tuple[int, ...]:
    """Channels of a keypoint head's convolutions, whose number is the group of ``pattern``."""
    layers = {int(m[1]): state[k].shape[0] for k in state if (m := re.fullmatch(pattern, k))}
    return tuple(layers[i] for i in sorted(layers))


def pyramid_stages(state: State, first: int) -> tuple[int, ...] | None:
    """The rising stages of a ResNet that feed torchvision's pyramid; ``None`` if none fit."""
    pattern = re.compile(r"backbone\.fpn\.(?:inner|layer)_blocks\.(\d)\.")
    count = len({match[1] for key in state if (match := pattern.match(key))})
    found: list[int] = []
    for i in range(count):
        prefix = f"backbone.fpn.inner_blocks.{i}."
        weight = state.get(f"{prefix}0.weight", state.get(f"{prefix}weight"))
        if weight is not None and weight.ndim == 4:
            # the channels double from one stage to the next
            found += [s for s in range(1, 5) if weight.shape[1] == first * 2 ** (s - 1)]
    return tuple(found) if len(found) == count and found == sorted(set(found)) else None


def pool_size(state: State, key: str, channels: int, given: object = None) -> tuple[int, int]:
    """(ph, pw) of the RoI pooling whose flattened output ``key`` takes; a square if not given."""
    flat = state[key].shape[1]  # the columns of the linear layer
    side = math.isqrt(flat // channels)
    sides = tuple(given) if isinstance(given, list | tuple) else (side, side)
    if given is not None and (len(sides) != 2 or any(type(v) is not int or v < 1 for v in sides)):
        raise ValueError(f"pool_size={given!r}: expected two whole numbers")
    if math.prod(sides) * channels != flat:
        expected = f"pool_size={sides}" if given is not None else "a square"
        more = "" if given is not None else cure(["pool_size"])
        raise ValueError(
            f"{key!r} has {flat} columns: expected {channels} channels times {expected}{more}"
        )
    return sides[0], sides[1]


def check_anchors(state: State, key: str, hints: Hints, fields: Mapping[str, object]) -> None:
    """Raise unless a cell has as many anchors as there are sizes and ratios."""
    rows = state[key].shape[0]  # of the RPN's scores: the anchors of a cell
    sizes = hints.field(fields, "anchor_sizes")
    ratios = hints.field(fields, "aspect_ratios", RATIOS)
    # no ``anchor_sizes`` are one size a level
    levels = sizes if isinstance(sizes, list | tuple) else (0,)
    nested = [v for v in levels if isinstance(v, list | tuple)]
    count = len(nested[0]) if nested else len(levels)
    if rows != count * len(ratios):
        plural = "s" * (count != 1)
        raise ValueError(
            f"misshaped {key!r}, {rows} anchors a cell: expected {count} size{plural} of "
            f"{len(ratios)} ratios{cure(['anchor_sizes', 'aspect_ratios'])}"
        )


def architecture(depth: int, widths: Mapping[str, int]) -> str:
    """A ResNet's usual name: ResNet-50, ResNeXt-101-32x8d."""
    if widths["groups"] == 1:
        return f"ResNet-{depth}"
    return f"ResNeXt-{depth}-{widths['groups']}x{widths['width_per_group']}d"
