"""Classifiers of other libraries, as weights to start a detector's backbone from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_rcnn.backbones import alexnet, vgg
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
# The first linear layer sees a map by channel, row and column.
TORCHVISION_VGG_RULES = (
    Rule(r".*\.num_batches_tracked", None),
    Rule(r"(features\.\d+\..*)", r"\1", "conv"),
    Rule(r"(classifier\.0\.weight)", r"\1", "flat"),
    Rule(r"(classifier\.[036]\..*)", r"\1"),
)
TORCHVISION_ALEXNET_RULES = (
    Rule(r"(features\.\d+\..*)", r"\1", "conv"),
    Rule(r"(classifier\.1\.weight)", r"\1", "flat"),
    Rule(r"(classifier\.[146]\..*)", r"\1"),
)
LAST = ("fc.weight", "classifier.6.weight", "classifier.3.weight")  # of these the first there is
NETWORKS = "ResNet, ResNeXt, MobileNetV3, VGG or AlexNet"
VGGS = {
    vgg.conv_places(depth, norm): f"VGG-{depth}{'-BN' if norm else ''}"
    for depth in vgg.BLOCKS
    for norm in (False, True)
}  # by where the convolutions stand


class Classifier(NamedTuple):
    """Classification weights by our names."""

    network: str  # such as ``"ResNet-50"``
    library: str  # whose keys they had
    norm_eps: float  # that the norms had there
    classes: int  # 0 without a last layer
    # by the names of our ``ResNet``, ``MobileNetV3``, ``VGG`` or ``AlexNet``, all linear layers
    # included
    weights: dict[str, mx.array]

    @property
    def family(self) -> str:
        """The name of our class for it."""
        return "ResNet" if self.network.startswith("Res") else self.network.split("-")[0]


class _Table(NamedTuple):
    """Whose keys they are, how to rename them, the norms' epsilon, the classifier's grid."""

    library: str
    rules: Sequence[Rule]
    norm_eps: float = 1e-5
    grid: tuple[int, int] = (1, 1)


def read_classifier(state: Mapping[str, mx.array]) -> Classifier:
    """Rename a classifier's state dict and tell what it is; ValueError if none of ``NETWORKS``."""
    prefix = "timm_model."  # of transformers' wrapper of timm
    if all(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    table = _table(state)  # the keys of torchvision, timm or transformers, in torch's layout
    weights = rename(state, table.rules, table.grid).weights
    last = last_weight(weights)
    classes = 0 if last is None else int(last.shape[0])
    return Classifier(_network(weights), table.library, table.norm_eps, classes, weights)


def last_weight(weights: Mapping[str, mx.array]) -> mx.array | None:
    """The weight (classes, units) of a classifier's last layer, by our names, if it has one."""
    return next((weights[name] for name in LAST if name in weights), None)


def _table(state: Mapping[str, mx.array]) -> _Table:
    """How to read a state dict."""
    if transformers.is_resnet(state):
        return _Table("transformers", transformers.RESNET_RULES)
    if timm.is_mobilenet(state):
        return _Table("timm", timm.mobilenet_rules(state))
    if "features.1.block.0.0.weight" in state:
        return _Table("torchvision", TORCHVISION_MOBILENET_RULES, 1e-3)
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        odd = [key for key in state if re.search(r"\.(se|downsample\.2|conv4|bn4)\.", key)]
        if not odd:
            return _Table("torchvision or timm", TORCHVISION_RESNET_RULES)
        raise ValueError(f"a ResNet with parts that ours has not: {listing(odd, 3)}")
    if "conv1.0.weight" in state:
        raise ValueError(
            "a ResNet with three convolutions as its stem (ResNet-D), which ours has not"
        )
    if places := _conv_places(state):
        return _plain_table(state, places)
    raise ValueError(
        f"not a classifier this package knows: expected a {NETWORKS} with the "
        f"keys of torchvision, timm or transformers, got {listing(list(state), 4)}"
    )


def _conv_places(state: Mapping[str, mx.array]) -> tuple[int, ...]:
    """Where the convolutions of a plain network stand in ``features``; none of another network."""
    own = [key for key in state if key.startswith("features.")]
    if not all(re.fullmatch(r"features\.\d+\.\w+", key) for key in own):
        return ()
    kernels = (key for key in own if key.endswith(".weight") and state[key].ndim == 4)
    return tuple(sorted(int(key.split(".")[1]) for key in kernels))


def _plain_table(state: Mapping[str, mx.array], places: tuple[int, ...]) -> _Table:
    """How to read a VGG or an AlexNet; a ValueError if the convolutions are of neither."""
    if places in VGGS:
        grid = (vgg.SIDE, vgg.SIDE)
        if timm.is_vgg(state):
            return _Table("timm", timm.VGG_RULES, grid=grid)
        whole = any(key.startswith("classifier.") for key in state)
        library = "torchvision" if whole else "torchvision or timm"
        return _Table(library, TORCHVISION_VGG_RULES, grid=grid)
    if places == alexnet.CONV_PLACES:
        grid = (alexnet.SIDE, alexnet.SIDE)
        return _Table("torchvision", TORCHVISION_ALEXNET_RULES, grid=grid)
    raise ValueError(
        f"{len(places)} convolutions in a row at features {', '.join(map(str, places))}: expected "
        "those of a VGG-11, 13, 16 or 19, with or without batch norms, or of an AlexNet"
    )


def _network(weights: Mapping[str, mx.array]) -> str:
    """What the weights are of, by our names."""
    if "blocks.0.0.weight" in weights:
        return "MobileNetV3-large" if "blocks.16.0.weight" in weights else "MobileNetV3-small"
    if "features.0.weight" in weights:
        return VGGS.get(_conv_places(weights), "AlexNet")
    depth = resnet_depth(weights, [f"layer{i}." for i in range(1, 5)])
    inner, outer = weights.get("layer1.0.conv2.weight"), weights.get("layer1.0.conv1.weight")
    if depth < 50 or inner is None or outer is None or inner.ndim != 4:
        return f"ResNet-{depth}"
    width, each = inner.shape[0], inner.shape[-1]
    if each != width:
        return f"ResNeXt-{depth} {width // each}x{each}d"
    return f"ResNet-{depth}"
