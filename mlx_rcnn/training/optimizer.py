"""The optimizer: which parameters decay, clipping, and the average of the weights."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from ..checkpoints.weights import Arrays, Tree, flatten, unflatten
from .config import TrainConfig


def decays(name: str, parameter: mx.array) -> bool:
    """Whether weight decay applies: to kernels and matrices, not to norms and biases.

    Args:
        name: of the parameter; unused, as the shape tells them apart.
        parameter: scales, shifts and biases are vectors.

    Returns:
        ``True`` for two axes and more.
    """
    return parameter.ndim > 1


def make_optimizer(model: nn.Module, config: TrainConfig) -> optim.MultiOptimizer:
    """SGD with momentum or AdamW, with no decay on norms and biases, its state ready.

    Args:
        model: its trainable parameters are the optimizer's.
        config: the fields ``optimizer``, ``lr``, ``momentum`` and ``weight_decay``.

    Returns:
        The optimizer; set ``learning_rate`` before each step.

    Raises:
        ValueError: nothing in the model learns.
    """
    parts: list[optim.Optimizer] = []
    for decay in (config.weight_decay, 0.0):
        if config.optimizer == "sgd":
            parts.append(optim.SGD(config.lr, config.momentum, decay))
        else:
            betas = [config.momentum, 0.999]
            parts.append(optim.AdamW(config.lr, betas, weight_decay=decay, bias_correction=True))
    optimizer = optim.MultiOptimizer(parts, [decays])
    parameters = model.trainable_parameters()
    if not flatten(parameters):
        raise ValueError("the model has no trainable parameters: expected some to learn")
    optimizer.init(parameters)
    return optimizer


def optimizer_arrays(optimizer: optim.MultiOptimizer) -> Arrays:
    """The optimizer's state by name, to be saved."""
    return flatten(optimizer.state)


def set_optimizer_arrays(optimizer: optim.MultiOptimizer, arrays: Arrays) -> None:
    """Restore what :func:`optimizer_arrays` gave.

    Args:
        optimizer: of the same model and settings.
        arrays: by name.

    Raises:
        ValueError: arrays of another optimizer or model.
    """
    expected = optimizer_arrays(optimizer)
    odd = sorted(expected.keys() ^ arrays.keys())
    odd += [k for k in expected if k in arrays and expected[k].shape != arrays[k].shape]
    if odd:
        raise ValueError(f"the optimizer's state does not fit the model: {', '.join(odd[:5])}")
    optimizer.state = unflatten(arrays)


def clip(gradients: Tree, limit: float) -> tuple[Tree, mx.array]:
    """Scale the gradients so that their global norm is at most ``limit`` (Pascanu et al., 2013).

    Args:
        gradients: a tree.
        limit: 0 for none.

    Returns:
        The gradients, and the norm they had.
    """
    # Row by row: on a CPU MLX adds up a whole array one after the other, and of the 12.8 million
    # squares of a box head's first layer float32 then loses a hundredth.
    squares = [
        mx.sum(mx.sum(mx.square(g.astype(mx.float32)), axis=-1)) if g.ndim else mx.square(g)
        for g in flatten(gradients).values()
    ]
    norm = mx.sqrt(mx.sum(mx.stack(squares)))
    if not limit:
        return gradients, norm
    scale = mx.minimum(limit / (norm + 1e-6), 1.0)
    clipped: Tree = tree_map(lambda g: (g * scale).astype(g.dtype), gradients)
    return clipped, norm


def moving_average(average: Arrays, model: nn.Module, decay: float) -> Arrays:
    """Exponential moving average of the weights (Polyak averaging), one step further.

    Args:
        average: so far, by parameter name.
        model: its trainable parameters move the average; the others, such as running statistics,
            replace theirs.
        decay: share of the old average.

    Returns:
        The new average.
    """
    learning = flatten(model.trainable_parameters())
    return {
        name: decay * average[name] + (1 - decay) * value if name in learning else value
        for name, value in flatten(model.parameters()).items()
    }
