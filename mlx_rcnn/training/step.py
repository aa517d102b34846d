"""One optimizer step: losses, gradients, machines, clipping, update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from ..checkpoints.weights import DTYPES, Arrays, Tree, flatten, unflatten
from ..data.keypoints import shift_keypoints
from ..data.sample import Target
from ..kernels import fixed_order
from ..layers import BatchNorm, GroupNorm
from ..layers.recompute import recomputing
from ..models import Detector
from .config import TrainConfig
from .optimizer import clip, moving_average

NORMS = (BatchNorm, GroupNorm, nn.BatchNorm, nn.GroupNorm, nn.LayerNorm)


class StepResult(NamedTuple):
    """What became of a step."""

    losses: dict[str, float]  # by name, over all machines
    norm: float  # of the gradient before clipping
    finite: bool  # all of these are, and the step was taken
    suspects: list[int]  # which of the batches given have a loss that is not finite, here
    stop: bool  # some machine asked to stop


def step_key(seed: int, step: int, rank: int = 0, part: int = 0) -> mx.array:
    """The key of everything random in a step, a function of its arguments alone."""
    return mx.array(np.random.SeedSequence((seed, step, rank, part)).generate_state(2))


def cast_names(model: nn.Module) -> set[str]:
    """Names of the parameters that mixed precision casts: all but those of norms."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        if not isinstance(module, NORMS):
            own = (k for k, v in module.items() if isinstance(v, mx.array))
            names.update(f"{prefix}.{k}" if prefix else k for k in own)
    return names


class StepBatch(Protocol):
    """What ``get_loss`` takes of a batch."""

    @property
    def images(self) -> Sequence[np.ndarray]:
        """One an image."""

    @property
    def targets(self) -> Sequence[Target]:
        """One an image."""


class TrainStep:
    """Takes optimizer steps on a model, whose float32 parameters are updated in place."""

    # With a ``dtype`` of 16 bits the network runs on cast copies of its weights; the weights, their
    # gradients and the update stay float32 (Micikevicius et al., 2018).
    def __init__(
        self,
        model: Detector,
        optimizer: optim.MultiOptimizer,
        config: TrainConfig,
        group: mx.distributed.Group | None = None,
    ):
        self.model, self.optimizer, self.config = model, optimizer, config
        self.group = group or mx.distributed.init()
        self.dtype = DTYPES[config.dtype]
        self.cast = cast_names(model) if self.dtype != mx.float32 else set()
        self.average: Arrays = flatten(model.parameters()) if config.ema else {}

    def __call__(
        self, batches: Sequence[StepBatch], step: int, rate: float, stop: bool = False
    ) -> StepResult:
        """Take one step. If it fails in any way, the model and optimizer stay as they were."""
        # Arrays never change: holding on to the old ones is all it takes to go back. The copies
        # matter, as update() writes into the trees.
        before = flatten(self.model.parameters())
        state = tree_map(lambda v: v, self.optimizer.state)
        average = self.average
        try:
            # the one synchronisation that evaluates the step serves the check too
            result = self._take(batches, step, rate, stop)
        except BaseException:
            self._restore(before, state, average)
            raise
        if not result.finite:
            self._restore(before, state, average)
        return result

    def _restore(self, parameters: Arrays, state: Tree, average: Arrays) -> None:
        self.model.update(unflatten(parameters))
        self.optimizer.state = state
        self.average = average

    def _take(self, batches: Sequence[StepBatch], step: int, rate: float, stop: bool) -> StepResult:
        gradients, losses = self._gradients(batches, step)
        first, *others = losses
        mean = {k: sum((part[k] for part in others), v) / len(losses) for k, v in first.items()}
        shared = {**mean, "stop": mx.array(float(stop))}
        shared, gradients = self._over_machines(shared, gradients)
        gradients, norm = clip(gradients, self.config.clip)
        self.optimizer.learning_rate = rate
        self.optimizer.update(self.model, gradients)
        if self.config.ema:
            # A short memory at first (as in TensorFlow): the first weights mean little.
            decay = min(self.config.ema, (1 + step) / (10 + step))
            self.average = moving_average(self.average, self.model, decay)
        mx.eval(shared, norm, losses, self.model.parameters(), self.optimizer.state, self.average)
        totals = [part["total_loss"] for part in losses]
        numbers = [float(v.item()) for v in (*shared.values(), norm, *totals)]  # type: ignore[arg-type]
        values = dict(zip(shared, numbers, strict=False))
        asked = values.pop("stop") > 0
        size, *each = numbers[len(shared) :]
        finite = all(math.isfinite(v) for v in (*values.values(), size))
        suspects = [i for i, total in enumerate(each) if not math.isfinite(total)]
        return StepResult(values, size, finite, suspects, asked)

    def _over_machines(self, shared: Arrays, gradients: Tree) -> tuple[Arrays, Tree]:
        """Means over the machines, asked for in the same order on each of them."""
        if self.group.size() == 1:
            return shared, gradients
        shared = nn.average_gradients(shared, self.group)
        flat = flatten(gradients)
        later = mx.depends(list(flat.values()), list(shared.values()))
        ordered = dict(zip(flat, later, strict=True))
        return shared, nn.average_gradients(unflatten(ordered), self.group)

    def _gradients(self, batches: Sequence[StepBatch], step: int) -> tuple[Tree, list[Arrays]]:
        """Mean gradient over the batches, and the losses of each."""
        total: Tree = {}
        losses = []
        for part, batch in enumerate(batches):
            key = step_key(self.config.seed, step, self.group.rank(), part)
            values, gradients = self._backward(batch, key)
            if part:
                gradients = tree_map(mx.add, total, gradients)
            total = gradients
            losses.append(values)
            if len(batches) > 1:  # else the graphs of all batches would be held at once
                mx.eval(total, values)
        if len(batches) > 1:
            total = tree_map(lambda g: g / len(batches), total)
        return total, losses

    def _backward(self, batch: StepBatch, key: mx.array) -> tuple[Arrays, Tree]:
        model = self.model
        masters = model.trainable_parameters()
        everything = flatten(model.parameters())
        cast = {k: everything[k].astype(self.dtype) for k in self.cast}
        if cast:  # what is frozen; the rest is cast below, where it is differentiated
            model.update(unflatten(cast))

        # Padded as the network asks for, too.
        multiple = math.lcm(self.config.size_divisible, model.config.size_divisible)
        options: dict[str, mx.array | int | mx.distributed.Group] = {
            "key": key,
            "size_divisible": multiple,
        }
        offset = getattr(model.config, "keypoint_offset", 0.0)
        targets = shift_keypoints(batch.targets, offset)
        if self.group.size() > 1:
            options["group"] = self.group

        def losses_of(parameters: Tree) -> tuple[mx.array, Arrays]:
            flat = flatten(parameters)
            model.update(
                unflatten({k: v.astype(self.dtype) if k in cast else v for k, v in flat.items()})
            )
            pairs = None
            if self.config.recompute:  # each weight as it is traced, and its value
                now, own = flatten(model.parameters()), {**everything, **cast}
                pairs = [(now[k], own[k]) for k in flat]
            with recomputing(pairs):
                losses = model.get_loss(batch.images, targets, **options)
            return losses["total_loss"], losses

        with fixed_order(self.config.deterministic):
            (_, losses), gradients = mx.value_and_grad(losses_of)(masters)
        # Back to the weights themselves; running statistics keep what the pass made of them.
        kept = {k: everything[k] for k in {*flatten(masters), *cast}}
        model.update(unflatten(kept))
        return losses, gradients
