"""How many images a training step can take in the memory there is: measured, not guessed."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..checkpoints.weights import flatten, unflatten
from ..data import TrainBatch
from ..data.geometry import rotate90
from ..data.protocols import Dataset, SizedDataset
from ..data.sample import Sample
from ..inputs.images import ImageError
from ..inputs.transform import resized_size
from ..memory import bounded_cache, machine_memory, training_cache
from ..models import Detector
from .config import TrainConfig
from .machines import least
from .optimizer import make_optimizer
from .step import TrainStep

SHARE = 0.7  # of the machine's memory; the rest is for loaders, evaluation, and other programs


class Cost(NamedTuple):
    """Bytes that a step takes."""

    one: int  # on one image
    two: int  # on two
    each: float  # that every further image adds

    def of(self, images: int) -> int:
        """On so many images."""
        return self.one if images == 1 else round(self.two + (images - 2) * self.each)


class Fitting(NamedTuple):
    """A batch size, and how it was found."""

    images: int  # of a step, on each machine
    takes: int  # bytes that a step on them takes
    each: int  # of these an image's
    limit: int  # bytes that a step may take
    stated: bool = False  # the limit was, and is no share of the memory

    def __str__(self) -> str:
        takes, each, limit = (v / 1e9 for v in (self.takes, self.each, self.limit))
        several = "s take" if self.images > 1 else " takes"
        return (
            f"{self.images} image{several} about {takes:.3g} GB, {each:.3g} each; {limit:.3g} GB "
            f"may be, {'as stated' if self.stated else f'{SHARE:.0%} of the memory'}"
        )


def memory_limit(config: TrainConfig) -> int:
    """Bytes that a step may take: ``memory``, else :data:`SHARE` of the machine's."""
    return round(config.memory * 1e9 or SHARE * machine_memory())


def cost_of_step(
    model: Detector, train_set: SizedDataset, config: TrainConfig, group: mx.distributed.Group
) -> Cost:
    """What a step takes, by MLX's peak, from one on one and one on two of the largest images."""
    # The model is left as it was, bit for bit.
    first, second = _largest(model, train_set, config.rotate90 > 0)
    settings, sides = model.config, model.config.min_size
    if not isinstance(sides, int):
        model.config = replace(settings, min_size=max(sides))
    try:
        with bounded_cache(training_cache(config.cache_limit)):
            one, two = (_peak(model, some, config, group) for some in ([first], [first, second]))
        ratio = _padded(model, [first, second]) / _padded(model, [first])
    finally:
        model.config = settings
    # Memory grows with the pixels of the padded batch: those of two are ``ratio`` times one's.
    return Cost(one, two, (two - one) / max(ratio - 1, 1e-6) * ratio / 2)


def fitting_batch(
    model: Detector, train_set: SizedDataset, config: TrainConfig, group: mx.distributed.Group
) -> Fitting:
    """The most images that fit into :func:`memory_limit`; 1 if even one does not."""
    cost, limit = cost_of_step(model, train_set, config, group), memory_limit(config)
    most = len(train_set) // (config.accumulate * group.size())  # a step an epoch
    count = 2 + math.floor((limit - cost.two) / max(cost.each, 1))
    images = least(group, max(min(count, most), 1))  # of the machines
    return Fitting(images, cost.of(images), round(cost.each), limit, config.memory > 0)


def _readable(dataset: Dataset, order: np.ndarray) -> Sample:
    """The first image of an order that can be read; the loader names those that cannot."""
    for index in order:
        with suppress(ImageError, OSError):
            return dataset[int(index)]
    raise ImageError("no image can be read")


def _largest(model: Detector, train_set: SizedDataset, turned: bool) -> tuple[Sample, Sample]:
    """The images whose network input is the highest and the widest: a batch is padded to both."""
    config, sides = model.config, model.config.min_size
    config = config if isinstance(sides, int) else replace(config, min_size=max(sides))
    sizes = np.array([resized_size(int(h), int(w), config) for h, w in train_set.sizes])
    area = sizes.prod(axis=1)
    if turned:
        sample = _readable(train_set, np.lexsort((area, sizes.max(axis=1)))[::-1])
        image, target = rotate90(sample.image, sample.target, 1)
        return sample, sample._replace(image=image, target=target)
    high, wide = (np.lexsort((area, sizes[:, axis]))[::-1] for axis in (0, 1))
    return _readable(train_set, high), _readable(train_set, wide)


def _padded(model: Detector, samples: list[Sample]) -> int:
    """Pixels of a batch."""
    shapes = [sample.image.shape for sample in samples]
    sizes = [resized_size(height, width, model.config) for height, width, _ in shapes]
    return len(sizes) * max(h for h, _ in sizes) * max(w for _, w in sizes)


def _peak(
    model: Detector, samples: list[Sample], config: TrainConfig, group: mx.distributed.Group
) -> int:
    """Bytes that a step takes, weights and the optimizer's state with it."""
    images, targets, ids, names = zip(*samples, strict=True)
    batch = TrainBatch(list(images), list(targets), list(ids), list(names))
    weights = flatten(model.parameters())
    take = TrainStep(model, make_optimizer(model, config), config, group)
    mx.clear_cache()
    mx.reset_peak_memory()
    try:
        take([batch] * min(config.accumulate, 2), 0, 0.0)
        return mx.get_peak_memory()
    finally:
        model.update(unflatten(weights))
        mx.clear_cache()
