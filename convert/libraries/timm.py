"""timm's classifiers: their keys.

Its ResNets have torchvision's keys. Its MobileNetV3 counts blocks by stage and names the layers of
a block by what they do. The first two linear layers of its VGG are convolutions of one place, which
it slides over images larger than 224 pixels, where torchvision averages the map first.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from mlx_rcnn.backbones.mobilenet import LARGE, SMALL

from ..rename import Rule

VGG_RULES = (
    Rule(r".*\.num_batches_tracked", None),
    Rule(r"(features\.\d+\..*)", r"\1", "conv"),
    Rule(r"pre_logits\.fc1\.(weight|bias)", r"classifier.0.\1", "flat_kernel"),
    Rule(r"pre_logits\.fc2\.(weight|bias)", r"classifier.3.\1", "linear"),
    Rule(r"head\.fc\.(weight|bias)", r"classifier.6.\1"),
)
_STAGES = {"large": (1, 2, 3, 4, 2, 3), "small": (1, 2, 3, 2, 3)}  # blocks of each


def is_mobilenet(state: Mapping[str, mx.array]) -> bool:
    """Whether the keys are those of timm's MobileNetV3."""
    return "conv_stem.weight" in state and any(key.startswith("conv_head.") for key in state)


def is_vgg(state: Mapping[str, mx.array]) -> bool:
    """Whether the keys are those of timm's VGG, with its linear layers."""
    return "features.0.weight" in state and "pre_logits.fc1.weight" in state


def mobilenet_rules(state: Mapping[str, mx.array]) -> tuple[Rule, ...]:
    """The rules from timm's keys to our ``MobileNetV3``, for a state dict's variant."""
    variant = "large" if any(key.startswith("blocks.6.") for key in state) else "small"
    rows, stages = (LARGE, SMALL)[variant == "small"], _STAGES[variant]
    rules = [Rule(r".*\.num_batches_tracked", None), *_unit("conv_stem", "bn1", "blocks.0")]
    place = 0
    for stage, count in enumerate(stages):
        for i in range(count):
            here, there = rf"blocks\.{stage}\.{i}\.", f"blocks.{place + 1}.block"
            squeeze = rows[place].squeeze
            if stage == 0:  # nothing to expand
                names = [("conv_dw", "bn1"), ("conv_pw", "bn2")]
                last = 1
            else:
                names = [("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")]
                last = 2
            for j, (conv, norm) in enumerate(names):
                # squeeze and excitation stands before the projection
                at = j + 1 if squeeze and j == last else j
                rules += _unit(here + conv, here + norm, f"{there}.{at}")
            for theirs, ours in (("conv_reduce", "fc1"), ("conv_expand", "fc2")):
                rules.append(
                    Rule(rf"{here}se\.{theirs}\.(.*)", rf"{there}.{last}.{ours}.\1", "conv")
                )
            place += 1
    here = rf"blocks\.{len(stages)}\.0\."
    rules += _unit(f"{here}conv", f"{here}bn1", f"blocks.{place + 1}")
    # a 1x1 convolution of the pooled features there, a linear layer here
    rules.append(Rule(r"conv_head\.(.*)", r"classifier.0.\1", "linear"))
    rules.append(Rule(r"classifier\.(weight|bias)", r"classifier.3.\1"))
    return tuple(rules)


def _unit(conv: str, norm: str, target: str) -> list[Rule]:
    """A convolution and its norm, in a list of ours."""
    return [
        Rule(rf"{conv}\.(weight)", rf"{target}.0.\1", "conv"),
        Rule(rf"{norm}\.(.*)", rf"{target}.1.\1"),
    ]
