"""The linear layers of box heads in a few bits: most of many a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..config.quantization import Quantization
from ..layers import Linear, QuantizedLinear

_HEAD = "roi_heads.box_head."
L = TypeVar("L", Linear, QuantizedLinear)


def quantize(model: nn.Module, *, bits: int = 8, group_size: int = 64) -> None:
    """Quantise the linear layers of a model's box heads, in MLX's affine format.

    The predictors of classes and boxes stay as they are, and so do all convolutions, for which MLX
    has no quantised form. ``save`` and ``load`` keep it; training and a second time are refused. On
    a CPU weights are restored for each product, so that the model is smaller there, not faster.

    Args:
        model: changed in place.
        bits: of a weight, 4 or 8. Default: ``8``.
        group_size: weights that share a scale and an offset: 32, 64 or 128. Default: ``64``.

    Raises:
        TypeError, ValueError: bits or groups that cannot be; a group that does not divide a
            layer's inputs; a model without linear layers in a box head; one that is quantised.
    """
    quantize_as(model, Quantization(group_size, bits))
    mx.eval(model.parameters())


def quantize_as(model: nn.Module, how: Quantization) -> None:
    """What :func:`quantize` does, unevaluated."""
    if (old := quantization_of(model)) is not None:
        raise ValueError(
            f"the model is quantised already, in {old.bits} bits: expected the one it was made from"
        )
    found = dict(_layers(model, Linear))
    if not found:
        raise ValueError(
            f"a {type(model).__name__} without linear layers in a box head cannot be quantised: "
            "expected a Fast or Faster R-CNN with them, or a model built on one"
        )
    for name, layer in found.items():
        how.check_inputs(name, layer.in_features)
    parts = {id(layer): QuantizedLinear(layer, how) for layer in found.values()}
    for _, module in model.named_modules():
        for key, value in module.items():
            if id(value) in parts and isinstance(value, nn.Module):
                dict.__setitem__(module, key, parts[id(value)])


def quantization_of(model: nn.Module) -> Quantization | None:
    """How a model is quantised; ``None`` if it is not."""
    for _, layer in _layers(model, QuantizedLinear):
        return Quantization(layer.group_size, layer.bits, layer.mode)
    return None


def restored(model: nn.Module) -> dict[str, mx.array]:
    """All arrays of a model by name, with the weights that quantised layers compute with."""
    named = tree_flatten(model.parameters())
    assert isinstance(named, list)
    arrays = dict(named)
    for name, layer in _layers(model, QuantizedLinear):
        for part in ("scales", "biases"):
            del arrays[f"{name}.{part}"]
        arrays[f"{name}.weight"] = layer.restored()
    return arrays


def check_trainable(model: nn.Module) -> None:
    """Raise a ValueError for a quantised model."""
    if (how := quantization_of(model)) is not None:
        raise ValueError(
            f"the model is quantised in {how.bits} bits, which cannot be trained: expected the one "
            "it was made from"
        )


def _layers(model: nn.Module, kind: type[L]) -> Iterator[tuple[str, L]]:
    for name, module in model.named_modules():
        if name.startswith(_HEAD) and type(module) is kind:
            yield name, module
