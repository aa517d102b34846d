"""The loader and augmentation that a config asks for."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import mlx.core as mx

from ..data import (
    Augmentation,
    ColourJitter,
    Compose,
    HorizontalFlip,
    Loader,
    Mosaic,
    RandomRotate90,
    ScaleJitterCrop,
    TrainBatch,
    VerticalFlip,
    repeat_factors,
)
from ..data.divide import divide, shared_images
from ..data.protocols import Dataset, SizedDataset
from ..models import Detector
from .config import TrainConfig

MOSAIC_LAST = (
    10  # the last tenth of the epochs, rounded down, has no mosaics, as Ultralytics' 10 of
)
# 100: what is predicted on are whole images


def divided(
    train_set: SizedDataset, val_set: SizedDataset | None, config: TrainConfig
) -> tuple[SizedDataset, SizedDataset | None]:
    """The training and validation sets after ``val_fraction``, which excludes a validation set."""
    if not config.val_fraction:
        return train_set, val_set
    if val_set is not None:
        raise ValueError("val_fraction beside a validation set: expected one of the two")
    return divide(train_set, config.val_fraction, config.seed)


def check_objects(train_set: Dataset) -> None:
    """Refuse data without an object to learn from; looks at annotations, loads no image."""
    target_of = getattr(train_set, "target", None)
    if target_of is None or not len(train_set):
        return
    if not any((target_of(i)["iscrowd"] == 0).any() for i in range(len(train_set))):
        raise ValueError(
            f"nothing to learn: none of the {len(train_set)} training images has an object that "
            "can be used; see the defects, and that the annotations are not empty or all crowds"
        )


def check_overlap(train_set: Dataset, val_set: Dataset) -> None:
    """Refuse images that are in both sets, by a ValueError that names one."""
    found = shared_images(train_set, val_set)
    if found:
        raise ValueError(
            f"{len(found)} of the {len(val_set)} validation images are trained on too, such as "
            f"{found[0]}: expected other images, or --allow-overlap (allow_overlap=True)"
        )


def check_needs(model: Detector, train_set: Dataset, val_set: Dataset | None = None) -> None:
    """Refuse data that lack the masks or proposals that a model learns from or needs to predict."""
    kind = type(model).__name__
    # of other data sets than ``open_dataset``'s the first step will tell
    if model.needs_masks and getattr(train_set, "masks", True) is False:
        raise ValueError(
            f"a {kind} learns masks, and the data was opened without: expected "
            "open_dataset(..., masks=True), or masks=None for those that it has"
        )
    if not getattr(model, "needs_proposals", False):
        return
    for dataset in (train_set, val_set):
        items = getattr(dataset, "items", ())
        if any(item.proposals is None for item in items):
            raise ValueError(
                f"a {kind} needs proposals, and the data has none: expected "
                "mlx_rcnn.data.with_proposals(dataset, ...)"
            )


def augmentation(config: TrainConfig, train_set: SizedDataset) -> Compose | None:
    """What happens to each image before it is trained on; ``None`` for nothing."""
    steps: list[Augmentation] = []
    if config.mosaic:
        steps.append(Mosaic(train_set, config.mosaic))
    if config.hflip:
        # Without names no model is here that learns the keypoints.
        names = getattr(train_set, "keypoint_names", None) or ()
        steps.append(HorizontalFlip(config.hflip, names, config.keypoint_pairs))
    if config.vflip:
        steps.append(VerticalFlip(config.vflip))
    if config.rotate90:
        steps.append(RandomRotate90(config.rotate90))
    if config.scale_jitter is not None:
        steps.append(ScaleJitterCrop(scale=config.scale_jitter))
    if config.colour_jitter:
        steps.append(ColourJitter().scaled(config.colour_jitter))
    return Compose(steps) if steps else None


def make_loader(
    train_set: SizedDataset, config: TrainConfig, group: mx.distributed.Group
) -> Loader:
    """A loader of this machine's share of the data."""
    thresh = config.repeat_thresh
    last = None
    if config.mosaic and (without := config.epochs // MOSAIC_LAST):
        last = config.epochs - without, augmentation(replace(config, mosaic=0.0), train_set)
    return Loader(
        train_set,
        config.images,
        seed=config.seed,
        augment=augmentation(config, train_set),
        rank=group.rank(),
        world_size=group.size(),
        workers=config.workers,
        max_unreadable=config.max_unreadable,
        last_augment=last,
        repeats=repeat_factors(train_set, thresh) if thresh else None,
    )


def batches_of(loader: Loader, epoch: int, start: int) -> Generator[TrainBatch, None, None]:
    """One epoch's batches as a generator, so that leaving it early ends the loader's threads."""
    yield from loader.epoch(epoch, start=start)
