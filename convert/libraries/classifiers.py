"""Classifiers of other libraries, as weights to start a detector's backbone from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_rcnn.messages import listing

from ..rename import Rule, rename
from . import timm, transformers
from .shapes import resnet_depth

TORCHVISION_RESNET_RULES = (
    Rule(r".*\.num_batches_tracked", None),
    Rule(r"((?:conv1|bn1|layer[1-4]|fc)\..*)", r"\1", "conv"),
)
TORCHVISION_MOBILENET_RULES = (
    Rule(r".*\.num_batches_tracked", None),
    Rule(r"features\.(.*)", r"blocks.\1", "conv"),
    Rule(r"(classifier\.[03]\..*)", r"\1"),
)


class Classifier(NamedTuple):
    """Classification weights by our names.

    ``network``, such as ``"ResNet-50"``; ``library`` whose keys they had; ``norm_eps`` that the
    norms had there; ``classes``, 0 without a last layer; ``weights`` by the names of our ``ResNet``
    or ``MobileNetV3``.
    """

    network: str
    library: str
    norm_eps: float
    classes: int
    weights: dict[str, mx.array]


def read_classifier(state: Mapping[str, mx.array]) -> Classifier:
    """Rename a classifier's state dict, and tell what it is.

    Args:
        state: arrays by the keys of torchvision, timm or transformers, in torch's layout.

    Returns:
        The weights.

    Raises:
        ValueError: no ResNet, ResNeXt or MobileNetV3; the message says what was found.
    """
    prefix = "timm_model."  # of transformers' wrapper of timm
    if all(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    library, rules, eps = _rules(state)
    weights = rename(state, rules).weights
    last = weights.get("fc.weight", weights.get("classifier.3.weight"))
    classes = 0 if last is None else int(last.shape[0])
    return Classifier(_network(weights), library, eps, classes, weights)


def _rules(state: Mapping[str, mx.array]) -> tuple[str, Sequence[Rule], float]:
    """The library, its rules, and the epsilon its network has."""
    if transformers.is_resnet(state):
        return "transformers", transformers.RESNET_RULES, 1e-5
    if timm.is_mobilenet(state):
        return "timm", timm.mobilenet_rules(state), 1e-5
    if "features.1.block.0.0.weight" in state:
        return "torchvision", TORCHVISION_MOBILENET_RULES, 1e-3
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        odd = [key for key in state if re.search(r"\.(se|downsample\.2|conv4|bn4)\.", key)]
        if not odd:
            return "torchvision or timm", TORCHVISION_RESNET_RULES, 1e-5
        raise ValueError(f"a ResNet with parts that ours has not: {listing(odd, 3)}")
    if "conv1.0.weight" in state:
        raise ValueError(
            "a ResNet with three convolutions as its stem (ResNet-D), which ours has not"
        )
    raise ValueError(
        "not a classifier this package knows: expected a ResNet, ResNeXt or MobileNetV3 with the "
        f"keys of torchvision, timm or transformers, got {listing(list(state), 4)}"
    )


def _network(weights: Mapping[str, mx.array]) -> str:
    """What the weights are of, by our names."""
    if "blocks.0.0.weight" in weights:
        return "MobileNetV3-large" if "blocks.16.0.weight" in weights else "MobileNetV3-small"
    depth = resnet_depth(weights, [f"layer{i}." for i in range(1, 5)])
    inner, outer = weights.get("layer1.0.conv2.weight"), weights.get("layer1.0.conv1.weight")
    if depth < 50 or inner is None or outer is None or inner.ndim != 4:
        return f"ResNet-{depth}"
    width, each = inner.shape[0], inner.shape[-1]
    if each != width:
        return f"ResNeXt-{depth} {width // each}x{each}d"
    return f"ResNet-{depth}"
