"""Dropout whose choice a key makes, so that a run resumes bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn


def dropped(x: mx.array, share: float, key: mx.array) -> mx.array:
    """Without a share of the units; the others make up for them.

    Args:
        x: of any shape.
        share: in [0, 1).
        key: of the choice.

    Returns:
        Same shape.
    """
    return x * mx.random.bernoulli(1 - share, x.shape, key=key) / (1 - share)


Layer = Callable[[mx.array], mx.array]


def run_layers(layers: Sequence[Layer], x: mx.array, key: mx.array | None = None) -> mx.array:
    """Layers one after the other.

    Args:
        layers: modules of one argument.
        x: what the first takes.
        key: of the dropout among them, which then drops in any mode. Default: MLX's state in
            training mode, and else none drops.

    Returns:
        What the last gives.
    """
    keys = [None] * len(layers) if key is None else mx.random.split(key, max(len(layers), 1))
    for layer, own in zip(layers, keys, strict=False):
        if own is not None and isinstance(layer, nn.Dropout):
            x = dropped(x, 1 - layer._p_1, own)
        else:
            x = layer(x)
    return x
