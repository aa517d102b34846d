"""Training made to fit the memory: how many images at once, and what is computed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import mlx.core as mx

from ..checkpoints.weights import flatten
from ..data.protocols import SizedDataset
from ..layers import BatchNorm
from ..models import Detector
from ..progress import say
from .batch_size import SHARE, Cost, cost_of_step, fitting_batch, memory_limit
from .config import TrainConfig
from .freeze import stages
from .machines import least, number_of_first


class Choice(NamedTuple):
    """``images`` at once, ``recompute``, and the bytes that a step then ``takes``."""

    images: int
    recompute: bool
    takes: int


def measured(
    model: Detector, train_set: SizedDataset, config: TrainConfig, group: mx.distributed.Group
) -> TrainConfig:
    """A config in which nothing is left to be measured; what had to be is said in a line."""
    # On all machines it is the first one's; the learning rate stays.
    auto = config.batch_size == "auto"
    if not number_of_first(group, int(auto or config.fit_memory)):
        if config.memory and not (auto or config.fit_memory):
            raise ValueError(
                f"memory={config.memory:g}: expected fit_memory, or batch_size='auto', with it"
            )
        return config if group.size() == 1 else _as_first(config, group)
    if auto:
        found = fitting_batch(model, train_set, config, group)
        text = f"batch size: {found}; the learning rate stays {config.lr:g}"
        config = replace(config, batch_size=found.images, memory=0.0)
    else:
        config, text = fitted(model, train_set, config, group)
    if group.rank() == 0:
        say(text)
    return config


def _as_first(config: TrainConfig, group: mx.distributed.Group) -> TrainConfig:
    """What a first machine that resumes knows from its record."""
    images = 0 if config.batch_size == "auto" else config.images
    return replace(
        config,
        batch_size=number_of_first(group, images),
        accumulate=number_of_first(group, config.accumulate),
        recompute=bool(number_of_first(group, int(config.recompute))),
        fit_memory=False,
        memory=0.0,
    )


def fitted(
    model: Detector, train_set: SizedDataset, config: TrainConfig, group: mx.distributed.Group
) -> tuple[TrainConfig, str]:
    """Settings that fit, with as many images in a step as asked for; what was chosen, and why."""
    asked = config.images * config.accumulate
    limit = least(group, memory_limit(config) // 1000) * 1000
    gradients = sum(v.nbytes for v in flatten(model.trainable_parameters()).values())

    @cache
    def cost(recompute: bool) -> Cost:
        return cost_of_step(model, train_set, replace(config, recompute=recompute), group)

    def takes(images: int, recompute: bool) -> int:
        more = gradients if images < asked and config.accumulate == 1 else 0
        return -least(group, -(cost(recompute).of(images) + more) // 1000) * 1000  # the most

    chosen = _choice(model, config, takes, limit)
    share = "as stated" if config.memory else f"{SHARE:.0%} of the memory"
    room = f"{limit / 1e9:.3g} GB may be, {share}"
    if chosen.takes > limit:
        again = " with recomputation" if chosen.recompute else ""
        raise ValueError(
            f"fit_memory: a step on one image takes {chosen.takes / 1e9:.3g} GB{again}; {room}: "
            "expected a smaller min_size, or more memory"
        )
    found = replace(
        config,
        batch_size=chosen.images,
        accumulate=asked // chosen.images,
        recompute=chosen.recompute,
        fit_memory=False,
        memory=0.0,
    )
    given = f"{config.images} x {config.accumulate}"
    text = (
        f"memory: {found.images} x {found.accumulate} images a step"
        f"{', stages recomputed' if chosen.recompute else ''}, takes about "
        f"{chosen.takes / 1e9:.3g} GB; {room}; "
    )
    if (chosen.images, chosen.recompute) == (config.images, config.recompute):
        return found, text + "as asked for"
    whole = takes(config.images, config.recompute)
    return found, f"{text}{given} as asked for would take {whole / 1e9:.3g} GB"


def _choice(
    model: Detector, config: TrainConfig, takes: Callable[[int, bool], int], limit: int
) -> Choice:
    """The first of what is asked for, smaller batches and recomputation that fits, or the least."""
    # Smaller batches cost less time; but batch norms follow a batch, so that there recomputation
    # comes first.
    asked = config.images * config.accumulate
    sizes = [n for n in range(config.images, 0, -1) if asked % n == 0]
    ways = [config.recompute] if config.recompute or not _has_stages(model) else [False, True]
    if any(isinstance(m, BatchNorm) and m.uses_batch for m in model.modules()):
        order = [(n, again) for n in sizes for again in ways]
    else:
        order = [(n, again) for again in ways for n in sizes]
    for images, again in order:
        if (found := takes(images, again)) <= limit:
            break
    return Choice(images, again, found)


def _has_stages(model: Detector) -> bool:
    try:
        return bool(stages(model))
    except TypeError:
        return False
