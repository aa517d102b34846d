"""A learning rate to begin with: Smith's range test."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..checkpoints.weights import flatten, unflatten
from ..data import TrainBatch
from ..data.protocols import SizedDataset
from ..files import replacing
from ..memory import bounded_cache, training_cache
from ..models import Detector
from ..progress import bar
from .config import TrainConfig
from .fit_memory import measured
from .loading import batches_of, check_objects, make_loader
from .machines import share_from_first
from .new_heads import check_keypoints, keypoints_of
from .optimizer import make_optimizer
from .prepare import prepare_model
from .step import TrainStep

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100
FINDER_FILE, FINDER_CHART = "lr_finder.json", "lr_finder.png"
DIVERGED = 4.0  # times the least loss so far, as fastai has it
_BETA = 0.9  # of the average of the losses: about ten steps


class LRFinding(NamedTuple):
    """What a range test has found."""

    rates: list[float]  # of each step taken, as the losses
    losses: list[float]
    smoothed: list[float]
    # a tenth of the rate at which the smoothed loss is least; ``None`` if it is so within the first
    # tenth of the steps, before anything was learned
    suggestion: float | None
    end: str  # why it ended: ``"diverged"``, ``"not finite"`` or ``"highest rate"``

    def __str__(self) -> str:
        last = f" up to lr {self.rates[-1]:.3g}" if self.rates else ""
        tried = f"{len(self.rates)} steps{last} ({self.end})"
        if self.suggestion is None:
            return f"{tried}: the loss fell nowhere, no learning rate is suggested"
        least = min(self.smoothed)
        return (
            f"{tried}: the loss fell from {self.smoothed[0]:.3g} to {least:.3g}; suggested: --lr "
            f"{self.suggestion:.2g}"
        )


def sweep(
    step: Callable[[int, float], float],
    steps: int = STEPS,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
) -> LRFinding:
    """Take steps at rates that rise exponentially until the loss diverges (Smith, 2017)."""
    _check_steps(steps)  # at least 10
    if not 0 < lowest < highest:
        raise ValueError(f"lowest={lowest}, highest={highest}: expected 0 < lowest < highest")
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, end = 0.0, "highest rate"
    for number in range(steps):
        rate = lowest * (highest / lowest) ** (number / (steps - 1))
        loss = step(number, rate)  # of before the step
        if not math.isfinite(loss):
            end = "not finite"
            break
        mean = _BETA * mean + (1 - _BETA) * loss
        rates.append(rate)
        losses.append(loss)
        smoothed.append(mean / (1 - _BETA ** (number + 1)))
        if smoothed[-1] > DIVERGED * min(smoothed):
            end = "diverged"
            break
    return LRFinding(rates, losses, smoothed, _suggested(rates, smoothed, steps), end)


def _check_steps(steps: int) -> None:
    if steps < 10:
        raise ValueError(f"steps={steps}: expected at least 10")


def _suggested(rates: Sequence[float], smoothed: Sequence[float], steps: int) -> float | None:
    at = int(np.argmin(smoothed)) if smoothed else 0
    return rates[at] / 10 if at >= steps // 10 else None


def find_lr(
    model: Detector,
    train_set: SizedDataset,
    config: TrainConfig | None = None,
    steps: int = STEPS,
) -> LRFinding:
    """A learning rate to begin with, on the real loss of the first batches.

    The model's heads are made ready for the data, as :func:`mlx_rcnn.training.fit` makes them; its
    weights are those of then when it returns, bit for bit.

    Args:
        model: of this package.
        train_set: see :func:`mlx_rcnn.training.fit`.
        config: of the run to come; ``lr``, ``schedule`` and ``warmup`` do not matter. Default:
            ``TrainConfig()``.
        steps: at most. Default: ``100``, at rates from 1e-6 to 10.

    Returns:
        What was found.

    Raises:
        ValueError: data or config that do not go together, or fewer than 10 steps.
        OSError: an image that cannot be read.
    """
    _check_steps(steps)
    config, group = config or TrainConfig(), mx.distributed.init()
    check_objects(train_set)
    keypoints = keypoints_of(train_set) if model.needs_keypoints else None
    check_keypoints(model, keypoints, None, config.hflip > 0)
    config = prepare_model(model, train_set.class_names, config, keypoints)
    config = measured(model, train_set, config, group)
    weights = flatten(model.parameters())
    try:
        take = TrainStep(model, make_optimizer(model, config), config, group)
        share_from_first(take, 0)
        batches = _endless(train_set, config, group)
        with (
            bounded_cache(training_cache(config.cache_limit)),
            bar(total=steps, unit="step", desc="finding lr", disable=group.rank() > 0) as shown,
        ):

            def step(number: int, rate: float) -> float:
                result = take(list(islice(batches, config.accumulate)), number, rate)
                shown.set_postfix(lr=f"{rate:.2g}", loss=f"{result.losses['total_loss']:.3f}")
                shown.update()
                return result.losses["total_loss"] if result.finite else math.nan

            return sweep(step, steps)
    finally:
        model.update(unflatten(weights))


def _endless(
    train_set: SizedDataset, config: TrainConfig, group: mx.distributed.Group
) -> Iterator[TrainBatch]:
    loader = make_loader(train_set, config, group)
    if len(loader) < 1:
        raise ValueError(f"{len(train_set)} images make no batch of {config.images}")
    for epoch in count():
        yield from batches_of(loader, epoch, 0)


def write_finding(found: LRFinding, config: TrainConfig, folder: Path) -> bool:
    """Write ``lr_finder.json``, and ``lr_finder.png`` if matplotlib (extra ``plots``) is there."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**found._asdict(), "settings": asdict(config)}
    with replacing(folder / FINDER_FILE) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if find_spec("matplotlib") is None:
        return False
    figure = import_module("matplotlib.figure").Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, alpha=0.3, label="loss")
    axes.plot(found.rates, found.smoothed, label="smoothed")
    if found.suggestion is not None:
        axes.axvline(found.suggestion, color="k", ls=":", label=f"suggested {found.suggestion:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title="range test")
    if found.rates:
        axes.set_ylim(0, 1.2 * max(found.losses[: len(found.losses) // 2 + 1]))
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(folder / FINDER_CHART) as part:
        figure.savefig(part, format="png", dpi=100)
    return True
