"""Batches for training: their order, and loading them ahead in threads."""

from __future__ import annotations

import math
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ..inputs.images import ImageError
from .augment import Augmentation
from .balance import draw_repeats, epoch_images
from .protocols import SizedDataset
from .sample import Sample, Target

# Width over height falls between these: 2^(-1 .. 1) in six steps, as torchvision groups images.
_ASPECTS = 2.0 ** np.linspace(-1, 1, 7)
_ORDER, _AUGMENT = 0, 1  # streams of random numbers
Turn = tuple[int, int]  # an image, and how often it came up before in its epoch


class TrainBatch(NamedTuple):
    """What ``get_loss`` takes, and whose it is.

    Args:
        images: (H, W, 3) uint8, one an image.
        targets: one an image, see :class:`~mlx_rcnn.data.Sample`.
        image_ids, names: one an image.
    """

    images: list[np.ndarray]
    targets: list[Target]
    image_ids: list[int | str]
    names: list[str]


class Loader:
    """Batches of a dataset, loaded ahead by threads.

    The order is a function of (seed, epoch, rank) alone, and an image's augmentation of (seed,
    epoch, image, and how often it came up before in it): neither depends on threads, on where an
    epoch was resumed, or on the number of machines. Batches hold images of similar aspect ratio, as
    far as there are enough; those left over of each ratio are put together. ``world_size`` machines
    at ``batch_size`` take the images that one at ``world_size * batch_size`` takes in a step.

    Args:
        dataset: with ``len``, indexing that gives a :class:`Sample`, and ``sizes``.
        batch_size: images a batch and machine.
        seed: of order and augmentation. Default: ``0``.
        augment: ``(image, target, rng) -> (image, target)``. Default: none.
        rank, world_size: this machine of how many. Defaults: ``0`` and ``1``.
        workers: threads; 0 loads when asked. Default: ``2``.
        shuffle: ``False`` keeps the dataset's order, and groups nothing. Default: ``True``.
        drop_last: leave out what does not fill a batch. Otherwise it is a smaller one, filled from
            the start of the order where machines would get unequal shares. Default: ``True``.
        prefetch: batches loaded ahead. Default: ``3``.
        max_unreadable: share of the images, rounded up, that may be unreadable; each is named once
            in a warning, and the next one that can be read takes its place. Default: ``0.1``.
        last_augment: an epoch, and what is done from there on in place of ``augment``. Default:
            none, no change.
        repeats: how many times an epoch each image comes up, (N,), at least 1, on average over
            epochs (:func:`~mlx_rcnn.data.repeat_factors`). Default: once.

    Raises:
        ValueError: a number out of range, fewer images than a step takes, or ``repeats`` that are
            not one an image or not shuffled.
    """

    def __init__(
        self,
        dataset: SizedDataset,
        batch_size: int,
        *,
        seed: int = 0,
        augment: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        shuffle: bool = True,
        drop_last: bool = True,
        prefetch: int = 3,
        max_unreadable: float = 0.1,
        last_augment: tuple[int, Augmentation | None] | None = None,
        repeats: np.ndarray | None = None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("world_size", world_size, 1),
            ("workers", workers, 0),
            ("prefetch", prefetch, 1),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name}={value}: expected at least {least}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}: expected 0 to {world_size - 1}")
        step = batch_size * world_size
        if len(dataset) < (step if drop_last else 1):
            raise ValueError(
                f"{len(dataset)} images, but a step takes {step} "
                f"(batch_size {batch_size}, {world_size} machines): expected a smaller batch_size"
            )
        if repeats is not None:
            repeats = np.asarray(repeats, np.float64)
            if repeats.shape != (len(dataset),) or not (repeats >= 1).all() or not shuffle:
                raise ValueError(
                    f"repeats of shape {repeats.shape} and shuffle={shuffle}: expected "
                    f"({len(dataset)},), each at least 1, and shuffle=True"
                )
        self.repeats, self.last_augment = repeats, last_augment
        self.dataset, self.batch_size, self.seed, self.augment = dataset, batch_size, seed, augment
        self.rank, self.world_size, self.workers = rank, world_size, workers
        self.shuffle, self.drop_last, self.prefetch = shuffle, drop_last, prefetch
        self._allowed = math.ceil(max_unreadable * len(dataset))
        self.unreadable: dict[int, str] = {}
        sizes = np.asarray(dataset.sizes, np.float64)
        self._groups = np.searchsorted(_ASPECTS, sizes[:, 1] / sizes[:, 0], side="right")

    def __len__(self) -> int:
        """Batches an epoch."""
        step = self.batch_size * self.world_size
        count = len(self.dataset) if self.repeats is None else epoch_images(self.repeats)
        whole, rest = divmod(count, step)
        return whole + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> list[list[int]]:
        """Which images this machine sees.

        Args:
            epoch: 0, 1, ...

        Returns:
            Indices, one list a batch.
        """
        return [[index for index, _ in turns] for turns in self._turns(epoch)]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TrainBatch]:
        """The batches of one epoch, in order.

        Args:
            epoch: 0, 1, ...
            start: the first batch wanted, for resuming. Default: ``0``.

        Yields:
            Batches ``start`` to ``len(self) - 1``.

        Raises:
            Exception: whatever the dataset raises for an image, when its batch is due.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start={start}: expected 0 to {len(self)}")
        order = self._turns(epoch)[start:]
        if self.workers == 0:
            for turns in order:
                yield _collate([self._load(turn, epoch) for turn in turns])
            return
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="mlx_rcnn-loader")
        try:
            waiting: deque[list[Future[Sample]]] = deque()
            for turns in order:
                waiting.append([pool.submit(self._load, turn, epoch) for turn in turns])
                if len(waiting) > self.prefetch:
                    yield _collate([future.result() for future in waiting.popleft()])
            while waiting:
                yield _collate([future.result() for future in waiting.popleft()])
        finally:  # also when the caller leaves early
            pool.shutdown(wait=True, cancel_futures=True)

    def _turns(self, epoch: int) -> list[list[Turn]]:
        """The batches of this machine."""
        step = self.batch_size * self.world_size
        steps = self._steps(epoch, step)
        if self.world_size > 1 and len(steps[-1]) < step:
            flat = [turn for turns in steps for turn in turns]
            steps[-1] = [*steps[-1], *(flat * step)][:step]
        mine = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        return [turns[mine] for turns in steps]

    def _steps(self, epoch: int, step: int) -> list[list[Turn]]:
        """Every step of all machines."""
        count = len(self.dataset)
        if not self.shuffle:
            turns = [(index, 0) for index in range(count)]
            steps = [turns[i : i + step] for i in range(0, count, step)]
        else:
            rng = np.random.default_rng([_ORDER, self.seed, epoch])
            open_steps: dict[int, list[Turn]] = {}
            steps = []
            for turn in self._shuffled(rng):
                group = int(self._groups[turn[0]])
                turns = open_steps.setdefault(group, [])
                turns.append(turn)
                if len(turns) == step:
                    steps.append(open_steps.pop(group))
            # By aspect ratio, so that those put together are as alike as can be; from a start that
            # changes, so that it is not always the widest that are left out.
            rest = [turn for group in sorted(open_steps) for turn in open_steps[group]]
            first = int(rng.integers(len(rest))) if rest else 0
            rest = rest[first:] + rest[:first]
            steps += [rest[i : i + step] for i in range(0, len(rest), step)]
        return steps[: len(self)]

    def _shuffled(self, rng: np.random.Generator) -> Iterator[Turn]:
        images = len(self.dataset) if self.repeats is None else draw_repeats(self.repeats, rng)
        times: Counter[int] = Counter()
        for index in rng.permutation(images).tolist():
            yield index, times[index]
            times[index] += 1

    def _load(self, turn: Turn, epoch: int) -> Sample:
        sample, index = self._readable(turn[0])
        augment, last = self.augment, self.last_augment
        if last is not None and epoch >= last[0]:
            augment = last[1]
        if augment is None:
            return sample
        again = [turn[1]] if turn[1] else []
        rng = np.random.default_rng([_AUGMENT, self.seed, epoch, index, *again])
        image, target = augment(sample.image, sample.target, rng)
        return sample._replace(image=image, target=target)

    def _readable(self, index: int) -> tuple[Sample, int]:
        """The image, or the next one that can be read: every machine's batches stay as large."""
        for turn in range(len(self.dataset)):
            at = (index + turn) % len(self.dataset)
            try:
                return self.dataset[at], at
            except (ImageError, OSError) as error:
                if at not in self.unreadable:
                    self.unreadable[at] = " ".join(str(error).split())
                    warnings.warn(f"{self.unreadable[at]}: image left out", stacklevel=2)
                if len(self.unreadable) > self._allowed:
                    raise ImageError(
                        f"{len(self.unreadable)} of {len(self.dataset)} images cannot be read, "
                        f"more than max_unreadable allows; the last: {self.unreadable[at]}"
                    ) from error
        raise ImageError("no image can be read")


def _collate(samples: list[Sample]) -> TrainBatch:
    images, targets, ids, names = zip(*samples, strict=True)
    return TrainBatch(list(images), list(targets), list(ids), list(names))
