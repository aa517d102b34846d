"""Several machines start from the same weights."""

from __future__ import annotations

import mlx.core as mx

from ..checkpoints.weights import Arrays, Tree, flatten, unflatten
from .step import TrainStep


def number_of_first(group: mx.distributed.Group, value: int) -> int:
    """The whole number that the first machine has, on all machines, all of which ask."""
    if group.size() == 1:
        return value
    own = value if group.rank() == 0 else 0
    return int(mx.distributed.all_sum(mx.array(own, mx.int32), group=group).item())  # type: ignore[arg-type]


def least(group: mx.distributed.Group, value: int) -> int:
    """The least of the machines' whole numbers, on all of them, all of which ask."""
    if group.size() == 1:
        return value
    return int(mx.distributed.all_min(mx.array(value, mx.int32), group=group).item())  # type: ignore[arg-type]


def share_from_first(trainer: TrainStep, step: int) -> int:
    """Give all machines the state that the first one has, and its step."""
    group = trainer.group
    if group.size() == 1:
        return step
    first = group.rank() == 0

    def share(value: mx.array) -> mx.array:
        shared = mx.distributed.all_sum(value if first else mx.zeros_like(value), group=group)
        mx.eval(shared)  # one after the other, in the same order everywhere
        return shared

    def share_all(tree: Tree | Arrays) -> Arrays:
        return {name: share(value) for name, value in sorted(flatten(tree).items())}

    trainer.model.update(unflatten(share_all(trainer.model.parameters())))
    trainer.optimizer.state = unflatten(share_all(trainer.optimizer.state))
    trainer.average = share_all(trainer.average)
    return number_of_first(group, step)
