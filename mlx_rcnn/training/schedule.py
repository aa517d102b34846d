"""Learning rates as pure functions of the step, so that resuming needs nothing but the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .config import TrainConfig

WARMUP_START = 1e-3  # share of the rate at step 0, as in torchvision's training reference


def warmup_factor(step: int, warmup: int) -> float:
    """Linear warm-up from 1/1000 to 1, as torchvision's reference (``LinearLR``)."""
    if step >= warmup:
        return 1.0
    return WARMUP_START + (1.0 - WARMUP_START) * step / warmup


def step_factor(step: int, total: int, drops: Sequence[float], drop_factor: float) -> float:
    """``drop_factor`` once for every drop, a share of ``total``, behind (``MultiStepLR``)."""
    return drop_factor ** sum(step >= round(share * total) for share in drops)


def cosine_factor(step: int, total: int, warmup: int) -> float:
    """Half a cosine from 1 at the end of the warm-up to 0 at ``total`` (Loshchilov and Hutter)."""
    done = (step - warmup) / max(total - warmup, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def learning_rate(
    step: int,
    total: int,
    base: float,
    schedule: str,
    warmup: int,
    drops: Sequence[float],
    drop_factor: float,
) -> float:
    """The learning rate of the step after ``step`` steps taken, its warm-up included."""
    if schedule == "cosine":
        factor = cosine_factor(step, total, warmup)
    elif schedule == "step":
        factor = step_factor(step, total, drops, drop_factor)
    else:
        raise ValueError(f"schedule={schedule!r}: expected 'step' or 'cosine'")
    return base * warmup_factor(step, warmup) * factor


def rate_of(config: TrainConfig, step: int, total: int) -> float:
    """:func:`learning_rate` with a run's settings."""
    c = config
    return learning_rate(step, total, c.lr, c.schedule, c.warmup, c.drops, c.drop_factor)
