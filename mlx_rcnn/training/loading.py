"""The loader and augmentation that a config asks for."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import mlx.core as mx

from ..data import (
    ColourJitter,
    Compose,
    HorizontalFlip,
    Loader,
    ScaleJitterCrop,
    TrainBatch,
    VerticalFlip,
)
from .config import TrainConfig


def make_loader(train_set: Any, config: TrainConfig, group: mx.distributed.Group) -> Loader:
    """A loader of this machine's share of the data.

    Args:
        train_set: see :mod:`mlx_rcnn.data`.
        config: the fields ``batch_size``, ``seed``, ``workers``, ``hflip``, ``vflip``,
            ``scale_jitter`` and ``colour_jitter``.
        group: of the machines.

    Returns:
        The loader.
    """
    steps: list[Any] = []
    if config.hflip:
        # Without names no model is here that learns the keypoints.
        names = getattr(train_set, "keypoint_names", None) or ()
        steps.append(HorizontalFlip(config.hflip, names))
    if config.vflip:
        steps.append(VerticalFlip(config.vflip))
    if config.scale_jitter is not None:
        steps.append(ScaleJitterCrop(scale=config.scale_jitter))
    if config.colour_jitter:
        steps.append(ColourJitter().scaled(config.colour_jitter))
    return Loader(
        train_set,
        config.batch_size,
        seed=config.seed,
        augment=Compose(steps) if steps else None,
        rank=group.rank(),
        world_size=group.size(),
        workers=config.workers,
    )


def batches_of(loader: Loader, epoch: int, start: int) -> Generator[TrainBatch, None, None]:
    """One epoch's batches as a generator, so that leaving it early ends the loader's threads.

    Args:
        loader: of :func:`make_loader`.
        epoch: 0, 1, ...
        start: the first batch wanted.

    Yields:
        The batches.
    """
    yield from loader.epoch(epoch, start=start)
