"""The optimizer: which parameters decay, clipping, and the average of the weights."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from ..checkpoints.weights import Arrays, Tree, flatten, unflatten
from .config import TrainConfig


def decays(name: str, parameter: mx.array) -> bool:
    """Whether weight decay applies: to kernels and matrices, not to norms and biases."""
    return parameter.ndim > 1


def make_optimizer(model: nn.Module, config: TrainConfig) -> optim.MultiOptimizer:
    """SGD with momentum or AdamW, with no decay on norms and biases, its state ready."""
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
    return optimizer  # set ``learning_rate`` before each step


def optimizer_arrays(optimizer: optim.MultiOptimizer) -> Arrays:
    """The optimizer's state by name, to be saved."""
    return flatten(optimizer.state)


def set_optimizer_arrays(optimizer: optim.MultiOptimizer, arrays: Arrays) -> None:
    """Restore what :func:`optimizer_arrays` gave; ValueError for those of another optimizer."""
    expected = optimizer_arrays(optimizer)
    odd = sorted(expected.keys() ^ arrays.keys())
    odd += [k for k in expected if k in arrays and expected[k].shape != arrays[k].shape]
    if odd:
        raise ValueError(f"the optimizer's state does not fit the model: {', '.join(odd[:5])}")
    optimizer.state = unflatten(arrays)


def clip(gradients: Tree, limit: float) -> tuple[Tree, mx.array]:
    """Scale the gradients to a norm of at most ``limit`` (Pascanu et al., 2013); and their norm."""
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
    """Exponential moving average of the weights (Polyak averaging), one step further."""
    learning = flatten(model.trainable_parameters())
    return {
        # the others, such as running statistics, replace theirs
        name: decay * average[name] + (1 - decay) * value if name in learning else value
        for name, value in flatten(model.parameters()).items()
    }
