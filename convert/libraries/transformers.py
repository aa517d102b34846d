"""Hugging Face transformers' ResNet: its keys."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from ..rename import Rule


def _unit(source: str, conv: str, norm: str) -> tuple[Rule, Rule]:
    """A convolution and its norm; ``resnet.`` stands in front where there is a classifier."""
    kind = "(?P<kind>weight|bias|running_mean|running_var)"
    return (
        Rule(rf"(?:resnet\.)?{source}\.convolution\.weight", f"{conv}.weight", "conv"),
        Rule(rf"(?:resnet\.)?{source}\.normalization\.{kind}", rf"{norm}.\g<kind>"),
    )


def _stage(s: int) -> tuple[Rule, ...]:
    """Stages and layers count from 0 there, from 1 here."""
    here, there = rf"encoder\.stages\.{s}\.layers\.(\d+)", rf"layer{s + 1}.\1"
    shortcut = _unit(rf"{here}\.shortcut", f"{there}.downsample.0", f"{there}.downsample.1")
    layers = (
        _unit(rf"{here}\.layer\.{i}", f"{there}.conv{i + 1}", f"{there}.bn{i + 1}")
        for i in range(3)
    )
    return shortcut + sum(layers, ())


RESNET_RULES = (
    Rule(r".*\.num_batches_tracked", None),
    *_unit(r"embedder\.embedder", "conv1", "bn1"),
    *(rule for s in range(4) for rule in _stage(s)),
    Rule(r"classifier\.1\.(weight|bias)", r"fc.\1"),
)


def is_resnet(state: Mapping[str, mx.array]) -> bool:
    """Whether the keys are those of transformers' ResNet."""
    return any(key.endswith("embedder.embedder.convolution.weight") for key in state)
